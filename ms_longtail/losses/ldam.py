"""LDAM: a margin on the true class, the larger the rarer the class is."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Gt
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, of_class, one_hot
from .cross_entropy import cross_entropy


def ldam(logits, labels, margins, scale: float):
    """Cross-entropy of s (z - m_y on the true class).

    Args:
        logits: z (B, C) float32, cosines; labels: (B,) int32; margins: m (C,) float32; scale: s.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    margin = of_class(margins, labels).expand_dims(1)  # (B, 1)
    return cross_entropy(scale * (logits - margin * one_hot(labels, logits.shape[1])), labels)


@LOSSES.register("ldam")
class LDAM(Loss):
    """L_i = -log softmax(s (z - m_y e_y))_y with m_c proportional to n_c^(-1/4), the largest margin being `max_margin`.

    Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019, section 3.2,
    eqs. 12 and 13 (https://arxiv.org/abs/1906.07413). The margin is taken off before the scale, as in the authors' code.

    The logits must be cosines: use it with the cosine classifier (both sides of length 1, no bias). The paper's deferred
    re-weighting (LDAM-DRW) is a second stage with `class_weights` from the effective number, beta .9999.

    Args:
        max_margin: margin of the rarest class, default .5 (authors' code).
        scale: s, default 30 (authors' code).
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = LDAM(class_counts=[10000, 1], scale=1.0)          # margins .05 and .5
        >>> print(f"{float(loss(Tensor([[0.5, 1.0]]), Tensor([1]))):.4f}")        # the margin makes it a draw
        0.6931
    """

    needs_counts = True
    head = "cosine"

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        max_margin: Annotated[float, Gt(0)] = 0.5,
        scale: Annotated[float, Gt(0)] = 30.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        margins = self.counts**-0.25
        self.margins = Tensor(margins * (max_margin / margins.max()), ms.float32)  # (C,)
        self.scale = scale

    def terms(self, logits, labels, features, teacher_logits, draws):
        return ldam(logits, labels, self.margins, self.scale)
