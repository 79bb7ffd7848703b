"""A rectangle of an image painted over or filled with noise."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .operations import Level, colour


@AUGMENT.register("random_erasing")
class RandomErasing:
    """Erases a rectangle of random area, shape and place (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020,
    algorithm 1, https://arxiv.org/abs/1708.04896).

    With probability p: the area is S = u H W with u uniform in [area_min, area_max], the shape r uniform in
    [aspect_min, 1 / aspect_min]; the rectangle has round(sqrt(S r)) rows and round(sqrt(S / r)) columns. One that is as
    large as the image or larger is drawn again, up to `tries` times; then the image stays. Its place is uniform among those at
    which it lies inside, as in the authors' program (the paper's algorithm draws the corner first, and rejects).

    Args:
        p: probability that an image is changed, default .5.
        area_min, area_max: bounds of the area as a share of the image's, default .02 and .4.
        aspect_min: the least ratio of height to width, default .3; the largest is its reciprocal.
        fill: "mean": `color`; "noise": every value of every channel uniform in 0 … 255.
        color: red, green and blue of the mean, 0 to 255; default that of ImageNet.
        tries: default 100.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds, or area_min above area_max.

    Example:
        >>> images = np.full((1, 32, 32, 3), 255, np.uint8)
        >>> erased = RandomErasing(p=1.0, area_min=0.25, area_max=0.25, aspect_min=1.0, color=(0, 0, 0))(images, np.array([1]))
        >>> int((erased[0, ..., 0] == 0).sum())
        256
    """

    level = "batch"

    @checked
    def __init__(
        self,
        *,
        p: Annotated[float, Ge(0), Le(1)] = 0.5,
        area_min: Annotated[float, Gt(0), Le(1)] = 0.02,
        area_max: Annotated[float, Gt(0), Le(1)] = 0.4,
        aspect_min: Annotated[float, Gt(0), Le(1)] = 0.3,
        fill: Literal["mean", "noise"] = "mean",
        color: tuple[Level, Level, Level] = (124, 116, 104),
        tries: Annotated[int, Ge(1), Le(1000)] = 100,
        seed: int = 0,
    ):
        if area_min > area_max:
            raise ValueError(f"area_min = {area_min}: must not be above area_max {area_max}")
        self.p, self.areas, self.aspect_min = p, (area_min, area_max), aspect_min
        self.fill, self.color, self.tries, self.seed = fill, colour(color), tries, seed

    def choices(self, draws: np.ndarray, height: int, width: int) -> np.ndarray:
        """Top, left, rows and columns of every image's rectangle, int64 (B, 4); no rows where it stays as it is."""
        numbers = hashing.uniform(self.seed, draws, "random_erasing", 1 + 4 * self.tries)
        u, v, y, x = numbers[:, 1:].reshape(-1, self.tries, 4).transpose(2, 0, 1)  # (B, tries) each
        area = (self.areas[0] + (self.areas[1] - self.areas[0]) * u) * height * width
        ratio = self.aspect_min + (1.0 / self.aspect_min - self.aspect_min) * v
        rows, columns = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))
        fits = (rows < height) & (columns < width)
        first, image = fits.argmax(axis=1), np.arange(len(draws))
        rows, columns = rows[image, first], columns[image, first]
        top = np.floor(y[image, first] * (height - rows + 1))
        left = np.floor(x[image, first] * (width - columns + 1))
        found = np.stack([top, left, rows, columns], axis=1)
        found[~(fits.any(axis=1) & (numbers[:, 0] < self.p))] = 0
        return found.astype(np.int64)

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        for place, (top, left, rows, columns) in enumerate(self.choices(draws, *images.shape[1:3]).tolist()):
            if rows and columns:
                part = images[place, top : top + rows, left : left + columns]
                part[...] = self.color if self.fill == "mean" else self._noise(int(draws[place]), part.shape)
        return images

    def _noise(self, draw: int, shape: tuple[int, ...]) -> np.ndarray:
        count = math.prod(shape)
        words = hashing.bits(self.seed, np.array([draw]), "random_erasing noise", -(-count // 8))
        return words.view(np.uint8).reshape(-1)[:count].reshape(shape)
