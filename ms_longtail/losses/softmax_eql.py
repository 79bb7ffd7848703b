"""Softmax equalization with gradients: a class is pushed down the less, the less it has been pulled up so far."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt
from mindspore import Parameter, Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .balanced_softmax import shifted_cross_entropy
from .base import Denominator, Loss, image_weights


def gradient_shift(gradient, tau: float, eps: float):
    """tau log max(G, eps), (C,)."""
    # xlogy, since the CPU's log changes its last digit with the address of its input, and a resumed run must not
    return ops.xlogy(Tensor(tau, ms.float32), ops.maximum(gradient, eps))


@LOSSES.register("softmax_eql")
class SoftmaxEQL(Loss):
    """L_i = -log( e^{z_y} / (e^{z_y} + sum_{j != y} (G_j / G_y)^tau e^{z_j}) ), G the gradients that classes had as positives.

    G_j = sum over steps of sum_{i: y_i = j} |dL/dz_ij| of the mean loss, from 0, taken as at least eps: that is, cross-entropy
    of z + tau log max(G, eps). A class with few images has a small G, and other images push it down less.

    Tan et al., "The Equalization Losses: Gradient-Driven Training for Long-tailed Object Recognition", TPAMI 2023
    (https://arxiv.org/abs/2210.05566), the softmax form. Test on z itself.

    The sums are a parameter, saved with the others. It changes in `update`, once after each step.

    Args:
        tau: 1 by default. 0 gives cross-entropy.
        eps: 1e-4 by default.
        class_counts: only their number is used; class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = SoftmaxEQL(class_counts=[10, 10])
        >>> z, y = Tensor([[0.0, 0.0]]), Tensor([0])
        >>> _ = loss.update(z, y)                                                 # G = (.5, 0)
        >>> print(f"{float(loss(z, y)):.4f}")                                     # log(1 + .0001 / .5)
        0.0002
    """

    needs_counts = True
    stateful = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        tau: Annotated[float, Ge(0)] = 1.0,
        eps: Annotated[float, Gt(0)] = 1e-4,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.tau, self.eps = tau, eps
        self.observed_shape = (self.num_classes,)
        zeros = Tensor(np.zeros(self.num_classes, np.float32))
        self.gradient = Parameter(zeros, name="softmax_eql.gradient", requires_grad=False)  # G (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return shifted_cross_entropy(logits, labels, gradient_shift(self.gradient, self.tau, self.eps))

    def observe(self, logits, labels, share=None):
        labels = labels.astype(ms.int32)
        loss, _ = shifted_cross_entropy(
            ops.stop_gradient(logits.astype(ms.float32)), labels, gradient_shift(self.gradient, self.tau, self.eps)
        )
        weight = image_weights(self.class_weights, labels, share)
        # |dL/dz_y| = 1 - p_y for every image, before the division by the denominator
        return ops.unsorted_segment_sum(-weight * ops.expm1(-loss), labels, logits.shape[1])

    def absorb(self, observed, denominator):
        ops.assign(self.gradient, self.gradient + observed / denominator)
        return denominator
