"""Random brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT

_LEVELS = np.arange(256)


@AUGMENT.register("color_jitter")
class ColorJitter:
    """Changes brightness, contrast, saturation and hue by random factors, in random order, as torchvision's ColorJitter.

    With x a level, g the grey level .299 R + .587 G + .114 B of its pixel and m the mean of g over the image:

        brightness: f x, contrast: m + f (x - m), saturation: g + f (x - g), each rounded and cut off at 0 and 255;
        hue: the angle of the colour in HSV, moved by f turns.

    f is uniform in [max(0, 1 - s), 1 + s] for the setting s of the first three, and in [-hue, hue]. A setting of 0
    leaves its step out. Hue angles have 256 steps, as in Pillow.

    Args:
        brightness, contrast, saturation: half the width of the factors' range; default .4.
        hue: the largest move in turns, at most .5; default 0. (.4, .4, .4, 0) is usual for photographs in long-tailed
            recognition, (.4, .4, .4, .1) with p .8 in contrastive learning.
        p: probability that an image is changed at all, default 1.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds.

    Example:
        >>> grey = np.full((1, 2, 2, 3), 100, np.uint8)
        >>> bright = ColorJitter(brightness=0.5, contrast=0, saturation=0)(grey.copy(), np.array([3]))
        >>> 50 <= int(bright.min()) == int(bright.max()) <= 150
        True
    """

    level = "batch"
    stream = "color_jitter"  # of the random numbers; an operation that contains this one sets its own

    @checked
    def __init__(
        self,
        *,
        brightness: Annotated[float, Ge(0)] = 0.4,
        contrast: Annotated[float, Ge(0)] = 0.4,
        saturation: Annotated[float, Ge(0)] = 0.4,
        hue: Annotated[float, Ge(0), Le(0.5)] = 0.0,
        p: Annotated[float, Ge(0), Le(1)] = 1.0,
        seed: int = 0,
    ):
        widths = (brightness, contrast, saturation)
        self.low = np.array([*(max(0.0, 1.0 - width) for width in widths), -hue])
        self.high = np.array([*(1.0 + width for width in widths), hue])
        self.p, self.seed = p, seed

    def choices(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(whether an image is changed (B,), the four factors (B, 4), the order of the four steps (B, 4))."""
        numbers = hashing.uniform(self.seed, draws, self.stream, 9)
        factors = self.low + (self.high - self.low) * numbers[:, 1:5]
        return numbers[:, 0] < self.p, factors, np.argsort(numbers[:, 5:], axis=1, kind="stable")

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        chosen, factors, orders = self.choices(draws)
        used = self.low < self.high
        for place in np.flatnonzero(chosen):
            image, row = images[place], factors[place].tolist()
            for step in orders[place].tolist():
                if used[step]:
                    image = STEPS[step](image, row[step])
            images[place] = image
        return images


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """factor * x."""
    return _through(image, factor * _LEVELS)


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """m + factor * (x - m) with m the image's mean grey level."""
    mean = cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0]
    return _through(image, mean + factor * (_LEVELS - mean))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """g + factor * (x - g) with g the pixel's grey level."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return cv2.addWeighted(image, factor, grey, 1.0 - factor, 0.0)


def hue(image: np.ndarray, turns: float) -> np.ndarray:
    """The hue moved by so many turns round the colour circle; saturation and value stay."""
    steps = round(256 * turns) % 256
    if not steps:
        return image  # two conversions would change levels for nothing
    cone = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    table = np.stack([(_LEVELS + steps) % 256, _LEVELS, _LEVELS], axis=1).astype(np.uint8)[None]  # (1, 256, 3)
    return cv2.cvtColor(cv2.LUT(cone, table), cv2.COLOR_HSV2RGB_FULL)


STEPS = (brightness, contrast, saturation, hue)


def _through(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    return cv2.LUT(image, np.rint(table).clip(0, 255).astype(np.uint8))
