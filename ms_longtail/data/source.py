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


@dataclass(frozen=True)
class View:
    """What happens to images on their way into one column: operations by level, see `augment`."""

    whole: tuple = ()
    image: tuple = ()
    batch: tuple = ()


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
        views: further views of every draw: the same image, read once, by other operations. (Those of level "batch" are the
            pipeline's; the source leaves them alone.)
        on_error: "raise", or "skip" (another image of the same class takes the place, hashed from the draw number).
        max_error_share: share of distinct unreadable images above which "skip" gives up; a single one is always let pass.
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
        views: Sequence[View] = (),
        on_error: str = "raise",
        max_error_share: float = 0.01,
    ):
        self.images, self.order, self.length = images, order, length
        self.slots = padded_length(length, multiple)
        self.first_draw, self.first_epoch = first_draw, first_epoch
        self.seed, self.views = seed, (View(tuple(whole_ops), tuple(image_ops)), *views)
        self.on_error, self.max_error_share = on_error, max_error_share
        self.faults = Faults()
        self._lock = threading.Lock()
        self._epochs: dict[int, np.ndarray] = {}
        self._scratch = threading.local()
        self._shapes: list[tuple[int, ...] | None] = [None] * len(self.views)

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

    @property
    def in_memory(self) -> bool:
        """Whether a batch of every view is one fancy index: images in memory, and nothing done to single ones."""
        return self.images.images is not None and not any(view.image for view in self.views)

    def load(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(images (B, H, W, 3) uint8, labels (B,) int32, indices (B,) int32) of draw numbers (B,), in their first view.

        The images stay valid until the same thread's next call.
        """
        views, labels, index = self.load_views(draws)
        return views[0], labels, index

    def load_views(self, draws: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """The same with the images of every view."""
        if self.faults.fatal is not None:
            raise self.faults.fatal
        index = self.index(draws)
        memory = self.images.images
        single = [n for n, view in enumerate(self.views) if view.image or memory is None]
        # All numbers of a view at once: NumPy is slow on single ones.
        numbers = {n: [op.random(draws) for op in self.views[n].image] for n in single}
        batches = {n: self._space(n, len(draws)) for n in single}
        for place, draw in enumerate(draws.tolist() if single else ()):
            whole, index[place] = self._read(int(index[place]), draw)
            for n in single:
                # An operation may write into what it gets; the other views and the set itself are not its own.
                image = whole.copy() if self.views[n].whole else whole
                for op in self.views[n].whole:
                    one = slice(place, place + 1)
                    image = op(image[None], self.images.labels[index[one]], index[one], draws[one])[0]
                target = None if batches[n] is None else batches[n][place]
                for op, rows in zip(self.views[n].image, numbers[n], strict=True):
                    image = op(image, rows[place], target if op is self.views[n].image[-1] else None)
                if batches[n] is None:
                    self._shapes[n] = image.shape
                    batches[n], target = self._space(n, len(draws)), None
                if image is not target:
                    batches[n][place] = image
        labels = self.images.labels[index]
        for n, view in enumerate(self.views):
            if n not in batches:
                images = memory[index]
                for op in view.whole:
                    images = op(images, labels, index, draws)
                batches[n] = images
        return [batches[n] for n in range(len(self.views))], labels, index

    def _space(self, view: int, count: int) -> np.ndarray | None:
        """Memory for `count` images of a view, the thread's own and used again by its next call; None before the size is known."""
        if self._shapes[view] is None:
            return None
        spaces = self._scratch.__dict__.setdefault("spaces", {})
        if view not in spaces or len(spaces[view]) < count:
            spaces[view] = np.empty((count, *self._shapes[view]), np.uint8)
        return spaces[view][:count]

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
        if unreadable > max(1, self.max_error_share * total):  # of a small part one is never too many
            raise self._end(
                DataError(
                    f"{unreadable} of {total} images are unreadable, more than data.max_error_share "
                    f"{self.max_error_share}; the last: {error}"
                )
            )

    def _end(self, error: DataError) -> DataError:
        self.faults.fatal = error
        return error
