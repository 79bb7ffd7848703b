"""Plain classification: one network, one loss on its logits."""

from __future__ import annotations

from mindspore import nn

from ..registry import OBJECTIVES


@OBJECTIVES.register("classification")
class Classification(nn.Cell):
    """From batch columns to (numerator, denominator) of the mean loss.

    Args:
        model: a classifier with `features` and `head`.
        loss: a `losses.Loss`.

    Attributes:
        columns: names of the pipeline's columns that `construct` takes, in order.
    """

    columns = ("image", "label")

    def __init__(self, model: nn.Cell, loss: nn.Cell):
        super().__init__(auto_prefix=False)  # parameters keep the names they have in the model alone
        self.model, self.loss = model, loss

    def construct(self, image, label):
        features = self.model.features(image)  # (B, D)
        logits = self.model.head(features)  # (B, C)
        return self.loss.totals(logits, label, features)
