"""Power-q orders: between every image equally often and every class equally often."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from ..bounds import checked
from ..registry import SAMPLERS
from .class_balanced import draw_by_class
from .sharding import EpochLength


def power_probability(labels: np.ndarray, q: float) -> np.ndarray:
    """P(class c) = n_c^q / sum_j n_j^q, (C,); 0 for a class without images."""
    counts = np.bincount(labels).astype(np.float64)
    weight = np.where(counts > 0, np.maximum(counts, 1) ** q, 0.0)
    return weight / weight.sum()


@SAMPLERS.register("power")
@checked
def power(
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    q: Annotated[float, Ge(-2), Le(2)] = 0.5,
    num_samples: EpochLength = None,
) -> np.ndarray:
    """P(class c) = n_c^q / sum_j n_j^q, then a uniform image of the class (Kang et al., ICLR 2020, eq. 1).

    Args:
        labels: class of every image, (N,).
        seed, epoch: the order is a pure function of them.
        q: 1 is instance-balanced (drawn with replacement), .5 square-root, 0 class-balanced, -1 reversed; default .5.
        num_samples: length of the epoch, default N.

    Returns:
        image indices, int64 (num_samples,).

    Example:
        >>> order = power(np.array([0] * 99 + [1]), seed=0, epoch=0, q=0.0)
        >>> 30 < (order == 99).sum() < 70
        True
    """
    rng = np.random.default_rng((seed, epoch))
    return draw_by_class(labels, power_probability(labels, q), rng, len(labels) if num_samples is None else num_samples)
