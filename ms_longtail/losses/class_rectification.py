"""Class Rectification Loss: hard images of the batch's rare classes against their neighbours of other classes."""

from __future__ import annotations

from typing import Annotated, Literal

import mindspore as ms
import numpy as np
from annotated_types import Ge, Gt, Le
from mindspore import Tensor, ops

from ..bounds import checked
from ..registry import LOSSES
from .base import Denominator, Loss
from .cross_entropy import cross_entropy

OMEGA = {  # measures of imbalance, from class counts
    "missing": lambda n: 100 * (1 - n.sum() / (len(n) * n.max())),  # % of a uniform set's images that are not there
    "ratio": lambda n: n.min() / n.max(),
    "deviation": lambda n: np.abs(100 * n / n.sum() - 100 / len(n)).mean(),
}
_FAR = 1e9


def minority_anchors(labels, rho: float):
    """Which images are anchors, (B,) bool.

    The batch's classes, sorted by (their count in it, class id), are minority while the running sum of the counts is at most
    rho B. Anchors are the images of minority classes that have at least two in the batch, if there are others at all.

    Args:
        labels: (B,) int32.
        rho: share of the batch.
    """
    mine, theirs = labels.expand_dims(1), labels.expand_dims(0)
    count = (mine == theirs).astype(ms.int32).sum(axis=1)  # (B,), of the image's class
    fewer = count.expand_dims(0) < count.expand_dims(1)  # [i, j]: j's class is smaller than i's
    before = ops.logical_or(fewer, ops.logical_and(count.expand_dims(0) == count.expand_dims(1), theirs <= mine))
    running = before.astype(ms.int32).sum(axis=1)  # every image counts once, so no sort over classes is needed
    minority = running.astype(ms.float32) <= rho * labels.shape[0]
    return ops.logical_and(minority, ops.logical_and(count >= 2, count < labels.shape[0]))


def hardest(score, allowed, k: int):
    """The k largest scores of every row among the allowed ones.

    Args:
        score: (B, B) float32; allowed: (B, B) bool.

    Returns:
        (index (B, k'), valid (B, k')), k' = min(k, B).
    """
    masked = ops.where(allowed, score, Tensor(-_FAR, ms.float32))
    value, index = ops.topk(ops.stop_gradient(masked), min(k, score.shape[1]))
    return index, value > -_FAR / 2


def mean_over(values, valid):
    """Mean of the valid values, 0 where there is none."""
    valid = valid.astype(ms.float32)
    return (values * valid).sum() / ops.maximum(valid.sum(), 1.0)


def histogram(distance, valid, low, high, bins: int):
    """Shares of the bins, (bins,): every distance is divided linearly between its two neighbouring bin centres."""
    width = (high - low) / (bins - 1)
    place = ((distance - low) / width).reshape(-1, 1)  # in bins
    centres = ops.arange(bins).astype(ms.float32)
    share = ops.relu(1.0 - (place - centres).abs()) * valid.astype(ms.float32).reshape(-1, 1)  # (pairs, bins)
    return share.sum(axis=0) / ops.maximum(valid.astype(ms.float32).sum(), 1.0)


@LOSSES.register("crl")
class ClassRectification(Loss):
    """L = (1 - alpha) CE + alpha L_crl with alpha = eta Omega, where L_crl belongs to the batch and is added to every image.

    In every batch the images of minority classes are anchors a, each with its hardest positives + and negatives -.

    level "class": scores p = softmax(z) of the anchor's class; positives are the k images of the class that score lowest,
    negatives the k others that score highest; d(a,+) = |p_a - p_+|, d(a,-) = p_a - p_-.
    level "instance": Euclidean distances of features; the k farthest of the class and the k nearest others.

    form "relative": mean over triplets of max(0, m + d(a,+) - d(a,-));
    form "absolute": ( mean d(a,+)^2 + mean max(0, m - d(a,-))^2 ) / 2 over pairs;
    form "distribution": sum_t h+_t sum_{k<=t} h-_k over histograms of both distances: the probability that a negative is
    nearer than a positive.

    Dong, Gong, Zhu, "Imbalanced Deep Learning by Minority Class Incremental Rectification", TPAMI 2019
    eqs. 8 to 16 (https://arxiv.org/abs/1804.10851; before it ICCV 2017, https://arxiv.org/abs/1712.03162). An image is never its own
    positive. Bins lie over [-1, 1] at class level, over [0, the batch's largest distance] at instance level. Where a batch is cut
    into micro-batches or over workers, mining stays within each part.

    Args:
        level: "class" (default, with "relative" the paper's best) or "instance" (needs features).
        form: "relative" (default), "absolute" or "distribution".
        k: hardest images on each side, 25 by default (the paper's).
        margin: m, .5 by default (the paper's).
        rho: share of the batch that counts as minority, .5 by default (the paper's).
        eta: .01 by default.
        omega: the measure of imbalance: "missing" (default: the percentage of images missing to a uniform set,
            100 (1 - N / (C n_max))), "ratio" (n_min / n_max), "deviation" (mean |100 pi_c - 100 / C|), or a number.
        bins: of the histograms, 100 by default.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Attributes:
        alpha: eta Omega, at most 1.

    Shapes: logits (B, C), labels (B,) integers, features (B, D) at instance level -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = ClassRectification(class_counts=[100, 50])
        >>> print(f"{loss.alpha:.2f}")
        0.25
    """

    needs_counts = True
    batchwise = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        level: Literal["class", "instance"] = "class",
        form: Literal["relative", "absolute", "distribution"] = "relative",
        k: Annotated[int, Ge(1)] = 25,
        margin: Annotated[float, Ge(0)] = 0.5,
        rho: Annotated[float, Gt(0), Le(1)] = 0.5,
        eta: Annotated[float, Ge(0)] = 0.01,
        omega: Literal["missing", "ratio", "deviation"] | Annotated[float, Ge(0)] = "missing",
        bins: Annotated[int, Ge(2)] = 100,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        if omega not in OMEGA and (isinstance(omega, (str, bool)) or not omega >= 0):
            raise ValueError(f"unknown omega {omega!r}; choose from {', '.join(OMEGA)} or a number of at least 0")
        self.needs = ("features",) if level == "instance" else ()
        self.level, self.form, self.k, self.margin, self.rho, self.bins = level, form, k, margin, rho, bins
        self.alpha = float(min(1.0, eta * (OMEGA[omega](self.counts) if omega in OMEGA else omega)))

    def facts(self):
        return {"alpha": self.alpha}

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = cross_entropy(logits, labels)
        return (1 - self.alpha) * loss + self.alpha * self.rectification(logits, labels, features), weight

    def rectification(self, logits, labels, features):
        """L_crl of the batch, a scalar."""
        anchor = minority_anchors(labels, self.rho).expand_dims(1)  # (B, 1)
        same = labels.expand_dims(1) == labels.expand_dims(0)  # (B, B)
        other = ops.logical_not(same)
        self_pair = ops.arange(labels.shape[0]).expand_dims(1)  # (B, 1)
        if self.level == "class":
            p = ops.softmax(logits, axis=-1)
            score = ops.gather(p, labels, 1).T  # [a, x] = p(y_a | x)
            own = ops.gather_elements(p, 1, labels.expand_dims(1))  # (B, 1)
            positive, has_positive = hardest(-score, same, self.k)  # (B, k)
            negative, has_negative = hardest(score, other, self.k)
            near = (own - ops.gather_elements(score, 1, positive)).abs()  # d(a,+)
            far = own - ops.gather_elements(score, 1, negative)  # d(a,-)
            low, high = -1.0, 1.0
        else:
            distance = ops.cdist(features, features)  # (B, B), without a (B, B, D) between
            positive, has_positive = hardest(distance, same, self.k)
            negative, has_negative = hardest(-distance, other, self.k)
            near, far = ops.gather_elements(distance, 1, positive), ops.gather_elements(distance, 1, negative)
            low, high = 0.0, None
        has_positive = ops.logical_and(ops.logical_and(has_positive, positive != self_pair), anchor)
        has_negative = ops.logical_and(has_negative, anchor)
        if self.form == "relative":
            valid = ops.logical_and(has_positive.expand_dims(2), has_negative.expand_dims(1))  # (B, k, k)
            return mean_over(ops.relu(self.margin + near.expand_dims(2) - far.expand_dims(1)), valid)
        if self.form == "absolute":
            apart = ops.relu(self.margin - far).square()
            return (mean_over(near.square(), has_positive) + mean_over(apart, has_negative)) / 2
        if high is None:
            largest = ops.maximum(
                (near * has_positive.astype(ms.float32)).max(), (far * has_negative.astype(ms.float32)).max()
            )
            high = ops.stop_gradient(ops.maximum(largest, 1e-6))
        h_near = histogram(near, has_positive, low, high, self.bins)
        h_far = histogram(far, has_negative, low, high, self.bins)
        return (h_near * ops.cumsum(h_far, 0)).sum()
