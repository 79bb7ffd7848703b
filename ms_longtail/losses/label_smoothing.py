"""Label smoothing: a little of the label's mass on all classes."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Lt
from mindspore import ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, expected, mass
from .softmax import centred, log_sum_exp


def smoothed_cross_entropy(logits, labels, true_share, other_share):
    """-a log p_y - b sum_c log p_c, for a share a on the true class beside b on every class.

    Args:
        logits: (B, C) float32; labels: (B,) int32 or (B, C) float32.
        true_share, other_share: a and b, numbers or (B,) float32.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    x = centred(logits)  # (B, C)
    log_partition = log_sum_exp(x)  # (B,)
    loss = true_share * (mass(labels) * log_partition - expected(x, labels))
    loss = loss + other_share * (logits.shape[1] * log_partition - x.sum(axis=1))
    return loss, ops.ones_like(loss)


@LOSSES.register("label_smoothing")
class LabelSmoothing(Loss):
    """Cross-entropy with the target (1 - eps) t + eps / C.

    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7
    (https://arxiv.org/abs/1512.00567).

    Args:
        smoothing: eps, .1 by default (the paper's); 0 gives cross-entropy.
        spread: "all" (default, the paper's: eps goes to all C classes, the true one included) or "others" (eps / (C - 1) on
            the C - 1 others).
        class_counts: not needed.
        class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = LabelSmoothing(smoothing=0.5)
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([0]))):.4f}")
        0.6931
    """

    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        smoothing: Annotated[float, Ge(0), Lt(1)] = 0.1,
        spread: Literal["all", "others"] = "all",
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.smoothing, self.spread = smoothing, spread

    def terms(self, logits, labels, features, teacher_logits, draws):
        classes = logits.shape[1]
        if self.spread == "all":
            return smoothed_cross_entropy(logits, labels, 1 - self.smoothing, self.smoothing / classes)
        other = self.smoothing / (classes - 1)
        return smoothed_cross_entropy(logits, labels, 1 - self.smoothing - other, other)
