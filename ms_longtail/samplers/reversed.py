"""Reversed order: the rarest class most often."""

from __future__ import annotations

import numpy as np

from ..registry import SAMPLERS
from .class_balanced import draw_by_class
from .power import power_probability
from .sharding import EpochLength


@SAMPLERS.register("reversed")
def reversed_order(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """P(class c) = (1 / n_c) / sum_j (1 / n_j), then a uniform image of the class (BBN: Zhou et al., CVPR 2020).

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default N.

    Returns:
        image indices, int64 (num_samples,).

    Example:
        >>> order = reversed_order(np.array([0] * 99 + [1]), seed=0, epoch=0)
        >>> int((order == 99).sum()) > 90
        True
    """
    rng = np.random.default_rng((seed, epoch))
    return draw_by_class(
        labels, power_probability(labels, -1.0), rng, len(labels) if num_samples is None else num_samples
    )
