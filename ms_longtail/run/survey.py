"""Reads every image of a data set once, with threads: decode, hash, drop."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np

from .. import runtime
from ..data import ImageSet, Splits
from ..errors import DataError
from ..evaluation.duplicates import Pictures
from ..evaluation.perceptual_hash import DETAILS, look

CHUNK = 64  # images of one task


@dataclass(frozen=True)
class Survey:
    """What is known of the images after they were read.

    Attributes:
        names: the parts, in the order of their numbers.
        pictures: the readable images of all parts.
        index: their numbers in their parts (N,). height, width, grey: (N,).
        unreadable: (part, index, message) of the others.
        seconds: of reading.
    """

    names: tuple[str, ...]
    pictures: Pictures
    index: np.ndarray
    height: np.ndarray
    width: np.ndarray
    grey: np.ndarray
    unreadable: list[tuple[int, int, str]]
    seconds: float


def survey(splits: Splits, *, workers: int, progress: Callable[[int, float], None] = lambda done, rate: None) -> Survey:
    """Look at all images of all parts.

    Args:
        workers: threads.
        progress: called with the images done and the images a second.
    """
    runtime.single_threaded_opencv()
    parts = splits.parts()
    sizes = [len(images) for images in parts.values()]
    total, first = sum(sizes), np.cumsum([0, *sizes])
    space = {
        "digest": np.zeros((total, 2), np.uint64),
        "code": np.zeros(total, np.uint64),
        "flat": np.zeros(total, bool),
        "details": np.zeros((total, DETAILS), np.float16),
        "height": np.zeros(total, np.int32),
        "width": np.zeros(total, np.int32),
        "grey": np.zeros(total, bool),
    }
    readable, unreadable, began, done = np.zeros(total, bool), [], time.perf_counter(), 0
    tasks = [
        (number, images, start, int(first[number]))
        for number, images in enumerate(parts.values())
        for start in range(0, len(images), CHUNK)
    ]
    pool = ThreadPoolExecutor(workers)
    try:
        for task in as_completed([pool.submit(_look_at, *task, space, readable) for task in tasks]):
            count, faults = task.result()
            unreadable += faults
            done += count
            progress(done, done / (time.perf_counter() - began))
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C, what is queued is not read any more
    labels = np.concatenate([images.labels for images in parts.values()])
    number = np.repeat(np.arange(len(sizes)), sizes)
    index = np.arange(total) - first[number]
    kept = {name: values[readable] for name, values in space.items()}
    pictures = Pictures(
        part=number[readable],
        label=labels[readable].astype(np.int64),
        **{name: kept[name] for name in ("digest", "code", "flat", "details")},
    )
    return Survey(
        tuple(parts), pictures, index[readable], kept["height"], kept["width"], kept["grey"], sorted(unreadable),
        time.perf_counter() - began,
    )  # fmt: skip


def _look_at(number: int, images: ImageSet, start: int, first: int, space: dict, readable: np.ndarray):
    """Fill the rows of one task; returns (images looked at, faults)."""
    stop, faults = min(start + CHUNK, len(images)), []
    for index in range(start, stop):
        try:
            seen = look(images.read(index))
        except DataError as error:
            faults.append((number, index, str(error)))
            continue
        except Exception as error:  # a decoder may stumble over a broken file in any way, and each is a finding
            faults.append((number, index, f"cannot decode image {images.name(index)}: {error}"))
            continue
        row = first + index
        space["digest"][row] = np.frombuffer(seen.digest, np.uint64)
        for name in ("code", "flat", "details", "height", "width", "grey"):
            space[name][row] = getattr(seen, name)
        readable[row] = True
    return stop - start, faults
