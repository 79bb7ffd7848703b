"""Instance-balanced order: every image once an epoch."""

from __future__ import annotations

import numpy as np

from ..registry import SAMPLERS
from .sharding import EpochLength


@SAMPLERS.register("instance")
def instance(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """A shuffle of all images: P(class c) = n_c / N, without replacement.

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default N. Longer epochs go through further shuffles.

    Returns:
        image indices, int64 (num_samples,).

    Example:
        >>> sorted(instance(np.array([0, 0, 1]), seed=0, epoch=0))
        [0, 1, 2]
    """
    length = len(labels) if num_samples is None else num_samples
    rng = np.random.default_rng((seed, epoch))
    rounds = -(-length // len(labels))
    return np.concatenate([rng.permutation(len(labels)) for _ in range(rounds)])[:length]
