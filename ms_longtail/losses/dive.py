"""DiVE: distil from a teacher whose predictions are flattened, so that rare classes get examples from frequent ones."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt, Le
from mindspore import Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .balanced_softmax import shifted_cross_entropy
from .base import Denominator, Loss
from .softmax import centred, log_sum_exp


def flattened_distillation(logits, teacher_logits, temperature: float, power: float):
    """T^2 KL(q || softmax(z / T)) with q = softmax(t / T)^p brought back to sum 1, which is softmax(p t / T).

    Args:
        logits, teacher_logits: z and t, (B, C) float32; temperature: T; power: p.

    Returns:
        (B,) float32.
    """
    x = centred(logits * (1 / temperature))
    t = centred(teacher_logits * (power / temperature))
    e = ops.exp(t)  # q, not yet divided by its sum
    size = e.sum(axis=1)
    return temperature**2 * ((e * (t - x)).sum(axis=1) / size - ops.log1p(size - 1.0) + log_sum_exp(x))


@LOSSES.register("dive")
class DiVE(Loss):
    """L_i = (1 - alpha) BS(z, y) + alpha T^2 KL(renorm(softmax(t / T)^p) || softmax(z / T)), BS the balanced softmax.

    He et al., "Distilling Virtual Examples for Long-tailed Recognition", ICCV 2021
    (https://arxiv.org/abs/2103.15042). t are the logits of a teacher in evaluation mode; no gradient reaches it.

    Args:
        alpha: .5 by default.
        temperature: T, 3 by default (2 and 3 are in use).
        power: p, .5 by default (the paper's); 1 leaves the teacher's prediction as it is.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions, teacher_logits (B, C) -> scalar, or (B,)
    with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = DiVE(class_counts=[3, 1], alpha=1.0)
        >>> z = Tensor([[1.0, 2.0]])
        >>> print(f"{float(loss(z, Tensor([1]), None, 2.0 * z)):.4f}")            # the flattened teacher agrees
        0.0000
    """

    needs = ("teacher_logits",)
    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        alpha: Annotated[float, Ge(0), Le(1)] = 0.5,
        temperature: Annotated[float, Gt(0)] = 3.0,
        power: Annotated[float, Gt(0)] = 0.5,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.alpha, self.temperature, self.power = alpha, temperature, power
        self.shift = Tensor(np.log(self.counts), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = shifted_cross_entropy(logits, labels, self.shift)
        virtual = flattened_distillation(logits, teacher_logits, self.temperature, self.power)
        return (1 - self.alpha) * loss + self.alpha * virtual, weight
