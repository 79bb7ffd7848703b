"""Crops: with a padded border for small images, with a random size for photographs, from the centre for testing."""

from __future__ import annotations

import math
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le

from .. import hashing
from ..registry import AUGMENT


@AUGMENT.register("crop")
class Crop:
    """Pad every side with black, then cut out a window of the original size at a random place.

    Args:
        padding: pixels on every side, default 4 (the CIFAR recipes).
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3).
    """

    level = "batch"

    def __init__(self, *, padding: Annotated[int, Ge(0)] = 4, seed: int = 0):
        self.padding, self.seed = padding, seed

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        batch, height, width, _ = images.shape
        p = self.padding
        offsets = hashing.integers(self.seed, draws, "crop", 2, 2 * p + 1)  # (B, 2)
        padded = np.zeros((batch, height + 2 * p, width + 2 * p, 3), images.dtype)
        padded[:, p : p + height, p : p + width] = images
        # One strided view holds every window of every image; picking B of them is a single copy.
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        picked = windows[np.arange(batch), offsets[:, 0], offsets[:, 1]]  # (B, 3, H, W), a window's axes come last
        return picked.transpose(0, 2, 3, 1)


@AUGMENT.register("random_resized_crop")
class RandomResizedCrop:
    """Cut out a window of random area and shape and resize it to a square (Szegedy et al., CVPR 2015).

    Up to ten windows are tried, as everywhere; then the largest centred one within the ratios is taken.

    Args:
        size: side of the result in pixels.
        scale_min, scale_max: the window's share of the image's area.
        ratio_min, ratio_max: its width over height.
        seed: the run's seed.

    Shapes: image (h, w, 3) uint8 and its row of `random(draws)` -> (size, size, 3).
    """

    level = "image"

    def __init__(
        self,
        *,
        size: int,
        scale_min: Annotated[float, Gt(0), Le(1)] = 0.08,
        scale_max: Annotated[float, Gt(0), Le(1)] = 1.0,
        ratio_min: Annotated[float, Gt(0)] = 3 / 4,
        ratio_max: Annotated[float, Gt(0)] = 4 / 3,
        seed: int = 0,
    ):
        if scale_min > scale_max:
            raise ValueError(f"scale_min {scale_min} is larger than scale_max {scale_max}")
        if ratio_min > ratio_max:
            raise ValueError(f"ratio_min {ratio_min} is larger than ratio_max {ratio_max}")
        self.size, self.seed = size, seed
        self.scale, self.ratio = (scale_min, scale_max), (ratio_min, ratio_max)

    def random(self, draws: np.ndarray) -> np.ndarray:
        """Four uniform numbers for each of ten tries, (B, 40)."""
        return hashing.uniform(self.seed, draws, "random_resized_crop", 40)

    def window(self, height: int, width: int, numbers: np.ndarray) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the window; `numbers` is a row of `random`."""
        tries = iter(numbers.tolist())
        for area_share, shape, v, h in zip(tries, tries, tries, tries, strict=True):
            area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area_share)
            low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
            aspect = math.exp(low + (high - low) * shape)
            w = round(math.sqrt(area * aspect))
            t = round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < t <= height:
                return int(v * (height - t + 1)), int(h * (width - w + 1)), t, w
        w, t = width, height
        if width / height < self.ratio[0]:
            t = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        return (height - t) // 2, (width - w) // 2, t, w

    def __call__(self, image: np.ndarray, numbers: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        top, left, height, width = self.window(*image.shape[:2], numbers)
        return resize(image[top : top + height, left : left + width], self.size, self.size, out)


class CentreCrop:
    """Resize the shorter side, then cut the centre square: the test-time view.

    Args:
        size: side of the result.
        resize: shorter side before the cut, at least `size`.
    """

    level = "image"

    def __init__(self, *, size: int, resize: int | None = None):
        self.size, self.resize = size, size if resize is None else resize
        if self.resize < size:
            raise ValueError(f"resize {self.resize} is smaller than the crop of {size}")

    def random(self, draws: np.ndarray) -> np.ndarray:
        return np.empty((len(draws), 0))

    def __call__(
        self, image: np.ndarray, numbers: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        height, width = image.shape[:2]
        factor = self.resize / min(height, width)
        image = resize(image, max(self.size, round(height * factor)), max(self.size, round(width * factor)))
        top, left = (image.shape[0] - self.size) // 2, (image.shape[1] - self.size) // 2
        return image[top : top + self.size, left : left + self.size]


class Whole:
    """Resize the whole image to a square, whatever its shape: nothing is cut off.

    Args:
        size: side of the result.
    """

    level = "image"

    def __init__(self, *, size: int):
        self.size = size

    def random(self, draws: np.ndarray) -> np.ndarray:
        return np.empty((len(draws), 0))

    def __call__(
        self, image: np.ndarray, numbers: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        return resize(image, self.size, self.size, out)


def resize(image: np.ndarray, height: int, width: int, out: np.ndarray | None = None) -> np.ndarray:
    """Bilinear, or the area average when shrinking to less than half (bilinear skips pixels there and shows moire).

    `out`, where given, is an array that the result may be written into.
    """
    if image.shape[:2] == (height, width):
        return image
    shrink = 2 * height < image.shape[0] and 2 * width < image.shape[1]
    return cv2.resize(image, (width, height), out, interpolation=cv2.INTER_AREA if shrink else cv2.INTER_LINEAR)
