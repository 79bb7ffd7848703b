"""Cost-sensitive cross-entropy: every class has the same say, whatever its size."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, of_class
from .cross_entropy import cross_entropy
from .weights import cost_sensitive


def weighted_cross_entropy(logits, labels, weights):
    """Cross-entropy whose weight is that of the label.

    Args:
        logits: (B, C) float32; labels: (B,) int32 or (B, C) float32; weights: (C,) float32.

    Returns:
        (loss (B,), weight (B,)).
    """
    loss, _ = cross_entropy(logits, labels)
    return loss, of_class(weights, labels)


@LOSSES.register("cs_ce")
class CostSensitiveCE(Loss):
    """Cross-entropy weighted by w_c = (n_min / n_c)^gamma.

    sum_i w_{y_i} (-log p_{i,y_i}) / sum_i w_{y_i}

    Inverse-frequency weighting, `CS_CE` of the bag of tricks (Zhang et al., AAAI 2021, section "Re-weighting",
    https://doi.org/10.1609/aaai.v35i4.16458). From the first epoch on it harms the head; as the loss of a last stage
    (deferred re-weighting) it is among the best.

    Args:
        gamma: 1, the inverse frequency, by default; 0.5 for its square root; 0 gives cross-entropy.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = CostSensitiveCE(class_counts=[100, 1], reduction="none")
        >>> print(loss(Tensor([[0.0, 0.0], [0.0, 0.0]]), Tensor([0, 1])).asnumpy().round(4))
        [0.0069 0.6931]
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        gamma: Annotated[float, Ge(0)] = 1.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.weights = Tensor(cost_sensitive(self.counts, gamma), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return weighted_cross_entropy(logits, labels, self.weights)
