"""Vector scaling: a factor and a shift on every class's logit; and its half without the shift, CDT."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss
from .cross_entropy import cross_entropy


def scaled_cross_entropy(logits, labels, factor, shift):
    """Cross-entropy of a * z + b.

    Args:
        logits: z (B, C) float32; labels: (B,) int32 or (B, C) float32; factor, shift: a and b, (C,) float32.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    return cross_entropy(logits * factor + shift, labels)


@LOSSES.register("vs")
class VS(Loss):
    """L_i = -log softmax(z / D + tau log pi)_y with D_c = (n_max / n_c)^gamma, pi_c = n_c / N.

    Kini et al., "Label-Imbalanced and Group-Sensitive Classification under Overparameterization", NeurIPS 2021
    (https://arxiv.org/abs/2103.01550), the multi-class VS-loss of eq. 2, with the parameters as functions of the class
    counts. Test on z itself. tau 0 gives CDT, gamma 0 logit adjustment. Not invariant to a shift of all logits.

    Args:
        gamma: .3 by default.
        tau: 1 by default.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = VS(class_counts=[3, 1], gamma=0.0)
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([1]))):.4f}")        # log 4
        1.3863
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        gamma: Annotated[float, Ge(0)] = 0.3,
        tau: float = 1.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.factor = Tensor((self.counts / self.counts.max()) ** gamma, ms.float32)  # (C,)
        self.shift = Tensor(tau * np.log(self.counts / self.counts.sum()), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return scaled_cross_entropy(logits, labels, self.factor, self.shift)
