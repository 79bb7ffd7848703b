"""Influence-balanced loss: images that pull the decision boundary hardest are held back."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Gt
from mindspore import Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, of_class
from .cross_entropy import cross_entropy


def influence_balanced(logits, labels, features, weights, alpha: float, detach: bool):
    """Cross-entropy over the influence |p - t|_1 |f|_1, see `InfluenceBalanced`.

    Args:
        logits: (B, C) float32; labels: (B,) int32 or (B, C) float32; features: (B, D) float32; weights: (C,) float32.
        alpha: the numerator. detach: no gradient through the influence.

    Returns:
        (loss (B,), weight (B,)).
    """
    loss, _ = cross_entropy(logits, labels)
    distance = -2.0 * ops.expm1(-loss)  # |p - onehot|_1 = 2 (1 - p_y)
    if labels.ndim == 2:
        distance = (ops.softmax(logits, axis=-1) - labels).abs().sum(axis=1)
    influence = distance * features.abs().sum(axis=1) + 1e-3
    if detach:
        influence = ops.stop_gradient(influence)
    return loss * (alpha / influence), of_class(weights, labels)


@LOSSES.register("influence_balanced")
class InfluenceBalanced(Loss):
    """L_i = w_y (-log p_y) alpha / (|p - t|_1 |f|_1 + 1e-3), over the batch; w_c proportional to 1 / n_c, with mean 1.

    Park et al., "Influence-Balanced Loss for Imbalanced Visual Classification", ICCV 2021, section 3.5,
    eq. 6 (https://arxiv.org/abs/2110.02444). f are the features before the classifier. It is meant for the later part of a
    training that began with cross-entropy. As in the authors' code the gradient goes through the influence as well.

    Args:
        alpha: 1000 by default (the authors' for CIFAR).
        detach: take the influence as a constant; False by default.
            With features that are all zero the gradient is of the size alpha / .001: too large for float16 logits.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions, features (B, D) -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = InfluenceBalanced(class_counts=[10, 10], alpha=1.0)
        >>> value = loss(Tensor([[0.0, 0.0]]), Tensor([0]), Tensor([[1.0, -1.0]]))
        >>> print(f"{float(value):.4f}")                                          # log 2 / (1 * 2 + .001)
        0.3464
    """

    needs = ("features",)
    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        alpha: Annotated[float, Gt(0)] = 1000.0,
        detach: bool = False,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "batch",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        weights = 1 / self.counts
        self.weights = Tensor(weights / weights.mean(), ms.float32)  # (C,)
        self.alpha, self.detach = alpha, detach

    def terms(self, logits, labels, features, teacher_logits, draws):
        return influence_balanced(logits, labels, features, self.weights, self.alpha, self.detach)
