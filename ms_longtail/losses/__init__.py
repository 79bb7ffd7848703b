"""Losses as small cells: `Loss(class_counts=..., keywords)(logits, labels)`."""

from .base import Loss, sums
from .cross_entropy import CrossEntropy, cross_entropy

__all__ = ["CrossEntropy", "Loss", "cross_entropy", "sums"]
