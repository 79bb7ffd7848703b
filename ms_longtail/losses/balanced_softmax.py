"""Balanced softmax: the training set's class frequencies inside the softmax."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss
from .cross_entropy import cross_entropy


def shifted_cross_entropy(logits, labels, shift):
    """Cross-entropy of z + b.

    Args:
        logits: z (B, C) float32; labels: (B,) int32 or (B, C) float32; shift: b (C,) float32.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    return cross_entropy(logits + shift, labels)


@LOSSES.register("balanced_softmax")
class BalancedSoftmax(Loss):
    """L_i = -log( n_y e^{z_y} / sum_c n_c e^{z_c} ), that is, cross-entropy of z + log n.

    Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition", NeurIPS 2020, section 3.1,
    eq. 4 (https://arxiv.org/abs/2007.10740). Test on z itself.

    Args:
        class_counts, class_weights, reduction, denominator: see `Loss`. No setting of its own.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = BalancedSoftmax(class_counts=[3, 1])
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([1]))):.4f}")        # log 4
        1.3863
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.shift = Tensor(np.log(self.counts), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return shifted_cross_entropy(logits, labels, self.shift)
