"""Mixup whose label leans towards the rarer class."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le

from ..bounds import checked
from ..registry import MIXING
from .base import pair
from .mixup import Mixup


def label_share(share: float, count: np.ndarray, other: np.ndarray, kappa: float, tau: float) -> np.ndarray:
    """The first label's share under remix, float64 (B,).

    Args:
        share: l, the first image's share of the pixels.
        count, other: n_i and n_j, training images of the classes of the two images, (B,).
    """
    ratio = count / other
    first_alone = (ratio <= 1 / kappa) & (1 - share < tau)
    second_alone = (ratio >= kappa) & (share < tau)
    return np.where(second_alone, 0.0, np.where(first_alone, 1.0, share))


@MIXING.register("remix")
class Remix(Mixup):
    """Pixels as in mixup; the label's share l_y is chosen image by image (Chou et al., ECCV 2020 workshops, eq. 8):

    l_y = 0 if n_i / n_j >= k and l < t;  1 if n_i / n_j <= 1/k and 1 - l < t;  l otherwise.

    So a mixture of a large and a small class with enough of the small one in it is an example of the small one alone.

    Args:
        class_counts: n, training images of every class, (C,).
        kappa: k, default 3.
        tau: t, default .5. The two rules cannot both hold as long as k > 1.
        alpha: of Beta(a, a), default 1.
        seed: the run's seed.

    Shapes: see `Mixing`; K = 2.

    Raises:
        ValueError: a setting outside its bounds, a class count below 1.

    Example:
        >>> label_share(0.4, np.array([90, 10]), np.array([10, 90]), kappa=3.0, tau=0.5).tolist()
        [0.0, 0.4]
    """

    @checked
    def __init__(
        self,
        *,
        class_counts,
        kappa: Annotated[float, Gt(1)] = 3.0,
        tau: Annotated[float, Ge(0), Le(1)] = 0.5,
        alpha: Annotated[float, Gt(0)] = 1.0,
        seed: int = 0,
    ):
        super().__init__(alpha=alpha, seed=seed)
        self.counts = np.asarray(class_counts, np.float64)
        if self.counts.min() < 1:
            empty = int(self.counts.argmin())
            raise ValueError(f"class {empty} has {self.counts[empty]:g} training images; every class needs at least 1")
        self.kappa, self.tau = kappa, tau

    def __call__(self, images, others, labels, draws, key):
        images, blend, _ = super().__call__(images, others, labels, draws, key)
        counts = self.counts[labels]  # (B, 2)
        share = label_share(float(blend[0]), counts[:, 0], counts[:, 1], self.kappa, self.tau)
        return images, blend, pair(share, len(images))
