"""Class-dependent temperatures: rare classes must reach larger logits in training than they need in testing."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss
from .cross_entropy import cross_entropy


@LOSSES.register("cdt")
class CDT(Loss):
    """L_i = -log softmax(z / D)_y with D_c = (n_max / n_c)^gamma.

    Ye et al., "Identifying and Compensating for Feature Deviation in Imbalanced Deep Learning", 2020
    (https://arxiv.org/abs/2001.01385), class-dependent temperatures. Test on z itself. Not invariant to a shift of all
    logits.

    Args:
        gamma: .2 by default (the paper's for CIFAR-100-LT); .3 for CIFAR-10-LT, .1 for iNaturalist; 0 gives cross-entropy.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = CDT(class_counts=[16, 1], gamma=0.5)                            # temperatures 1 and 4
        >>> print(f"{float(loss(Tensor([[1.0, 4.0]]), Tensor([1]))):.4f}")        # log 2
        0.6931
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        gamma: Annotated[float, Ge(0)] = 0.2,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.factor = Tensor((self.counts / self.counts.max()) ** gamma, ms.float32)  # (C,), 1 / D

    def terms(self, logits, labels, features, teacher_logits, draws):
        return cross_entropy(logits * self.factor, labels)
