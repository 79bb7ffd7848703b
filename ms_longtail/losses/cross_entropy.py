"""Cross-entropy, the loss that all others are compared with."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from ..registry import LOSSES
from .base import Loss


def cross_entropy(logits, labels):
    """-log p_y, p = softmax(z), for every image.

    Args:
        logits: z (B, C) float32.
        labels: class ids (B,) of any integer dtype, or target distributions (B, C).

    Returns:
        (loss (B,), weight (B,)): float32, all weights 1.
    """
    log_p = ops.log_softmax(logits, axis=-1)  # (B, C)
    if labels.ndim == 2:
        loss = -(labels.astype(ms.float32) * log_p).sum(axis=-1)
    else:
        loss = -ops.gather_elements(log_p, 1, labels.astype(ms.int32).expand_dims(1)).squeeze(1)
    return loss, ops.ones_like(loss)


@LOSSES.register("ce")
class CrossEntropy(Loss):
    """L_i = -log softmax(z_i)_{y_i}, mean over the batch.

    Args:
        class_counts: checked like every loss does; cross-entropy itself has no use for them.
        reduction: "mean", "sum" or "none".

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with "none".

    Example:
        >>> loss = CrossEntropy(class_counts=[100, 10])
        >>> float(loss(Tensor([[2.0, 0.0]]), Tensor([0], ms.int32)))        # doctest: +SKIP
        0.1269
    """

    def __init__(self, *, class_counts=None, reduction: str = "mean"):
        super().__init__(class_counts=class_counts, reduction=reduction)

    def elements(self, logits, labels, features=None, teacher_logits=None):
        return cross_entropy(logits, labels)
