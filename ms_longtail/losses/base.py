"""What every loss is: per-image losses and weights, and the one reducer behind all of them."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops

REDUCTIONS = ("mean", "sum", "none")
Denominator = Literal["weights", "batch"]


def sums(loss, weight, denominator: str, share=None):
    """(numerator, denominator) of the mean, to be added up over parts of a batch before dividing.

    mean = sum_i l_i w_i L_i / sum_i l_i w_i   with denominator "weights" (a common factor on all w cancels), or
    mean = sum_i l_i w_i L_i / sum_i l_i       with "batch" (it does not).

    Parts are micro-batches, workers, and the halves of mixing, where an image counts l for one label and 1 - l for the
    other; whatever the parts, the quotient is that of the whole.

    Args:
        loss, weight: L and w, (B,) float32.
        denominator: "weights" or "batch".
        share: l, (B,) or a number; None for 1.

    Returns:
        two float32 scalars.
    """
    share = ops.ones_like(loss) if share is None else share * ops.ones_like(loss)
    weight = weight * share
    return (loss * weight).sum(), (weight if denominator == "weights" else share).sum()


class Loss(nn.Cell):
    """Base of all losses.

    A subclass gives `terms(logits, labels, features, teacher_logits, draws) -> (loss (B,), weight (B,))` from float32 logits;
    this class checks, weights and reduces.

    Args:
        class_counts: training images per class, (C,), every entry at least 1. None where the loss does not need it.
        class_weights: (C,) factors on the weight of an image by its label, for re-weighting any loss
            (`effective_number(class_counts)`, `cost_sensitive(class_counts)`, or your own); None for 1.
        reduction: "mean", "sum" (of w_i L_i) or "none" (w_i L_i for every image).
        denominator: of "mean": "weights" or "batch", see `sums`.

    Shapes: logits (B, C) float16, bfloat16 or float32, computed in float32; labels (B,) of any integer dtype, or (B, C)
    distributions where `soft_labels`; features (B, D); teacher_logits (B, C); draws (B,) integers -> float32.
    A label outside 0 .. C-1 is not looked for here, where it would cost a transfer from the device: check labels once,
    on the host, as `ms_longtail.data` does. With several workers, build the loss after `communication.init()`.

    Raises:
        ValueError: an unknown reduction or denominator, a class count below 1 (the message names the class), class counts
            missing or of another length than the logits are wide, an input that is needed and not given.

    Attributes:
        needs: inputs beside logits and labels without which the loss cannot be computed.
        soft_labels: whether labels may be distributions (B, C).
        batchwise: whether images see each other, so that parts of a batch do not add up to the whole.
        stateful: whether `update` has an effect; call it once after every step.
        random: whether the loss draws random numbers, for which it takes `draws`.
        needs_counts: whether class_counts must be given.
        head: the kind of classifier head that the formula supposes, or None.
    """

    needs: tuple[str, ...] = ()
    needs_counts = False
    soft_labels = False
    batchwise = False
    stateful = False
    random = False
    observed_shape: tuple[int, ...] = (1,)  # of what `observe` returns
    head: str | None = None

    def __init__(self, *, class_counts=None, class_weights=None, reduction: str = "mean", denominator: str = "weights"):
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"unknown reduction {reduction!r}; choose from {', '.join(REDUCTIONS)}")
        if denominator not in ("weights", "batch"):
            raise ValueError(f"unknown denominator {denominator!r}; choose from weights, batch")
        self.reduction, self.denominator = reduction, denominator
        self.num_classes, self.counts = 0, None
        if class_counts is not None:
            self.counts = self._per_class("class_counts", class_counts)
            empty = np.flatnonzero(~((self.counts >= 1) & np.isfinite(self.counts)))  # a NaN is refused too
            if len(empty):
                raise ValueError(
                    f"class {empty[0]} has {class_counts[empty[0]]} training images; every class needs at least 1"
                )
            self.num_classes = len(self.counts)
        elif self.needs_counts:
            raise ValueError(f"{type(self).__name__} needs class_counts, the number of training images of every class")
        self.class_weights = None
        if class_weights is not None:
            weights = self._per_class("class_weights", class_weights)
            bad = np.flatnonzero(~((weights > 0) & np.isfinite(weights)))
            if len(bad):
                raise ValueError(f"class {bad[0]} has class weight {weights[bad[0]]}; every weight must be above 0")
            if self.num_classes and len(weights) != self.num_classes:
                raise ValueError(f"{len(weights)} class_weights for {self.num_classes} class_counts")
            self.num_classes = len(weights)
            self.class_weights = Tensor(weights, ms.float32)
        try:
            self.rank, self.ranks = communication.get_rank(), communication.get_group_size()
        except RuntimeError:  # no data-parallel start-up
            self.rank, self.ranks = 0, 1

    @staticmethod
    def _per_class(name: str, values) -> np.ndarray:
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or len(array) < 2:
            raise ValueError(f"{name} must be a list of at least 2 numbers, got shape {array.shape}")
        return array

    # ---- what a subclass says

    def terms(self, logits, labels, features, teacher_logits, draws):
        raise NotImplementedError(f"{type(self).__name__} must define terms()")

    def observe(self, logits, labels, share=None):
        """What the state learns from a batch: sums that add up over parts of a batch. Changes nothing."""
        return ops.zeros((1,), ms.float32)

    def absorb(self, observed, denominator):
        """Change the state by what was observed in a step, whose loss was divided by `denominator`."""
        return denominator

    def facts(self) -> dict[str, float]:
        """Numbers that follow from the settings and the class counts and are worth a line in a log."""
        return {}

    # ---- what is called

    def elements(self, logits, labels, features=None, teacher_logits=None, draws=None):
        """(loss (B,), weight (B,)) of every image."""
        if self.num_classes and logits.shape[1] != self.num_classes:
            raise ValueError(f"logits have {logits.shape[1]} classes, class_counts or class_weights {self.num_classes}")
        check_labels(logits, labels, self.soft_labels)
        if "features" in self.needs:
            check_given("features (B, D), the third input", features, logits.shape[:1])
            features = features.astype(ms.float32)
        if "teacher_logits" in self.needs:
            check_given("teacher_logits (B, C), the fourth input", teacher_logits, logits.shape)
            teacher_logits = ops.stop_gradient(teacher_logits.astype(ms.float32))
        labels = labels.astype(ms.float32) if labels.ndim == 2 else labels.astype(ms.int32)
        loss, weight = self.terms(logits.astype(ms.float32), labels, features, teacher_logits, draws)
        if self.class_weights is not None:
            weight = weight * of_class(self.class_weights, labels)
        return loss, weight

    def totals(self, logits, labels, features=None, teacher_logits=None, draws=None, share=None):
        """(numerator, denominator), see `sums`. (A method named like a module function confuses the graph parser.)"""
        loss, weight = self.elements(logits, labels, features, teacher_logits, draws)
        return sums(loss, weight, self.denominator, share)

    def construct(self, logits, labels, features=None, teacher_logits=None, draws=None):
        loss, weight = self.elements(logits, labels, features, teacher_logits, draws)
        if self.reduction == "none":
            return loss * weight
        numerator, denominator = sums(loss, weight, self.denominator)
        return numerator if self.reduction == "sum" else numerator / denominator

    def update(self, logits, labels, share=None):
        """One step's change of the state, summed over all workers. No-op for losses without state.

        A step of several parts (micro-batches, halves of mixing) is `observe` for each, then one `absorb` of the sum.
        """
        observed = self.observe(logits, labels, share)
        labels = labels.astype(ms.float32) if labels.ndim == 2 else labels.astype(ms.int32)
        denominator = image_weights(self.class_weights if self.denominator == "weights" else None, labels, share).sum()
        if self.ranks > 1:
            observed, denominator = ops.AllReduce()(observed), ops.AllReduce()(denominator)
        return self.absorb(observed, denominator)


def check_labels(logits, labels, soft: bool) -> None:
    """Shapes and types, which are known when a graph is compiled; values are not looked at."""
    if labels.ndim == 2:
        if not soft:
            raise ValueError("this loss takes class ids (B,); its formula says nothing of soft labels (B, C)")
        if labels.shape != logits.shape or labels.dtype not in (ms.float16, ms.bfloat16, ms.float32, ms.float64):
            raise ValueError(f"soft labels must be floats {logits.shape}, got {labels.dtype} {labels.shape}")
    elif labels.shape != logits.shape[:1] or labels.dtype in (ms.float16, ms.bfloat16, ms.float32, ms.float64):
        raise ValueError(f"labels must be integers {logits.shape[:1]}, got {labels.dtype} {labels.shape}")


def check_given(what: str, values, shape: tuple[int, ...]) -> None:
    """`values` are there, and their shape begins with `shape`."""
    if values is None:
        raise ValueError(f"this loss needs {what}")
    if values.shape[: len(shape)] != shape:
        raise ValueError(f"this loss needs {what}, with a shape that begins with {shape}, got {values.shape}")


def expected(values, labels):
    """sum_c t_ic v_ic, (B,): the value of the true class, or its mean under a soft label.

    Args:
        values: (B, C) float32.
        labels: (B,) int32 or (B, C) float32.
    """
    if labels.ndim == 2:
        return (labels * values).sum(axis=1)
    return ops.gather_elements(values, 1, labels.expand_dims(1)).squeeze(1)


def mass(labels):
    """sum_c t_ic: 1, but for soft labels that were scaled."""
    return labels.sum(axis=1) if labels.ndim == 2 else 1.0


def of_class(values, labels):
    """sum_c t_ic v_c, (B,), for one value a class.

    Args:
        values: (C,) float32.
        labels: (B,) int32 or (B, C) float32.
    """
    if labels.ndim == 2:
        return ops.matmul(labels, values)
    return ops.gather(values, labels, 0)


def image_weights(class_weights, labels, share):
    """What every image of a batch counts, (B,): its share (None for 1) times the class weight of its label (None for 1)."""
    weight = ops.ones((labels.shape[0],), ms.float32)
    weight = weight if share is None else weight * share
    return weight if class_weights is None else weight * of_class(class_weights, labels)


def one_hot(labels, num_classes: int, value: float = 1.0):
    """(B, C) float32 with `value` at the label, labels (B,) int32."""
    return ops.one_hot(labels, num_classes, Tensor(value, ms.float32), Tensor(0.0, ms.float32))


def others(logits, labels):
    """z with the true class at -1e9, where sigmoid, softplus and their slopes are 0: sums over the classes that are not true.

    Taking the true class's term off a sum over all classes would leave rounding errors as large as what is left of it.
    """
    return logits + one_hot(labels, logits.shape[1], -1e9)
