"""Random over-sampling: every class repeated up to the size of the largest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..registry import SAMPLERS
from .class_balanced import by_class
from .sharding import EpochLength


def rank_in_class(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random numbering 0, 1, ... of the images of every class, (N,)."""
    shuffled = rng.permutation(len(labels))
    order = shuffled[by_class(labels[shuffled])]  # by class, at random within it
    counts = np.bincount(labels)
    rank = np.empty(len(labels), np.int64)
    rank[order] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def rounds(one: Callable[[], np.ndarray], num_samples: int | None) -> np.ndarray:
    """One epoch's images, or as many rounds of it as `num_samples` takes."""
    order = one()
    if num_samples is None or num_samples <= len(order):
        return order[:num_samples]
    more = [one() for _ in range(-(-num_samples // len(order)) - 1)]
    return np.concatenate([order, *more])[:num_samples]


@SAMPLERS.register("over")
def over_sampling(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """Every class repeated up to n_max images: each image floor(n_max / n_c) times, and some of them, at random, once more.

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default C n_max.

    Returns:
        image indices, int64, shuffled; every image is among them. Classes without any image are left out.

    Example:
        >>> sorted(over_sampling(np.array([0, 0, 0, 1]), seed=0, epoch=0).tolist())
        [0, 1, 2, 3, 3, 3]
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.bincount(labels)
    times, rest = np.divmod(counts.max(), np.maximum(counts, 1))

    def one() -> np.ndarray:
        repeats = times[labels] + (rank_in_class(labels, rng) < rest[labels])
        return rng.permutation(np.repeat(np.arange(len(labels)), repeats))

    return rounds(one, num_samples)
