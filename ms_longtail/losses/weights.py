"""Class weights from class counts, as NumPy constants for the `class_weights` of any loss."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Lt

from ..bounds import checked
from ..registry import CLASS_WEIGHTS


@CLASS_WEIGHTS.register("none")
def no_weights(class_counts) -> None:
    """Every image counts as its loss says."""


@CLASS_WEIGHTS.register("cost_sensitive")
@checked
def cost_sensitive(class_counts, gamma: Annotated[float, Ge(0)] = 1.0) -> np.ndarray:
    """w_c = (n_min / n_c)^gamma, so at most 1, on the smallest class.

    Args:
        class_counts: n, (C,), all at least 1.
        gamma: 1 for the inverse frequency (default), 0.5 for its square root, 0 for none.

    Returns:
        (C,) float64.

    Example:
        >>> cost_sensitive([100, 10, 1]).tolist()
        [0.01, 0.1, 1.0]
    """
    counts = np.asarray(class_counts, np.float64)
    return (counts.min() / counts) ** gamma


@CLASS_WEIGHTS.register("effective_number")
@checked
def effective_number(class_counts, beta: Annotated[float, Ge(0), Lt(1)] = 0.9999) -> np.ndarray:
    """w_c = (1 - beta) / (1 - beta^n_c), scaled to mean 1: the inverse of the effective number of images.

    Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, eq. 2 and section 4
    (https://arxiv.org/abs/1901.05555).

    Args:
        class_counts: n, (C,), all at least 1.
        beta: 0 gives equal weights, beta -> 1 the inverse frequency; default .9999.

    Returns:
        (C,) float64 with mean 1.

    Example:
        >>> effective_number([100, 10], beta=0.0).tolist()
        [1.0, 1.0]
    """
    counts = np.asarray(class_counts, np.float64)
    # 1 - beta^n without cancellation
    weights = np.ones_like(counts) if beta == 0 else (1 - beta) / -np.expm1(counts * np.log(beta))
    return weights / weights.mean()
