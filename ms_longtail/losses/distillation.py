"""Knowledge distillation, plain."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from mindspore import ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss
from .cross_entropy import cross_entropy
from .softmax import centred, log_sum_exp


def distillation(logits, teacher_logits, temperature: float):
    """T^2 CE(softmax(t / T), softmax(z / T)) for every image.

    Args:
        logits, teacher_logits: z and t, (B, C) float32; temperature: T.

    Returns:
        (B,) float32.
    """
    x = centred(logits * (1 / temperature))
    e = ops.exp(centred(teacher_logits * (1 / temperature)))  # the target, not yet divided by its sum
    return temperature**2 * (log_sum_exp(x) - (e * x).sum(axis=1) / e.sum(axis=1))


@LOSSES.register("kd")
class KnowledgeDistillation(Loss):
    """L_i = -log p_y + T^2 CE(softmax(t / T), softmax(z / T)), t the teacher's logits.

    Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2 (https://arxiv.org/abs/1503.02531), with both
    terms in full as in He et al., "Bag of Tricks for Image Classification", CVPR 2019, section 5.3
    (https://arxiv.org/abs/1812.01187). No gradient reaches the teacher.

    Args:
        temperature: T, 20 by default (He et al. on ImageNet).
        class_counts: not needed.
        class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions, teacher_logits (B, C) -> scalar, or (B,)
    with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = KnowledgeDistillation(temperature=1.0)
        >>> z = Tensor([[0.0, 0.0]])
        >>> print(f"{float(loss(z, Tensor([0]), None, z)):.4f}")                  # 2 log 2
        1.3863
    """

    needs = ("teacher_logits",)
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        temperature: Annotated[float, Gt(0)] = 20.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.temperature = temperature

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = cross_entropy(logits, labels)
        return loss + distillation(logits, teacher_logits, self.temperature), weight
