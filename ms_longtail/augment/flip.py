"""Mirror images left to right. Leave it out where it changes the label: digits, letters, traffic signs."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..registry import AUGMENT


@AUGMENT.register("flip")
class Flip:
    """Horizontal flip of each image with probability `p`.

    Args:
        p: probability, default .5.
        seed: the run's seed.

    Shapes: images (B, H, W, 3), draws (B,) -> (B, H, W, 3).
    """

    level = "batch"

    def __init__(self, *, p: Annotated[float, Ge(0), Le(1)] = 0.5, seed: int = 0):
        self.p, self.seed = p, seed

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        chosen = hashing.uniform(self.seed, draws, "flip", 1)[:, 0] < self.p  # (B,)
        for place in np.flatnonzero(chosen):
            # In place, image by image in OpenCV: ten times faster than one fancy assignment over the batch.
            cv2.flip(images[place], 1, images[place])
        return images
