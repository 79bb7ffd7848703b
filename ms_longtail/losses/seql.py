"""Softmax equalization loss: rare classes are left out of other images' softmax, at random."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge, Le
from mindspore import Parameter, Tensor, ops

from ..bounds import checked
from ..hashing_ops import below, bound, column_keys, row_keys
from ..registry import LOSSES
from .base import Denominator, Loss, expected

_OUT = -1e9  # the logit of a class that is left out; no infinity, whose gradient would be NaN


def softmax_equalization(logits, labels, left_out, own_left_out):
    """-log( e^{z_y} / sum_k w_k e^{z_k} ), w_k = 1 - left_out_k (1 - t_k).

    Args:
        logits: z (B, C) float32; labels: (B,) int32; left_out: (B, C) bool; own_left_out: the same of the label, (B,) bool.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    own = expected(logits, labels)  # (B,)
    kept = logits.masked_fill(left_out, _OUT)
    largest = ops.stop_gradient(ops.maximum(kept.max(axis=1), own))
    total = ops.exp(kept - largest.expand_dims(1)).sum(axis=1)
    # the true class is never left out: add it where the mask has taken it away
    total = total + own_left_out.astype(ms.float32) * ops.exp(own - largest)
    loss = ops.log1p(total - 1.0) - (own - largest)
    return loss, ops.ones_like(loss)


@LOSSES.register("seql")
class SEQL(Loss):
    """L_i = -log( e^{z_y} / sum_k w_k e^{z_k} ) with w_k = 1 - beta_ik T(f_k) (1 - t_k).

    T is 1 for classes whose frequency f_k = n_k / N is below lambda; beta_ik is 1 with probability gamma, drawn for every image
    and class.

    Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3.3,
    eqs. 9 to 11 (https://arxiv.org/abs/2003.05176). Written as a log-sum-exp that cannot overflow.

    The draws are a hash of (seed, draw number, class), so that a resumed run repeats them. Draw numbers are given as `draws`
    (the pipeline's column), which makes them independent of how a batch is cut; without, the cell counts the images it has
    seen in a parameter that is saved with the others, and every worker has numbers of its own.

    Args:
        lambda_: .005 by default; at that value CIFAR-10-LT has one such class at IF 100, and CIFAR-100-LT 52.
        gamma: .9 by default (the paper's on ImageNet-LT; .95 on CIFAR-100-LT). 0 gives cross-entropy.
        seed: of the draws.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = SEQL(class_counts=[999, 1], gamma=1.0)
        >>> print(f"{float(loss(Tensor([[0.0, 9.0]]), Tensor([0]))):.4f}")        # class 1 is left out
        0.0000
    """

    needs_counts = True
    random = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        lambda_: Annotated[float, Ge(0)] = 0.005,
        gamma: Annotated[float, Ge(0), Le(1)] = 0.9,
        seed: Annotated[int, Ge(0)] = 0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.gamma = gamma
        rare = self.counts / self.counts.sum() < lambda_  # T (C,)
        self.bounds = Tensor(np.where(rare, bound(gamma), bound(0.0)), ms.int32)  # frequent classes are never left out
        self.keys = column_keys(seed, "seql", self.num_classes)
        self.drawn = Parameter(Tensor(0, ms.int32), name="seql.drawn", requires_grad=False)

    def mask(self, draws):
        """beta (B, C) float32 for draw numbers (B,)."""
        return below(row_keys(draws), self.keys.expand_dims(0), bound(self.gamma)).astype(ms.float32)

    def terms(self, logits, labels, features, teacher_logits, draws):
        if draws is None:
            first = self.drawn + 0  # read before it is moved on
            draws = (first + ops.arange(logits.shape[0]).astype(ms.int32)) * self.ranks + self.rank
            ops.assign(self.drawn, first + logits.shape[0])
        rows = row_keys(draws)
        left_out = below(rows, self.keys.expand_dims(0), self.bounds.expand_dims(0))  # (B, C)
        own = below(rows.squeeze(1), ops.gather(self.keys, labels, 0), ops.gather(self.bounds, labels, 0))  # (B,)
        return softmax_equalization(logits, labels, left_out, own)
