"""Plain classification: one network, one loss on its logits, for some losses with a teacher beside it."""

from __future__ import annotations

from typing import Any

from mindspore import nn, ops

from ..models.freezing import rests
from ..registry import OBJECTIVES
from .teacher import Teacher


@OBJECTIVES.register("classification")
class Classification(nn.Cell):
    """From batch columns to (numerator, denominator) of the mean loss, and what the loss's state learns from the batch.

    Args:
        model: a classifier with `features` and `head`; no gradient passes its backbone where all of it rests.
        loss: a `losses.Loss`.
        teacher: a trained network from images to logits, for a loss that needs one.

    Attributes:
        columns: names of the pipeline's columns that `construct` takes, in order.
        stateful, observed_shape: of the loss.
        fixed: names of parameters that never change while a loss is computed.
        follows: the parameter that the stage's draws depend on, or None.
        draws_follow: whether objectives of this class have such a parameter.
        random: whether random choices are made in it, by the loss or by the model's dropout, which follow from draw numbers.
        drops: whether objectives of this class know dropout.
        second_part: the part of the data that a second order is of, where the objective reads one beside the first.
    """

    follows = None
    second_part: str | None = None
    draws_follow = False
    drops = True

    def __init__(self, model: nn.Cell, loss: nn.Cell, teacher: nn.Cell | None = None):
        super().__init__(auto_prefix=False)  # parameters keep the names they have in the model alone
        self.model, self.loss = model, loss
        self.teacher = None if teacher is None else Teacher(teacher)
        self.dropout = getattr(model, "dropout", None)
        if self.dropout is not None and not self.drops:
            raise ValueError(f"it has no place for the model's dropout {self.dropout.p}; set model.dropout: 0")
        self.random = loss.random or self.dropout is not None
        self.columns = ("image", "label", "draw") if self.random else ("image", "label")
        self.rests = rests(model)
        self.stateful, self.observed_shape = loss.stateful, loss.observed_shape
        # What a loss remembers changes in `absorb` alone, that is, when the step is applied: nothing to be put back.
        still = [loss] if teacher is None else [loss, self.teacher]
        self.fixed = frozenset(p.name for cell in still for p in cell.get_parameters())

    def construct(self, image, label, draw=None):
        features = self.model.features(image)  # (B, D)
        if self.rests:
            features = ops.stop_gradient(features)
        logits = self.logits(features, draw)  # (B, C)
        teacher_logits = None
        if self.teacher is not None:
            teacher_logits = self.teacher(image)
        numerator, denominator = self.loss.totals(logits, label, features, teacher_logits, draw)
        return numerator, denominator, self.loss.observe(logits, label)

    def logits(self, features, draw):
        """The head's answer to features (B, D), after the model's dropout, whose choices follow from draw numbers (B,)."""
        if self.dropout is not None:
            features = self.dropout(features, draw)
        return self.model.head(features)  # (B, C)

    def absorb(self, observed, denominator):
        """Change the loss's state by what was observed in the whole step."""
        return self.loss.absorb(observed, denominator)

    def learnt(self) -> dict[str, Any]:
        """What the objective has learnt beside the weights, for the epoch's line in a log: name -> number or list."""
        return {}
