"""Random rotation of the whole image."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .operations import BILINEAR, Level, colour, rotate


@AUGMENT.register("rotation")
class Rotation:
    """Turns an image about its centre by an angle uniform in [-degrees, degrees], counter-clockwise where it is above 0.

    Pixels are interpolated linearly; what comes in from outside has the colour `fill`. Leave it out where a rotation changes
    the label.

    Args:
        degrees: the largest angle, default 15.
        p: probability that an image is turned at all, default 1.
        fill: red, green and blue, 0 to 255, default black.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds.

    Example:
        >>> image = np.zeros((1, 9, 9, 3), np.uint8)
        >>> bool((Rotation(degrees=0)(image.copy(), np.array([5])) == image).all())
        True
    """

    level = "batch"

    @checked
    def __init__(
        self,
        *,
        degrees: Annotated[float, Ge(0), Le(180)] = 15.0,
        p: Annotated[float, Ge(0), Le(1)] = 1.0,
        fill: tuple[Level, Level, Level] = (0, 0, 0),
        seed: int = 0,
    ):
        self.degrees, self.p, self.fill, self.seed = degrees, p, colour(fill), seed

    def angles(self, draws: np.ndarray) -> np.ndarray:
        """Degrees for every image, 0 for those that stay as they are, float64 (B,)."""
        numbers = hashing.uniform(self.seed, draws, "rotation", 2)
        return np.where(numbers[:, 0] < self.p, self.degrees * (2.0 * numbers[:, 1] - 1.0), 0.0)

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        for place, angle in enumerate(self.angles(draws).tolist()):
            if angle:
                images[place] = rotate(images[place], angle, self.fill, BILINEAR)
        return images
