"""Mixup of input images."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from ..bounds import checked
from ..registry import MIXING
from .base import Mixing, pair


@MIXING.register("mixup")
class Mixup(Mixing):
    """x = l x_i + (1 - l) x_j, loss l L(y_i) + (1 - l) L(y_j), l ~ Beta(a, a) (Zhang et al., ICLR 2018, eqs. 1 and 2).

    One l for an optimizer step. The partner j is another image of the step, or comes from the stage's second sampler, as in
    the two orders of BBN. Pixels are blended on the device, in float32.

    Args:
        alpha: a, default 1 (l is uniform). Small values leave most images nearly alone.
        seed: the run's seed.

    Shapes: see `Mixing`; K = 2.

    Raises:
        ValueError: alpha is not above 0.

    Example:
        >>> images = np.zeros((4, 3, 8, 8), np.uint8)
        >>> labels = np.array([[0, 1], [1, 2], [2, 3], [3, 0]], np.int32)
        >>> _, blend, shares = Mixup()(images, [images[::-1]], labels, np.arange(4), key=0)
        >>> shares.shape, bool(np.all(shares[:, 0] == blend)), bool(np.allclose(shares.sum(axis=1), 1))
        ((4, 2), True, True)
    """

    second = True

    @checked
    def __init__(self, *, alpha: Annotated[float, Gt(0)] = 1.0, seed: int = 0):
        super().__init__(seed=seed)
        self.alpha = alpha

    def __call__(self, images, others, labels, draws, key):
        share = self.rng(key).beta(self.alpha, self.alpha)
        return images, np.full(len(images), share, np.float32), pair(share, len(images))
