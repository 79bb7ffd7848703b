"""From a draw number to an image: which one it is, and what happens when it cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import hashing
from ..errors import DataError
from .image_set import ImageSet

ImageOp = Callable[[np.ndarray, int], np.ndarray]


@dataclass
class Faults:
    """Images that could not be read, shared by the pipeline's threads and the trainer, which reports them."""

    messages: dict[int, str] = field(default_factory=dict)
    fatal: DataError | None = None


class DrawSource:
    """Random access by draw number for MindSpore's GeneratorDataset: (image, label, index, draw).

    Args:
        images: the set.
        order: epoch -> image indices, a pure function.
        length: draws an epoch.
        first_draw, first_epoch: draw `first_draw` is position 0 of epoch `first_epoch`.
        seed: of the replacement draws.
        image_ops: applied to each decoded image with its draw number.
        on_error: "raise", or "skip" (another image of the same class takes the place, hashed from the draw number).
        max_error_share: share of distinct unreadable images above which "skip" gives up.
    """

    def __init__(
        self,
        images: ImageSet,
        order: Callable[[int], np.ndarray],
        length: int,
        *,
        first_draw: int = 0,
        first_epoch: int = 0,
        seed: int = 0,
        image_ops: Sequence[ImageOp] = (),
        on_error: str = "raise",
        max_error_share: float = 0.01,
    ):
        self.images, self.order, self.length = images, order, length
        self.first_draw, self.first_epoch = first_draw, first_epoch
        self.seed, self.image_ops = seed, tuple(image_ops)
        self.on_error, self.max_error_share = on_error, max_error_share
        self.faults = Faults()
        self._lock = threading.Lock()
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def __deepcopy__(self, memo):
        # MindSpore copies the data set for every iterator; the faults and the orders are to be shared, not copied.
        return self

    def indices(self, epoch: int) -> np.ndarray:
        """The order of an epoch, computed once; the two newest are kept, since reading runs ahead of training."""
        order = self._epochs.get(epoch)
        if order is None:
            with self._lock:
                order = np.resize(self.order(epoch), self.length)  # wraps round where ranks do not divide it
                for old in [e for e in self._epochs if e < epoch - 1]:
                    del self._epochs[old]
                self._epochs[epoch] = order
        return order

    def index(self, draw: int) -> int:
        epoch, position = divmod(draw - self.first_draw, self.length)
        return int(self.indices(self.first_epoch + epoch)[position])

    def __getitem__(self, draw: int) -> tuple[np.ndarray, ...]:
        draw = int(draw)
        if self.faults.fatal is not None:
            raise self.faults.fatal
        index = self.index(draw)
        try:
            image = self.images.read(index)
        except DataError as error:
            index, image = self._replacement(index, draw, error)
        for op in self.image_ops:
            image = op(image, draw)
        return image, np.array(self.images.labels[index], np.int32), np.array(index, np.int32), np.array(draw, np.int64)

    def _replacement(self, index: int, draw: int, error: DataError) -> tuple[int, np.ndarray]:
        """Another readable image of the same class, or the error that ends the run."""
        if self.on_error == "raise":
            raise self._end(DataError(f"{error}; mend it, or set data.on_error: skip"))
        same_class = np.flatnonzero(self.images.labels == self.images.labels[index])
        for place in hashing.integers(self.seed, np.array([draw]), "replacement", 32, len(same_class))[0]:
            self._record(index, error)
            index = int(same_class[place])
            try:
                return index, self.images.read(index)
            except DataError as next_error:
                error = next_error
        name = self.images.class_names[self.images.labels[index]]
        raise self._end(DataError(f"no readable image found for class {name!r}; the last fault: {error}"))

    def _record(self, index: int, error: DataError) -> None:
        with self._lock:
            self.faults.messages[index] = str(error)
            unreadable, total = len(self.faults.messages), len(self.images)
        if unreadable > self.max_error_share * total:
            raise self._end(
                DataError(
                    f"{unreadable} of {total} images are unreadable, more than data.max_error_share "
                    f"{self.max_error_share}; the last: {error}"
                )
            )

    def _end(self, error: DataError) -> DataError:
        self.faults.fatal = error
        return error
