"""The dataset graph: draw numbers -> batch -> map (read, decode, augment, channels first)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import mindspore.dataset as ds
import numpy as np

from ..samplers import SlotSampler
from .partners import Beside, Partners
from .source import DrawSource

COLUMNS = ["image", "label", "index", "draw"]


def training_pipeline(
    source: DrawSource,
    *,
    batch: int,
    batch_ops: Sequence = (),
    partners: Partners | Beside | None = None,
    second_ops: Sequence = (),
    by_step: dict[str, Callable[[int], np.ndarray]] | None = None,
    by_draw: dict[str, Callable[[np.ndarray], np.ndarray]] | None = None,
    skip: int = 0,
    rank: int = 0,
    ranks: int = 1,
    accumulate: int = 1,
    workers: int = 1,
) -> ds.Dataset:
    """One epoch after another of augmented batches.

    Args:
        source: random access by draw number; its further views become columns.
        batch: images an optimizer step takes over all ranks and micro-batches; the epoch's last one may be smaller.
        batch_ops: augmentations of level "batch", called as op(images, draws).
        partners: adds the columns of a mixture, or of a second order, see `data/partners.py`.
        second_ops: augmentations of level "batch" for the images of the partners' own source.
        by_step: further columns that are the same for a whole optimizer step: functions of its number, counted from the first
            epoch's first step.
        by_draw: further columns with a row an image: functions of the draw numbers.
        skip: slots of the first epoch that are done already; such a pipeline serves that one epoch.
        rank, ranks: this worker's place.
        accumulate: micro-batches per step.
        workers: threads that read and decode; the result does not depend on their number.

    Returns:
        data set with columns image (b, 3, H, W) uint8, label (b,) int32, index (b,) int32, draw (b,) int64, place (b,) int32,
        an image's place in its optimizer step, and apply (1,) int32, which is 1 on the last micro-batch of every step;
        b = batch / ranks / accumulate. Further views of the images are view2, view3, .... Mixing adds labels, shares, blend,
        partner and second, a second order second and second_label.
    """
    sampler = SlotSampler(source.slots, skip=skip, rank=rank, ranks=ranks)

    def finish(slots: np.ndarray) -> tuple[np.ndarray, ...]:
        draws = source.draws(slots)
        views, labels, indices = reader.views(draws)
        position = int(slots[-1]) % source.slots + ranks  # of this rank's next slot
        epoch, first = divmod(int(slots[0]), source.slots)
        step = epoch * steps_per_epoch + first // batch
        last = position >= source.slots or position // batch != (position - ranks) // batch
        columns = {
            "image": views[0],
            "label": labels,
            "index": indices,
            "draw": draws,
            "place": (slots % source.slots % batch).astype(np.int32),
            "apply": np.array([last], np.int32),
        }
        columns |= dict(zip(view_names, views[1:], strict=True))
        if partners is not None:
            columns |= partners(slots, draws, views[0], labels, reader, second)
        columns |= {name: function(step) for name, function in by_step.items()}
        columns |= {name: function(draws) for name, function in by_draw.items()}
        return tuple(columns[name] for name in names)

    reader = Reader(source, batch_ops, workers)
    by_step, by_draw = by_step or {}, by_draw or {}
    steps_per_epoch = -(-source.slots // batch)
    view_names = [f"view{n}" for n in range(2, len(source.views) + 1)]
    second, names = None, [*COLUMNS, "place", "apply", *view_names, *by_step, *by_draw]
    if partners is not None:
        names += partners.columns
        second = None if partners.second is None else Reader(partners.second, second_ops, workers)
    return _batches(source, sampler, batch // ranks // accumulate, finish, names, reader.workers)


def evaluation_pipeline(
    source: DrawSource, *, batch: int, rank: int = 0, ranks: int = 1, workers: int = 1
) -> ds.Dataset:
    """One pass without random choices; a source with `multiple=batch` makes every batch full (one graph)."""
    sampler = SlotSampler(source.slots, rank=rank, ranks=ranks)
    reader = Reader(source, (), workers)
    return _batches(
        source, sampler, batch // ranks, lambda slots: reader(source.draws(slots)), COLUMNS[:3], reader.workers
    )


class Reader:
    """draws (b,) -> (images (b, 3, H, W), labels, indices): the whole way of a batch, cut into a part for each thread.

    MindSpore's own threads are not used for it: a Python source with two of them was five times slower than with one, since
    they wait for the interpreter at every image. Here a thread has some dozen images, and decoding runs outside of it.

    Args:
        source: of the images. batch_ops: operations of level "batch" on its first view; those of the others are in `source.views`.
        workers: threads.
    """

    def __init__(self, source: DrawSource, batch_ops: Sequence, workers: int):
        self.source = source
        self.batch_ops = [tuple(batch_ops), *(view.batch for view in source.views[1:])]
        # Images in memory take microseconds, and operations on small ones hand the interpreter to and fro: three views of 32 pixels
        # went at 4,800 a second on one thread and at 2,300 on two.
        images = source.images.images
        small = images is not None and images.shape[1] < 64
        self.workers = 1 if small or source.in_memory else workers
        self._shapes: list[tuple[int, ...]] | None = None  # of the views, channels first; known after the first batch
        self.pool = ThreadPoolExecutor(self.workers, thread_name_prefix="reader") if self.workers > 1 else None

    def __call__(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        views, labels, indices = self.views(draws)
        return views[0], labels, indices

    def views(self, draws: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """The same with the images of every view."""
        if self.pool is None or len(draws) < 2 * self.workers or self._shapes is None:
            views, labels, indices = self._part(draws)
            self._shapes = [images.shape[1:] for images in views]
            return views, labels, indices
        batches = [np.empty((len(draws), *shape), np.uint8) for shape in self._shapes]
        cuts = np.linspace(0, len(draws), self.workers + 1).astype(int)
        spans = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        parts = self.pool.map(lambda span: self._part(draws[span], [batch[span] for batch in batches])[1:], spans)
        labels, indices = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return batches, labels, indices

    def _part(
        self, draws: np.ndarray, outs: list[np.ndarray] | None = None
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        views, labels, indices = self.source.load_views(draws)
        done = []
        for n, images in enumerate(views):
            for op in self.batch_ops[n]:
                images = op(images, draws)
            done.append(_channels_first(images, None if outs is None else outs[n]))
        return done, labels, indices

    def __deepcopy__(self, memo):
        return self  # MindSpore copies the data set for every iterator; a pool cannot be copied, nor need it be


def _batches(
    source: DrawSource, sampler: SlotSampler, batch: int, finish: Callable, columns: list[str], workers: int
) -> ds.Dataset:
    """Slots in batches, each then turned into `columns` by `finish` in the dataset's map step."""
    dataset = ds.GeneratorDataset(
        source, ["slot"], sampler=sampler, num_parallel_workers=1, python_multiprocessing=False
    )
    dataset = dataset.batch(batch, drop_remainder=False, num_parallel_workers=1)
    # A second thread of MindSpore's hands one batch over while the reader's threads work on the next.
    return dataset.map(finish, ["slot"], columns, num_parallel_workers=min(2, workers)).project(columns)


def _channels_first(images: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(B, H, W, 3) -> (B, 3, H, W), contiguous, never the same memory."""
    planes = np.empty((len(images), 3, *images.shape[1:3]), images.dtype) if out is None else out
    if images.shape[1] < 64:
        planes[...] = images.transpose(0, 3, 1, 2)
        return planes
    for image, plane in zip(images, planes, strict=True):
        cv2.split(image, list(plane))  # three times faster than NumPy's strided copy
    return planes
