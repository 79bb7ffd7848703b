"""Random images out of focus."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT


@AUGMENT.register("gaussian_blur")
class GaussianBlur:
    """Blurs an image with a Gaussian of random width (SimCLR, Chen et al., ICML 2020, appendix A).

    The kernel has about a tenth of the image's shorter side, an odd number of pixels and at least 3: 23 for 224, 3 for 32.
    The image goes on as its mirror image outside. At 32 pixels the paper leaves the blur out.

    Args:
        p: probability, default .5.
        sigma_min, sigma_max: the Gaussian's standard deviation in pixels is uniform between them; default .1 and 2.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds, sigma_min above sigma_max.

    Example:
        >>> image = np.zeros((1, 9, 9, 3), np.uint8); image[0, 4, 4] = 255
        >>> blurred = GaussianBlur(p=1.0, sigma_min=1.0)(image, np.array([0]))
        >>> bool(0 < blurred[0, 3, 3, 0] < blurred[0, 4, 4, 0] < 255)
        True
    """

    level = "batch"
    stream = "gaussian_blur"  # of the random numbers; an operation that contains this one sets its own

    @checked
    def __init__(
        self,
        *,
        p: Annotated[float, Ge(0), Le(1)] = 0.5,
        sigma_min: Annotated[float, Gt(0)] = 0.1,
        sigma_max: Annotated[float, Gt(0)] = 2.0,
        seed: int = 0,
    ):
        if sigma_min > sigma_max:
            raise ValueError(f"sigma_min {sigma_min} is larger than sigma_max {sigma_max}")
        self.p, self.low, self.high, self.seed = p, sigma_min, sigma_max, seed

    def choices(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(whether an image is blurred (B,), the standard deviation in pixels (B,))."""
        numbers = hashing.uniform(self.seed, draws, self.stream, 2)
        return numbers[:, 0] < self.p, self.low + (self.high - self.low) * numbers[:, 1]

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        chosen, sigmas = self.choices(draws)
        reach = kernel_side(*images.shape[1:3]) // 2
        for place in np.flatnonzero(chosen):
            # Weights farther out than four deviations are below the 1/256 that OpenCV counts in; leaving them out is faster.
            side = 2 * min(reach, math.ceil(4 * sigmas[place])) + 1
            images[place] = cv2.GaussianBlur(images[place], (side, side), float(sigmas[place]))
        return images


def kernel_side(height: int, width: int) -> int:
    """Pixels of the kernel: a tenth of the shorter side, odd, at least 3."""
    return max(3, min(height, width) // 10 | 1)
