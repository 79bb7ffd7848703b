"""What every loss is: per-image losses and weights, and the one reducer behind all of them."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import nn, ops

REDUCTIONS = ("mean", "sum", "none")
DENOMINATORS = ("weights", "batch")


def sums(loss, weight, denominator: str):
    """(numerator, denominator) of the mean, to be added up over micro-batches and workers before dividing.

    mean = sum_i w_i L_i / sum_i w_i   with denominator "weights" (a common factor on all weights cancels), or
    mean = sum_i w_i L_i / B           with "batch" (it does not).

    Args:
        loss, weight: (B,) float32.
        denominator: "weights" or "batch".

    Returns:
        two float32 scalars.
    """
    numerator = (loss * weight).sum()
    if denominator == "weights":
        return numerator, weight.sum()
    return numerator, ops.ones_like(loss).sum()


class Loss(nn.Cell):
    """Base of all losses.

    A subclass gives `elements(logits, labels, features, teacher_logits) -> (loss (B,), weight (B,))`; this class reduces.

    Args:
        class_counts: training images per class, (C,), every entry at least 1. None where the loss does not need it.
        reduction: "mean", "sum" (of w_i L_i) or "none" (w_i L_i for every image).
        denominator: of "mean": "weights" or "batch".

    Raises:
        ValueError: an unknown reduction or denominator, a class count below 1 (the message names the class).
    """

    needs: tuple[str, ...] = ()

    def __init__(self, *, class_counts=None, reduction: str = "mean", denominator: str = "weights"):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction {reduction!r}; choose from {', '.join(REDUCTIONS)}")
        if denominator not in DENOMINATORS:
            raise ValueError(f"unknown denominator {denominator!r}; choose from {', '.join(DENOMINATORS)}")
        self.reduction, self.denominator = reduction, denominator
        self.num_classes = 0
        if class_counts is not None:
            counts = np.asarray(class_counts)
            if counts.ndim != 1 or len(counts) < 2:
                raise ValueError(f"class_counts must be a list of at least 2 numbers, got shape {counts.shape}")
            empty = np.flatnonzero(~(counts >= 1))  # a NaN is refused too
            if len(empty):
                raise ValueError(
                    f"class {empty[0]} has {counts[empty[0]]} training images; every class needs at least 1"
                )
            self.num_classes = len(counts)

    def elements(self, logits, labels, features=None, teacher_logits=None):
        raise NotImplementedError(f"{type(self).__name__} must define elements()")

    def totals(self, logits, labels, features=None, teacher_logits=None):
        """(numerator, denominator), see `sums`. (A method named like a module function confuses the graph parser.)"""
        loss, weight = self.elements(logits.astype(ms.float32), labels, features, teacher_logits)
        return sums(loss, weight, self.denominator)

    def construct(self, logits, labels, features=None, teacher_logits=None):
        loss, weight = self.elements(logits.astype(ms.float32), labels, features, teacher_logits)
        if self.reduction == "none":
            return loss * weight
        numerator, denominator = sums(loss, weight, self.denominator)
        return numerator if self.reduction == "sum" else numerator / denominator
