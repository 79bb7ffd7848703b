"""Four images tiled into one."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from .. import hashing
from ..bounds import checked
from ..registry import MIXING
from .base import Mixing


@MIXING.register("ricap")
class Ricap(Mixing):
    """Random crops of four images tile one image; the labels count by area (Takahashi et al., ACML 2018, sec. 3).

    The boundary (w, h) = (round(W u), round(H v)), u, v ~ Beta(b, b), one for an optimizer step, divides the image into four
    parts. Part k is a crop of image k at a random place, drawn for every image; s_k = w_k h_k / (W H).

    Args:
        beta: b, default .3: mostly one image or two, seldom four equal ones.
        seed: the run's seed.

    Shapes: see `Mixing`; K = 4: top left, top right, bottom left, bottom right.

    Raises:
        ValueError: beta is not above 0.

    Example:
        >>> tiles = [np.full((2, 3, 8, 8), value, np.uint8) for value in (10, 20, 30, 40)]
        >>> mixed, _, shares = Ricap(beta=1.0)(tiles[0], tiles[1:], np.zeros((2, 4), np.int32), np.arange(2), key=0)
        >>> bool(np.allclose(mixed.mean(axis=(1, 2, 3)), shares @ [10, 20, 30, 40]))
        True
    """

    partners = 3

    @checked
    def __init__(self, *, beta: Annotated[float, Gt(0)] = 0.3, seed: int = 0):
        super().__init__(seed=seed)
        self.beta = beta

    def __call__(self, images, others, labels, draws, key):
        batch, _, height, width = images.shape
        u, v = self.rng(key).beta(self.beta, self.beta, size=2)
        w, h = round(width * u), round(height * v)
        parts = [(0, 0, h, w), (0, w, h, width - w), (h, 0, height - h, w), (h, w, height - h, width - w)]
        places = hashing.uniform(self.seed, draws, "ricap", 8)  # (B, 8): top and left of the four crops
        mixed = np.empty_like(images)
        for k, (source, (top, left, tall, wide)) in enumerate(zip([images, *others], parts, strict=True)):
            tops = (places[:, 2 * k] * (height - tall + 1)).astype(int)
            lefts = (places[:, 2 * k + 1] * (width - wide + 1)).astype(int)
            for i, (a, b) in enumerate(zip(tops, lefts, strict=True)):
                mixed[i, :, top : top + tall, left : left + wide] = source[i, :, a : a + tall, b : b + wide]
        shares = np.array([tall * wide for _, _, tall, wide in parts], np.float32) / (height * width)
        return mixed, np.ones(batch, np.float32), np.broadcast_to(shares, (batch, 4)).copy()
