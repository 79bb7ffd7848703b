"""Logit adjustment: the class frequencies inside the softmax, to a power."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .balanced_softmax import shifted_cross_entropy
from .base import Denominator, Loss


@LOSSES.register("logit_adjustment")
class LogitAdjustment(Loss):
    """L_i = -log softmax(z + tau log pi)_y, pi_c = n_c / N.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, section 5.1, eq. 10 (https://arxiv.org/abs/2007.07314).
    Test on z itself. With tau 1 it is the balanced softmax.

    Args:
        tau: 1 by default, which is consistent for the balanced error; 0 gives cross-entropy.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = LogitAdjustment(class_counts=[3, 1])
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
        tau: float = 1.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.shift = Tensor(tau * np.log(self.counts / self.counts.sum()), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return shifted_cross_entropy(logits, labels, self.shift)
