"""From a draw number to an image: which one it is, and what happens when it cannot be read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import hashing
from ..errors import DataError
from ..samplers import padded_length
from .image_set import ImageSet


@dataclass
class Faults:
    """Images that could not be read, shared by the pipeline's threads and the trainer, which reports them."""

    messages: dict[int, str] = field(default_factory=dict)
    fatal: DataError | None = None


class DrawSource:
    """From draw numbers to images, labels and indices, for whole batches.

    To MindSpore it is a data set of slot numbers (`__getitem__` returns what the sampler asked for); `draws` and `load` are
    called in the map after `batch`. One row an image would cost more in the interpreter than decoding does.

    Args:
        images: the set.
        order: epoch -> image indices, a pure function.
        length: draws an epoch.
        multiple: an epoch has this many slots or a multiple of it; slots beyond `length` repeat its first draws.
        first_draw, first_epoch: draw `first_draw` is position 0 of epoch `first_epoch`.
        seed: of the replacement draws.
        whole_ops: augmentations of level "whole", before all others.
        image_ops: augmentations of level "image"; they must leave all images one size.
        on_error: "raise", or "skip" (another image of the same class takes the place, hashed from the draw number).
        max_error_share: share of distinct unreadable images above which "skip" gives up.
    """

    def __init__(
        self,
        images: ImageSet,
        order: Callable[[int], np.ndarray],
        length: int,
        *,
        multiple: int = 1,
        first_draw: int = 0,
        first_epoch: int = 0,
        seed: int = 0,
        whole_ops: Sequence = (),
        image_ops: Sequence = (),
        on_error: str = "raise",
        max_error_share: float = 0.01,
    ):
        self.images, self.order, self.length = images, order, length
        self.slots = padded_length(length, multiple)
        self.first_draw, self.first_epoch = first_draw, first_epoch
        self.seed, self.whole_ops, self.image_ops = seed, tuple(whole_ops), tuple(image_ops)
        self.on_error, self.max_error_share = on_error, max_error_share
        self.faults = Faults()
        self._lock = threading.Lock()
        self._epochs: dict[int, np.ndarray] = {}
        self._scratch = threading.local()
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return self.slots

    def __deepcopy__(self, memo):
        # MindSpore copies the data set for every iterator; the faults and the orders are to be shared, not copied.
        return self

    def __getitem__(self, slot: int) -> tuple[np.ndarray]:
        return (np.array(slot, np.int64),)

    def draws(self, slots: np.ndarray) -> np.ndarray:
        """Draw numbers of slots, (B,) -> (B,)."""
        epochs, positions = np.divmod(slots, self.slots)
        return self.first_draw + epochs * self.length + positions % self.length

    def indices(self, epoch: int) -> np.ndarray:
        """The order of an epoch, computed once; the two newest are kept, since reading runs ahead of training."""
        order = self._epochs.get(epoch)
        if order is None:
            with self._lock:
                order = self.order(epoch)
                for old in [e for e in self._epochs if e < epoch - 1]:
                    del self._epochs[old]
                self._epochs[epoch] = order
        return order

    def index(self, draws: np.ndarray) -> np.ndarray:
        """Image indices of draw numbers, (B,) -> (B,)."""
        epochs, positions = np.divmod(draws - self.first_draw, self.length)
        index = np.empty(len(draws), np.int32)
        for epoch in np.unique(epochs):  # one, or two where a batch lies across epochs
            here = epochs == epoch
            index[here] = self.indices(self.first_epoch + int(epoch))[positions[here]]
        return index

    def load(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(images (B, H, W, 3) uint8, labels (B,) int32, indices (B,) int32) of draw numbers (B,).

        The images stay valid until the same thread's next call.
        """
        if self.faults.fatal is not None:
            raise self.faults.fatal
        index = self.index(draws)
        if self.images.images is not None and not self.image_ops:
            images, labels = self.images.images[index], self.images.labels[index]
            for op in self.whole_ops:
                images = op(images, labels, index, draws)
            return images, labels, index
        numbers = [op.random(draws) for op in self.image_ops]  # for all images at once: NumPy is slow on single ones
        batch = self._space(len(draws))
        for place, draw in enumerate(draws.tolist()):
            image, index[place] = self._read(int(index[place]), draw)
            for op in self.whole_ops:
                one = slice(place, place + 1)
                image = op(image[None], self.images.labels[index[one]], index[one], draws[one])[0]
            target = None if batch is None else batch[place]
            for op, rows in zip(self.image_ops, numbers, strict=True):
                image = op(image, rows[place], target if op is self.image_ops[-1] else None)
            if batch is None:
                self._shape = image.shape
                batch, target = self._space(len(draws)), None
            if image is not target:
                batch[place] = image
        return batch, self.images.labels[index], index

    def _space(self, count: int) -> np.ndarray | None:
        """Memory for `count` images, the thread's own and used again by its next call; None before the size is known."""
        if self._shape is None:
            return None
        space = getattr(self._scratch, "space", None)
        if space is None or len(space) < count:
            space = self._scratch.space = np.empty((count, *self._shape), np.uint8)
        return space[:count]

    def _read(self, index: int, draw: int) -> tuple[np.ndarray, int]:
        """(the image, the index of the image that was really read)."""
        try:
            return self.images.read(index), index
        except DataError as error:
            index, image = self._replacement(index, draw, error)
            return image, index

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
