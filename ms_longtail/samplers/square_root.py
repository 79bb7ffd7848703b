"""Square-root order: half way from images to classes."""

from __future__ import annotations

import numpy as np

from ..registry import SAMPLERS
from .class_balanced import draw_by_class
from .power import power_probability
from .sharding import EpochLength


@SAMPLERS.register("square_root")
def square_root(labels: np.ndarray, *, seed: int, epoch: int, num_samples: EpochLength = None) -> np.ndarray:
    """P(class c) = sqrt(n_c) / sum_j sqrt(n_j), then a uniform image of the class (Mahajan et al., ECCV 2018).

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        num_samples: length of the epoch, default N.

    Returns:
        image indices, int64 (num_samples,).

    Example:
        >>> order = square_root(np.array([0] * 81 + [1]), seed=0, epoch=0, num_samples=1000)
        >>> 60 < (order == 81).sum() < 140                                       # 1 in 10
        True
    """
    rng = np.random.default_rng((seed, epoch))
    return draw_by_class(
        labels, power_probability(labels, 0.5), rng, len(labels) if num_samples is None else num_samples
    )
