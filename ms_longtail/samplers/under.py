"""Random under-sampling: every class cut to the size of the smallest."""

from __future__ import annotations

import numpy as np

from ..registry import SAMPLERS
from .over import rank_in_class, rounds
from .sharding import EpochLength


@SAMPLERS.register("under")
def under_sampling(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """n_min images of every class, chosen anew at random in every epoch.

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default C n_min.

    Returns:
        image indices, int64, shuffled. Classes without any image are left out.

    Example:
        >>> labels = np.array([0, 0, 0, 1])
        >>> sorted(labels[under_sampling(labels, seed=0, epoch=0)].tolist())
        [0, 1]
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.bincount(labels)
    smallest = counts[counts > 0].min()
    return rounds(lambda: rng.permutation(np.flatnonzero(rank_in_class(labels, rng) < smallest)), num_samples)
