"""Cross-entropy, the loss that all others are compared with."""

from __future__ import annotations

from mindspore import ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, expected, mass
from .softmax import centred, log_sum_exp


def cross_entropy(logits, labels):
    """-log p_y, p = softmax(z), for every image; with soft labels t: -sum_c t_c log p_c.

    Args:
        logits: z (B, C) float32.
        labels: class ids (B,) int32, or target distributions (B, C) float32.

    Returns:
        (loss (B,), weight (B,)): float32, all weights 1.
    """
    x = centred(logits)
    loss = mass(labels) * log_sum_exp(x) - expected(x, labels)
    return loss, ops.ones_like(loss)


@LOSSES.register("ce")
class CrossEntropy(Loss):
    """L_i = -log softmax(z_i)_{y_i}, mean over the batch.

    Args:
        class_counts, class_weights, reduction, denominator: see `Loss`; the counts are checked, cross-entropy itself has no
            use for them.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = CrossEntropy()
        >>> print(f"{float(loss(Tensor([[2.0, 0.0]]), Tensor([0]))):.4f}")
        0.1269
    """

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

    def terms(self, logits, labels, features, teacher_logits, draws):
        return cross_entropy(logits, labels)
