"""Equalization loss v2: every class's positive and negative gradients are balanced as training goes."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt
from mindspore import Parameter, Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss, expected, image_weights, others
from .eql import weighted_binary_cross_entropy


def balance(ratio, gamma: float, mu: float, alpha: float):
    """(q, r), the weights of positives and negatives, each (C,), for the gradient ratios g (C,)."""
    r = ops.sigmoid(gamma * (ratio - mu))
    return 1.0 + alpha * (1.0 - r), r


def gradient_sums(logits, labels, weight, positive, negative):
    """Per class, what its positive and its negative images pull: the sums over images of |sigmoid(z_ic) - t_ic| times their weight.

    A positive counts with q, a negative with r, a soft label t with t and 1 - t for either, at q t + r (1 - t).

    Args:
        logits: z (B, C) float32; labels: (B,) int32 or (B, C) float32; weight: (B,); positive, negative: q and r, (C,).

    Returns:
        (2, C) float32: positive sums, negative sums.
    """
    if labels.ndim == 2:
        q = ops.sigmoid(logits)
        pull = weight.expand_dims(1) * (q - labels).abs() * (positive * labels + negative * (1.0 - labels))
        return ops.stack(((pull * labels).sum(axis=0), (pull * (1.0 - labels)).sum(axis=0)))
    own = ops.unsorted_segment_sum(weight * ops.sigmoid(-expected(logits, labels)), labels, logits.shape[1])
    return ops.stack((positive * own, negative * ops.matmul(weight, ops.sigmoid(others(logits, labels)))))


@LOSSES.register("eqlv2")
class EQLv2(Loss):
    """L_i = sum_c [q_c t_c + r_c (1 - t_c)] BCE(z_c, t_c), over the batch, with weights that follow the gradients so far.

    g_c = (sum of positive gradients) / (sum of negative gradients), both |sigmoid(z) - t| times the weight they had;
    r = f(g), q = 1 + alpha (1 - f(g)), f(g) = 1 / (1 + exp(-gamma (g - mu))).

    Tan et al., "Equalization Loss v2: A New Gradient Balance Approach for Long-tailed Object Detection", CVPR 2021
    (https://arxiv.org/abs/2012.08548), without the parts for detection. Before the first update g is `first_ratio`, so q = r = 1.

    The sums are parameters, saved with the others. They change in `update`, once after each step:

    Args:
        gamma: 12, mu: .8, alpha: 4 by default (the paper's).
        first_ratio: 100 by default (the authors' code).
        class_counts: only their number is used; class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers or (B, C) distributions -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = EQLv2(class_counts=[10, 10])
        >>> z, y = Tensor([[0.0, 0.0]]), Tensor([0])
        >>> print(f"{float(loss(z, y)):.4f}")                                     # 2 log 2
        1.3863
        >>> _ = loss.update(z, y)
        >>> print(f"{float(loss(z, y)):.4f}")                                     # class 1 has had no positive: r_1 = .0001
        0.6932
    """

    needs_counts = True
    soft_labels = True
    stateful = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        gamma: Annotated[float, Gt(0)] = 12.0,
        mu: float = 0.8,
        alpha: Annotated[float, Ge(0)] = 4.0,
        first_ratio: Annotated[float, Gt(0)] = 100.0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "batch",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.gamma, self.mu, self.alpha = gamma, mu, alpha
        self.observed_shape = (2, self.num_classes)
        zeros = np.zeros(self.num_classes, np.float32)
        self.positive = Parameter(Tensor(zeros), name="eqlv2.positive", requires_grad=False)  # (C,)
        self.negative = Parameter(Tensor(zeros), name="eqlv2.negative", requires_grad=False)  # (C,)
        self.ratio = Parameter(
            Tensor(zeros + np.float32(first_ratio)), name="eqlv2.ratio", requires_grad=False
        )  # g (C,)

    def terms(self, logits, labels, features, teacher_logits, draws):
        positive, negative = balance(self.ratio, self.gamma, self.mu, self.alpha)
        return weighted_binary_cross_entropy(logits, labels, positive, negative)

    def observe(self, logits, labels, share=None):
        labels = labels.astype(ms.float32) if labels.ndim == 2 else labels.astype(ms.int32)
        weight = image_weights(self.class_weights, labels, share)
        positive, negative = balance(self.ratio, self.gamma, self.mu, self.alpha)
        logits = ops.stop_gradient(logits.astype(ms.float32))
        return gradient_sums(logits, labels, weight, positive, negative)

    def absorb(self, observed, denominator):
        positive, negative = self.positive + observed[0], self.negative + observed[1]
        ops.assign(self.positive, positive)
        ops.assign(self.negative, negative)
        ops.assign(self.ratio, positive / (negative + 1e-10))
        return denominator
