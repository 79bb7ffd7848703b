"""PCA lighting noise: a colour shift along the axes in which the colours of photographs vary."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT

# Variances and axes (columns: first, second, third) of the RGB values of ImageNet's training images, for values from 0 to 1, as
# the reference implementations of AlexNet have used them since.
VARIANCES = np.array([0.2175, 0.0188, 0.0045])
AXES = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

_LEVELS = np.arange(256)


@AUGMENT.register("lighting")
class Lighting:
    """Adds sum_k a_k lambda_k p_k to every pixel's colour, a_k ~ N(0, std^2) drawn for every image.

    lambda_k and p_k are the eigenvalues and eigenvectors of the covariance of RGB values over ImageNet
    (Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", NeurIPS 2012, section 4.1).

    Args:
        std: of the factors a_k, default .1 as in the paper; 0 changes nothing.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous; levels are
    rounded, and cut off at 0 and 255.

    Raises:
        ValueError: a std below 0.

    Example:
        >>> grey = np.full((1, 2, 2, 3), 128, np.uint8)
        >>> bool((Lighting(std=0.0)(grey.copy(), np.array([3])) == grey).all())
        True
    """

    level = "batch"

    @checked
    def __init__(self, *, std: Annotated[float, Ge(0)] = 0.1, seed: int = 0):
        self.std, self.seed = std, seed

    def shifts(self, draws: np.ndarray) -> np.ndarray:
        """What is added to red, green and blue of every image, in levels of 255, float64 (B, 3)."""
        radius, angle = np.split(hashing.uniform(self.seed, draws, "lighting", 6), 2, axis=1)  # (B, 3) each
        # Box and Muller, 1958: one normal number of every pair of uniform ones; 1 - u is never 0.
        factors = self.std * np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * angle)
        return 255.0 * (factors * VARIANCES) @ AXES.T

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        tables = np.rint(_LEVELS[:, None] + self.shifts(draws)[:, None]).clip(0, 255).astype(np.uint8)  # (B, 256, 3)
        for image, table in zip(images, tables, strict=True):
            cv2.LUT(image, table[None], dst=image)
        return images
