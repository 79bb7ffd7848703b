"""The dataset graph: draws -> decode and crop one by one -> batch -> whole-batch augmentation -> channels first."""

from __future__ import annotations

from collections.abc import Sequence

import mindspore.dataset as ds
import numpy as np

from ..samplers import DrawSampler
from .source import DrawSource

COLUMNS = ["image", "label", "index", "draw"]


def training_pipeline(
    source: DrawSource,
    *,
    batch: int,
    batch_ops: Sequence = (),
    skip: int = 0,
    rank: int = 0,
    ranks: int = 1,
    accumulate: int = 1,
    workers: int = 1,
) -> ds.Dataset:
    """One epoch after another of augmented batches.

    Args:
        source: random access by draw number.
        batch: images an optimizer step takes over all ranks and micro-batches; the epoch's last one may be smaller.
        batch_ops: augmentations of level "batch", called as op(images, draws).
        skip: draws of the first epoch that are done already; such a pipeline serves that one epoch.
        rank, ranks: this worker's place.
        accumulate: micro-batches per step.
        workers: threads; the result does not depend on their number.

    Returns:
        data set with columns image (b, 3, H, W) uint8, label (b,) int32, index (b,) int32, draw (b,) int64 and
        apply (1,) int32, which is 1 on the last micro-batch of every step; b = batch / ranks / accumulate.
    """
    sampler = DrawSampler(source.length, first_draw=source.first_draw, skip=skip, rank=rank, ranks=ranks)

    def finish(images: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, ...]:
        for op in batch_ops:
            images = op(images, draws)
        position = (int(draws[-1]) - source.first_draw) % source.length + ranks  # of this rank's next draw
        last = position >= source.length or position // batch != (position - ranks) // batch
        return _channels_first(images), draws, np.array([last], np.int32)

    dataset = _batches(source, sampler, batch // ranks // accumulate, workers)
    dataset = dataset.map(finish, ["image", "draw"], ["image", "draw", "apply"], num_parallel_workers=workers)
    return dataset.project([*COLUMNS, "apply"])


def evaluation_pipeline(
    source: DrawSource, *, batch: int, rank: int = 0, ranks: int = 1, workers: int = 1
) -> ds.Dataset:
    """One pass without random choices; the source's length is padded so that every batch is full (one graph)."""
    sampler = DrawSampler(source.length, rank=rank, ranks=ranks)
    dataset = _batches(source, sampler, batch // ranks, workers)
    return dataset.map(_channels_first, ["image"], num_parallel_workers=workers).project(["image", "label", "index"])


def _batches(source: DrawSource, sampler: DrawSampler, batch: int, workers: int) -> ds.Dataset:
    # Images in memory cost microseconds each: more threads would only wait for the interpreter lock.
    readers = 1 if source.images.images is not None else workers
    dataset = ds.GeneratorDataset(
        source, COLUMNS, sampler=sampler, num_parallel_workers=readers, python_multiprocessing=False
    )
    return dataset.batch(batch, drop_remainder=False, num_parallel_workers=1)


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
