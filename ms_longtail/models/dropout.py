"""Dropout before the classifier, with choices that follow from draw numbers."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn

from ..hashing_ops import below, bound, column_keys, row_keys


class Dropout(nn.Cell):
    """f_j -> m_j f_j / (1 - p) in training, m_j = 0 with probability p; f itself otherwise.

    Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", JMLR 2014, section 4, in the form
    that scales in training, so that nothing is left to be done at test time. m is a hash of (seed, draw number, j): a run that is
    resumed, or cut into other micro-batches or among other workers, leaves out the same.

    Args:
        p: probability, 0 <= p < 1. size: D. seed: of the choices.

    Shapes: features (B, D), draws (B,) integers -> (B, D).

    Raises:
        ValueError: no draw numbers in training.
    """

    def __init__(self, p: float, size: int, seed: int = 0):
        super().__init__()
        self.p, self.bound = p, bound(p)
        self.columns = column_keys(seed, "dropout", size).reshape(1, -1)

    def construct(self, features, draws=None):
        if not self.training:
            return features
        if draws is None:
            raise ValueError("dropout in training needs the images' draw numbers")
        # The hash of 0 is 0, whatever the column: draw 0 would leave nothing out.
        out = below(row_keys(draws + 1), self.columns, self.bound)  # (B, D)
        return features * (1.0 - out.astype(ms.float32)) * (1.0 / (1.0 - self.p))
