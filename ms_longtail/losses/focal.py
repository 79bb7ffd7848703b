"""Focal loss: what is classified well already counts less."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge
from mindspore import ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, expected, others
from .cross_entropy import cross_entropy

Form = Literal["sigmoid", "softmax"]


def focal(logits, labels, gamma: float, form: str):
    """The focal loss of every image, see `Focal`.

    Everything is written with softplus and exp, so that no power meets a zero: with gamma < 1 the factor (1 - p)^gamma has
    an infinite slope at p = 1.

    Args:
        logits: z (B, C) float32.
        labels: (B,) int32, or (B, C) float32 with form "sigmoid".
        gamma: at least 0.
        form: "sigmoid" or "softmax".

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    if form == "softmax":
        loss, weight = cross_entropy(logits, labels)
        # 1 - p_y, kept away from 0, where the loss vanishes anyway
        rest = ops.maximum(-ops.expm1(-loss), 1e-12)
        return ops.exp(gamma * ops.log(rest)) * loss, weight
    if labels.ndim == 2:
        wrong = ops.sigmoid(-logits) * labels + ops.sigmoid(logits) * (1.0 - labels)
        cross_entropies = labels * ops.softplus(-logits) + (1.0 - labels) * ops.softplus(logits)
        loss = (ops.exp(gamma * ops.log(ops.maximum(wrong, 1e-30))) * cross_entropies).sum(axis=1)
        return loss, ops.ones_like(loss)
    z = others(logits, labels)
    negative = ops.softplus(z)  # BCE(z, 0) = -log(1 - q)
    against = negative * ops.exp(gamma * (z - negative))  # q^gamma BCE(z, 0)
    z = expected(logits, labels)
    own = ops.softplus(-z) * ops.exp(-gamma * ops.softplus(z))  # (1 - q)^gamma softplus(-z)
    loss = against.sum(axis=1) + own
    return loss, ops.ones_like(loss)


@LOSSES.register("focal")
class Focal(Loss):
    """Cross-entropy times (1 - p)^gamma, in two forms, over the batch.

    sigmoid: L_i = sum_c [(1 - q_c) t_c + q_c (1 - t_c)]^gamma BCE(z_c, t_c), q = sigmoid(z), t the one-hot label;
    softmax: L_i = (1 - p_y)^gamma (-log p_y), p = softmax(z).

    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, section 3.2, eq. 4 (https://arxiv.org/abs/1708.02002).
    The paper's detector uses sigmoids; both forms go under the same name in classification.

    Args:
        gamma: 2 by default, the paper's best; 0 gives binary, respectively softmax, cross-entropy.
        form: "sigmoid" (default) or "softmax".
        class_counts: not needed.
        class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers, or (B, C) distributions in the sigmoid form -> scalar, or (B,)
    with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = Focal(form="softmax")
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([0]))):.4f}")        # log(2) / 4
        0.1733
    """

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        gamma: Annotated[float, Ge(0)] = 2.0,
        form: Form = "sigmoid",
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "batch",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.gamma, self.form = gamma, form
        self.soft_labels = form == "sigmoid"

    def terms(self, logits, labels, features, teacher_logits, draws):
        return focal(logits, labels, self.gamma, self.form)
