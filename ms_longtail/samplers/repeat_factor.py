"""Repeat-factor order: images of rare classes come several times, all others once."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt, Le

from ..bounds import checked
from ..registry import SAMPLERS
from .over import rounds
from .sharding import EpochLength


@SAMPLERS.register("repeat_factor")
@checked
def repeat_factor(
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    threshold: Annotated[float, Gt(0), Le(1)] = 1e-3,
    num_samples: EpochLength = None,
) -> np.ndarray:
    """Image i comes floor(r) times and once more with probability r - floor(r), r_c = max(1, sqrt(t / f_c)), f_c = n_c / N.

    Gupta et al., "LVIS", CVPR 2019, section 5. Every epoch has round(sum_i r_i) draws: the images that come once more are chosen
    together, by systematic sampling over a shuffle, so that their number does not vary.

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        threshold: t, .001 by default (LVIS). Classes whose share is below it are repeated.
        num_samples: length of the epoch, default round(sum_i r_i).

    Returns:
        image indices, int64, shuffled; every image is among them.

    Example:
        >>> labels = np.array([0] * 99 + [1])
        >>> np.bincount(labels[repeat_factor(labels, seed=0, epoch=0, threshold=0.09)]).tolist()
        [99, 3]
    """
    rng = np.random.default_rng((seed, epoch))
    counts = np.bincount(labels)
    factor = np.maximum(1.0, np.sqrt(threshold * len(labels) / np.maximum(counts, 1)))[labels]  # (N,)
    sure = np.floor(factor).astype(np.int64)
    share = factor - sure
    partly = np.flatnonzero(share > 0)
    extra = round(factor.sum()) - int(sure.sum())
    spare = share.sum() - extra  # what rounding the length adds or takes, at most .5

    def one() -> np.ndarray:
        repeats = sure.copy()
        if extra:
            shuffle = rng.permutation(partly)
            edges = np.cumsum(share[shuffle])
            # Points at distance 1 from a random start: a share below 1 meets one at most. The start is such that there are `extra`.
            points = rng.uniform(max(0.0, spare), min(1.0, 1.0 + spare)) + np.arange(extra)
            repeats[shuffle[np.minimum(np.searchsorted(edges, points, side="right"), len(shuffle) - 1)]] += 1
        return rng.permutation(np.repeat(np.arange(len(labels)), repeats))

    return rounds(one, num_samples)
