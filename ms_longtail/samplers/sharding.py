"""One order of image draws, cut into epochs, batches and ranks; and the MindSpore samplers that follow it.

Slot s of a stage is position s % P of epoch s // P, where P is the epoch's length, padded to a multiple of the R ranks. Rank
r takes the positions r, r + R, r + 2R, ... Read side by side, the ranks' orders are the order of one rank: the global batch
of a step holds the same images whatever R is, but for the last batch of an epoch whose length R does not divide, which
holds a few of the epoch's first draws again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

import mindspore.dataset as ds
import numpy as np
from annotated_types import Ge, Le

EpochOrder = Callable[[int], np.ndarray]
EpochLength = Annotated[int, Ge(1), Le(10**8)] | None


def padded_length(length: int, ranks: int) -> int:
    """The epoch's length once every rank takes equally many draws (the last few wrap round to the order's start)."""
    return -(-length // ranks) * ranks


class SlotSampler(ds.Sampler):
    """Yields slot numbers rank, rank + ranks, ...: epoch after epoch, for a source that knows the order itself.

    MindSpore copies a sampler when an iterator starts and asks it for the next epoch before the present one is used up.
    Slots do not mind: they depend on nothing but the count of epochs asked for.

    Args:
        length: slots of an epoch over all ranks, a multiple of `ranks`.
        skip: slots (over all ranks) of the first epoch that are done already; later epochs are whole.
            A sampler with `skip` therefore serves one epoch only.
        rank, ranks: this worker's place.
    """

    def __init__(self, length: int, *, skip: int = 0, rank: int = 0, ranks: int = 1):
        if length % ranks or skip % ranks:
            raise ValueError(f"length {length} and skip {skip} must be multiples of ranks {ranks}")
        if not 0 <= skip < length or not 0 <= rank < ranks:
            raise ValueError(f"skip {skip} outside 0..{length - 1} or rank {rank} outside 0..{ranks - 1}")
        self.length, self.skip = length, skip
        self.rank, self.ranks = rank, ranks
        self.epoch = 0
        super().__init__((length - skip) // ranks)

    def __iter__(self) -> Iterator[int]:
        start = self.epoch * self.length
        self.epoch += 1
        return iter(range(start + self.skip + self.rank, start + self.length, self.ranks))


class OrderSampler(ds.Sampler):
    """Yields image indices in an epoch order, for any mappable MindSpore data set (Cifar10Dataset, ImageFolderDataset).

    Args:
        order: function epoch -> image indices; the same length every epoch.
        start_epoch: epoch of the first iteration, so that a resumed run goes on with the right order.
        rank, ranks: this worker's place; orders that do not divide wrap round to their start.

    Example:
        >>> from functools import partial
        >>> order = partial(class_balanced, labels, seed=0)             # doctest: +SKIP
        >>> ds.Cifar10Dataset(root, sampler=OrderSampler(lambda e: order(epoch=e)))     # doctest: +SKIP
    """

    def __init__(self, order: EpochOrder, *, start_epoch: int = 0, rank: int = 0, ranks: int = 1):
        self.order, self.epoch = order, start_epoch
        self.rank, self.ranks = rank, ranks
        super().__init__(padded_length(len(order(start_epoch)), ranks) // ranks)

    def __iter__(self) -> Iterator[int]:
        indices = self.order(self.epoch)
        self.epoch += 1
        padded = np.resize(indices, padded_length(len(indices), self.ranks))
        return iter(padded[self.rank :: self.ranks].tolist())
