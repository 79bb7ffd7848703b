"""Squares of an image painted over, so that a network cannot rely on one part of the object."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .operations import Level, colour


@AUGMENT.register("cutout")
class Cutout:
    """Paints squares of one colour at random places (DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552).

    The centre (y, x) is uniform over the image's pixels; the square takes the rows y - length // 2 to
    y - length // 2 + length - 1, the columns likewise, and what lies outside the image is cut off, as in the paper: so
    the painted part may be as small as a quarter of the square.

    The paper paints after normalisation, with 0, which is the data set's mean colour before it. Images are normalised by
    the network here, so the mean colour is painted: the default is that of CIFAR-10. For another data set set its own.

    Args:
        length: side of a square in pixels, default 16 (the paper: 16 for CIFAR-10, 8 for CIFAR-100).
        holes: squares an image, which may overlap; default 1.
        p: probability that an image is painted at all, default 1.
        fill: red, green and blue, 0 to 255.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds.

    Example:
        >>> images = np.full((1, 32, 32, 3), 255, np.uint8)
        >>> painted = Cutout(length=8, fill=(0, 0, 0))(images, np.array([7]))
        >>> 4 * 4 <= int((painted[0, ..., 0] == 0).sum()) <= 8 * 8
        True
    """

    level = "batch"

    @checked
    def __init__(
        self,
        *,
        length: Annotated[int, Ge(1)] = 16,
        holes: Annotated[int, Ge(1)] = 1,
        p: Annotated[float, Ge(0), Le(1)] = 1.0,
        fill: tuple[Level, Level, Level] = (125, 123, 114),
        seed: int = 0,
    ):
        self.length, self.holes, self.p, self.fill, self.seed = length, holes, p, colour(fill), seed

    def choices(self, draws: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """(whether an image is painted (B,), the squares' centres (B, holes, 2) as row and column)."""
        numbers = hashing.uniform(self.seed, draws, "cutout", 1 + 2 * self.holes)
        places = numbers[:, 1:].reshape(-1, self.holes, 2)
        return numbers[:, 0] < self.p, (places * (height, width)).astype(np.int64)

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        chosen, centres = self.choices(draws, *images.shape[1:3])
        corners = centres - self.length // 2
        for place in np.flatnonzero(chosen):
            for top, left in corners[place].tolist():
                bottom, right = top + self.length, left + self.length
                images[place, max(0, top) : bottom, max(0, left) : right] = self.fill
        return images
