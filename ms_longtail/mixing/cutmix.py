"""A rectangle of one image pasted into another."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from .. import hashing
from ..bounds import checked
from ..registry import MIXING
from .base import Mixing, pair


@MIXING.register("cutmix")
class CutMix(Mixing):
    """x = M x_i + (1 - M) x_j, M zero inside a rectangle (Yun et al., ICCV 2019, eqs. 1 and 2).

    The rectangle has sides W sqrt(1 - l) and H sqrt(1 - l), l ~ Beta(a, a), rounded; it is centred anywhere in the image and
    cut off at its border. The first label's share is the share of the pixels that are still its own. l is one for an
    optimizer step, as published; the place is drawn for every image.

    Args:
        alpha: a, default 1.
        seed: the run's seed.

    Shapes: see `Mixing`; K = 2.

    Raises:
        ValueError: alpha is not above 0.

    Example:
        >>> black, white = np.zeros((4, 3, 8, 8), np.uint8), np.full((4, 3, 8, 8), 255, np.uint8)
        >>> mixed, _, shares = CutMix()(black, [white], np.zeros((4, 2), np.int32), np.arange(4), key=3)
        >>> bool(np.allclose(shares[:, 1], mixed.mean(axis=(1, 2, 3)) / 255))
        True
    """

    @checked
    def __init__(self, *, alpha: Annotated[float, Gt(0)] = 1.0, seed: int = 0):
        super().__init__(seed=seed)
        self.alpha = alpha

    def __call__(self, images, others, labels, draws, key):
        batch, _, height, width = images.shape
        side = np.sqrt(1 - self.rng(key).beta(self.alpha, self.alpha))
        tall, wide = round(height * side), round(width * side)
        centre = hashing.uniform(self.seed, draws, "cutmix", 2) * (height, width)  # (B, 2)
        corner = centre.astype(int) - (tall // 2, wide // 2)
        top, left = np.maximum(corner, 0).T
        bottom, right = np.minimum(corner + np.array([tall, wide]), (height, width)).T
        mixed = images.copy()
        for i, (a, b, c, d) in enumerate(zip(top, bottom, left, right, strict=True)):
            mixed[i, :, a:b, c:d] = others[0][i, :, a:b, c:d]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, np.ones(batch, np.float32), pair(share, batch)
