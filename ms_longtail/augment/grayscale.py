"""Random images without their colours."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT


@AUGMENT.register("grayscale")
class Grayscale:
    """Replaces an image by its grey version, .299 R + .587 G + .114 B (ITU-R BT.601) in all three channels.

    Args:
        p: probability, default .2 (SimCLR).
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: `p` outside [0, 1].

    Example:
        >>> Grayscale(p=1.0)(np.array([[[[100, 0, 0]]]], np.uint8), np.array([0])).tolist()
        [[[[30, 30, 30]]]]
    """

    level = "batch"
    stream = "grayscale"  # of the random numbers; an operation that contains this one sets its own

    @checked
    def __init__(self, *, p: Annotated[float, Ge(0), Le(1)] = 0.2, seed: int = 0):
        self.p, self.seed = p, seed

    def choices(self, draws: np.ndarray) -> np.ndarray:
        """Whether an image loses its colours, (B,)."""
        return hashing.uniform(self.seed, draws, self.stream, 1)[:, 0] < self.p

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        for place in np.flatnonzero(self.choices(draws)):
            grey = cv2.cvtColor(images[place], cv2.COLOR_RGB2GRAY)
            cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB, images[place])
        return images
