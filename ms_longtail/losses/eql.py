"""Equalization loss: images of other classes do not push a rare class's logit down."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge
from mindspore import Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, expected, of_class, others


def weighted_binary_cross_entropy(logits, labels, positive, negative):
    """sum_c [q_c t_c + r_c (1 - t_c)] BCE(z_c, t_c) for every image.

    Args:
        logits: z (B, C) float32; labels: (B,) int32 or (B, C) float32.
        positive, negative: q and r, the weights of a class where it is true and where it is not, (C,) float32.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    if labels.ndim == 2:
        weight = positive * labels + negative * (1.0 - labels)
        loss = (weight * (labels * ops.softplus(-logits) + (1.0 - labels) * ops.softplus(logits))).sum(axis=1)
    else:
        own = of_class(positive, labels) * ops.softplus(-expected(logits, labels))
        loss = ops.matmul(ops.softplus(others(logits, labels)), negative) + own
    return loss, ops.ones_like(loss)


@LOSSES.register("eql")
class EQL(Loss):
    """L_i = sum_c w_c BCE(z_c, t_c) with w_c = 1 - T(f_c) (1 - t_c), over the batch.

    T is 1 for classes whose frequency f_c = n_c / N is below lambda: a rare class gets no gradient from images of others.

    Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3.2,
    eqs. 6 and 7 (https://arxiv.org/abs/2003.05176). The paper's E(r), which excludes background regions, is 1 in classification.

    Args:
        lambda_: .005 by default, of the size that the paper uses in classification; .00176 of its detectors is for LVIS.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = EQL(class_counts=[999, 1])
        >>> print(f"{float(loss(Tensor([[0.0, 9.0]]), Tensor([0]))):.4f}")        # class 1 is not pushed down: log 2
        0.6931
    """

    needs_counts = True
    soft_labels = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        lambda_: Annotated[float, Ge(0)] = 0.005,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "batch",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.positive = Tensor(self.counts * 0 + 1, ms.float32)  # (C,)
        self.negative = Tensor(self.counts / self.counts.sum() >= lambda_, ms.float32)  # (C,), 1 - T

    def terms(self, logits, labels, features, teacher_logits, draws):
        return weighted_binary_cross_entropy(logits, labels, self.positive, self.negative)
