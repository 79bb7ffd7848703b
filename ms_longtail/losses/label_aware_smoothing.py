"""Label-aware smoothing: frequent classes are smoothed more than rare ones."""

from __future__ import annotations

from typing import Annotated, Literal

import mindspore as ms
import numpy as np
from annotated_types import Ge, Lt
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, of_class
from .label_smoothing import smoothed_cross_entropy

SHAPES = {
    "concave": lambda x, head, tail: tail + (head - tail) * np.sin(x * np.pi / 2),
    "linear": lambda x, head, tail: tail + (head - tail) * x,
    "convex": lambda x, head, tail: head + (head - tail) * np.sin(1.5 * np.pi + x * np.pi / 2),
}


@LOSSES.register("label_aware_smoothing")
class LabelAwareSmoothing(Loss):
    """L_i = (1 - eps_y) (-log p_y) + eps_y mean_c (-log p_c), where eps grows with the class's size from `tail` to `head`.

    With x = (n_y - n_min) / (n_max - n_min): concave eps = t + (h - t) sin(x pi / 2), linear t + (h - t) x,
    convex h + (h - t) sin(3 pi / 2 + x pi / 2).

    Zhong et al., "Improving Calibration for Long-Tailed Recognition" (MiSLAS), CVPR 2021, section 3.2
    (https://arxiv.org/abs/2104.00466), the loss of its second stage. Where all classes are of one size x would be 0 / 0; then
    eps = `tail` everywhere.

    Args:
        head: h, .4 by default (the authors' for CIFAR-100-LT; .3 for CIFAR-10-LT).
        tail: t, .1 by default (CIFAR-100-LT; 0 for CIFAR-10-LT).
        shape: "concave" (default), "linear" or "convex".
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, tail > head, and what `Loss` refuses.

    Example:
        >>> loss = LabelAwareSmoothing(class_counts=[100, 1], head=0.4, tail=0.0)
        >>> print(f"{float(loss(Tensor([[5.0, 0.0]]), Tensor([0]))):.4f}")        # .0067 + .4 * 5 / 2
        1.0067
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        head: Annotated[float, Ge(0), Lt(1)] = 0.4,
        tail: Annotated[float, Ge(0), Lt(1)] = 0.1,
        shape: Literal["concave", "linear", "convex"] = "concave",
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        if tail > head:
            raise ValueError(f"tail = {tail}: must be at most head = {head}; the head is smoothed more than the tail")
        n, low, high = self.counts, self.counts.min(), self.counts.max()
        place = (n - low) / (high - low) if high > low else np.zeros_like(n)
        self.smoothing = Tensor(SHAPES[shape](place, head, tail), ms.float32)  # eps (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        eps = of_class(self.smoothing, labels)  # (B,)
        if labels.ndim == 2:
            # the mean over the label's classes of a loss that is linear in the label
            labels = labels * (1.0 - self.smoothing)
            return smoothed_cross_entropy(logits, labels, 1.0, eps / logits.shape[1])
        return smoothed_cross_entropy(logits, labels, 1.0 - eps, eps / logits.shape[1])
