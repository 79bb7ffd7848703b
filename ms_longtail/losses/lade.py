"""LADE: balanced softmax, and logits that tell the label distribution apart from what the image says."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge
from mindspore import Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .balanced_softmax import shifted_cross_entropy
from .base import Denominator, Loss, expected, of_class
from .softmax import log_sum_exp


def lade(logits, labels, prior, regularizer: float):
    """The regularised Donsker-Varadhan term L_lade of a batch, a scalar; see `LADE`.

    Args:
        logits: z (B, C) float32; labels: (B,) int32; prior: pi (C,) float32; regularizer: lambda.
    """
    batch, classes = logits.shape
    same = (labels.expand_dims(1) == labels.expand_dims(0)).astype(ms.float32)  # (B, B)
    count = same.sum(axis=1)  # (B,), images of the image's class in the batch
    # sum_c pi_c a_c, written over images: a class that is absent adds nothing
    own = (of_class(prior, labels) * expected(logits, labels) / (count + 1e-8)).sum()
    largest = ops.stop_gradient(logits.max(axis=0))  # (C,)
    spread = log_sum_exp(logits - largest, 0) + largest - ops.log(prior) - np.log(classes * batch)  # b (C,)
    return (prior * (spread + regularizer * spread.square())).sum() - own


@LOSSES.register("lade")
class LADE(Loss):
    """L_i = balanced softmax + alpha L_lade, where the second term belongs to the batch and is added to every image.

    L_lade = -sum_c pi_c (a_c - b_c - lambda b_c^2), with a_c the mean of z_c over the batch's images of class c (0 for an
    absent class) and b_c = log( (1/B) sum_i (1/C) e^{z_ic} / pi_c ).

    Hong et al., "Disentangling Label Distribution for Long-tailed Visual Recognition", CVPR 2021,
    section 3.4, eqs. 18 to 20 (https://arxiv.org/abs/2012.00321).
    Test on z itself. Where a batch is cut into micro-batches or over workers, L_lade is that
    of each part.

    Args:
        alpha: .1 by default (the paper's for CIFAR-100-LT at IF 100, table 7; .01 at IF 10 and 50, .5 on ImageNet-LT).
        lambda_: .01 by default (CIFAR-100-LT; .05 on ImageNet-LT).
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = LADE(class_counts=[3, 1], alpha=0.0)
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([1]))):.4f}")        # balanced softmax: log 4
        1.3863
    """

    needs_counts = True
    batchwise = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        alpha: Annotated[float, Ge(0)] = 0.1,
        lambda_: Annotated[float, Ge(0)] = 0.01,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.alpha, self.regularizer = alpha, lambda_
        self.shift = Tensor(np.log(self.counts), ms.float32)  # (C,)
        self.prior = Tensor(self.counts / self.counts.sum(), ms.float32)  # pi (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = shifted_cross_entropy(logits, labels, self.shift)
        return loss + self.alpha * lade(logits, labels, self.prior, self.regularizer), weight
