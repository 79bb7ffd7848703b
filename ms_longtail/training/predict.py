"""Logits of a whole image set, through `Model.eval`, exact for any batch size and number of workers."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.train import Metric, Model


class Predict(nn.Cell):
    """(image, label, index) -> (logits, label, index): the evaluation network of a `Model`."""

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, image, label, index):
        return self.model(image), label, index


class Collect(Metric):
    """Keeps logits and labels by image index; images that padding repeats, on this worker or another, count once."""

    def __init__(self, ranks: int = 1):
        super().__init__()
        self.ranks = ranks
        self.clear()

    def clear(self) -> None:
        self._rows: list[np.ndarray] = []

    def update(self, *inputs) -> None:
        logits, labels, indices = (column.asnumpy() for column in inputs)
        # One float array carries all: integers below 2**24 are exact in it, and every collective can send it.
        self._rows.append(np.concatenate([indices[:, None], labels[:, None], logits], axis=1).astype(np.float32))

    def eval(self) -> dict[str, np.ndarray]:
        rows = np.concatenate(self._rows)  # (n, 2 + C)
        if self.ranks > 1:
            rows = ops.AllGather()(Tensor(rows)).asnumpy()
        _, first = np.unique(rows[:, 0], return_index=True)
        rows = rows[first]
        return {"index": rows[:, 0].astype(np.int64), "labels": rows[:, 1].astype(np.int64), "logits": rows[:, 2:]}


def predict(model: Model, dataset) -> dict[str, np.ndarray]:
    """{"index", "labels", "logits"} sorted by index, for a Model built with Predict and the metric "outputs": Collect."""
    return model.eval(dataset)["outputs"]
