"""Class-balanced order: every class equally often, whatever its size."""

from __future__ import annotations

import numpy as np

from ..registry import SAMPLERS
from .sharding import EpochLength


def by_class(labels: np.ndarray) -> np.ndarray:
    """Images of class 0 in their order, then those of class 1, ...: (N,) indices.

    NumPy sorts 16-bit numbers in linear time, four times faster than others at N = 437,513.
    """
    small = len(labels) > 0 and labels.max() < 2**16
    return np.argsort(labels.astype(np.uint16) if small else labels, kind="stable")


def draw_by_class(
    labels: np.ndarray, probability: np.ndarray, rng: np.random.Generator, num_samples: int
) -> np.ndarray:
    """Draw a class from `probability` (C,), then an image of it uniformly, both with replacement.

    Classes without an image must have probability 0. Costs O(N + num_samples log C).
    """
    counts = np.bincount(labels, minlength=len(probability))  # (C,)
    first = np.cumsum(counts) - counts  # where each class begins among the images by class
    edges = np.cumsum(probability)
    classes = np.searchsorted(edges, rng.random(num_samples) * edges[-1], side="right")  # (num_samples,)
    place = (rng.random(num_samples) * counts[classes]).astype(np.int64)
    return by_class(labels)[first[classes] + place]


@SAMPLERS.register("class_balanced")
def class_balanced(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """P(class c) = 1 / C, then a uniform image of the class (Kang et al., ICLR 2020, eq. 1 with q = 0).

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default N.

    Returns:
        image indices, int64 (num_samples,). Classes without any image are left out, the others stay equal.

    Example:
        >>> order = class_balanced(np.array([0] * 99 + [1]), seed=0, epoch=0)
        >>> 30 < (order == 99).sum() < 70
        True
    """
    present = (np.bincount(labels) > 0).astype(np.float64)
    rng = np.random.default_rng((seed, epoch))
    return draw_by_class(labels, present / present.sum(), rng, len(labels) if num_samples is None else num_samples)
