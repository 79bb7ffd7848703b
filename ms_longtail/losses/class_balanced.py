"""Class-balanced losses: weights from the effective number of images, on cross-entropy and on the focal loss."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge, Lt
from mindspore import Tensor

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, of_class
from .cost_sensitive import weighted_cross_entropy
from .focal import Form, focal
from .weights import effective_number


@LOSSES.register("cb_ce")
class ClassBalancedCE(Loss):
    """Cross-entropy weighted by w_c = (1 - beta) / (1 - beta^n_c), the inverse effective number, scaled to mean 1.

    sum_i w_{y_i} (-log p_{i,y_i}) / sum_i w_{y_i}

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, section 4.1,
    eq. 8 (https://arxiv.org/abs/1901.05555).

    Args:
        beta: .9999 by default, one of the values the paper searches (.9, .99, .999, .9999); the bag of tricks uses .999.
            0 gives cross-entropy.
        class_counts, class_weights, reduction, denominator: see `Loss`. The authors' code divides by the batch, which
            `denominator="batch"` does; the default is the usual weighted mean.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,)
    with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = ClassBalancedCE(class_counts=[1000, 1], reduction="none")
        >>> each = loss(Tensor([[0.0, 0.0], [0.0, 0.0]]), Tensor([0, 1])).asnumpy()
        >>> 900 < each[1] / each[0] < 1000
        True
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.9999,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.weights = Tensor(effective_number(self.counts, beta), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        return weighted_cross_entropy(logits, labels, self.weights)


@LOSSES.register("cb_focal")
class ClassBalancedFocal(Loss):
    """The focal loss, weighted by the label's inverse effective number, over the batch: sum_i w_{y_i} FL_i / B.

    Cui et al., CVPR 2019, section 4.3, eq. 13 (https://arxiv.org/abs/1901.05555). The weight is that of the image's label on all
    C binary terms of the image, as in the authors' code, and stays outside of the modulating factor.

    Args:
        beta: .999 by default.
        gamma: .5 by default.
        form: "sigmoid" (the paper's, default) or "softmax"; see `Focal`.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers, or (B, C) distributions in the sigmoid form -> scalar, or (B,)
    with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = ClassBalancedFocal(class_counts=[100, 100], gamma=0.0, form="softmax")
        >>> print(f"{float(loss(Tensor([[0.0, 0.0]]), Tensor([0]))):.4f}")
        0.6931
    """

    needs_counts = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        beta: Annotated[float, Ge(0), Lt(1)] = 0.999,
        gamma: Annotated[float, Ge(0)] = 0.5,
        form: Form = "sigmoid",
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "batch",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.gamma, self.form = gamma, form
        self.soft_labels = form == "sigmoid"
        self.weights = Tensor(effective_number(self.counts, beta), ms.float32)  # (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, _ = focal(logits, labels, self.gamma, self.form)
        return loss, of_class(self.weights, labels)
