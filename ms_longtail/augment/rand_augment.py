"""RandAugment: a few operations, chosen without a search, all of one magnitude."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .operations import BICUBIC, BILINEAR, GEOMETRY, LEVELS, Level, colour

NAMES = (
    "auto_contrast", "equalize", "invert", "rotate", "posterize", "solarize", "solarize_add", "color", "contrast",
    "brightness", "sharpness", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip


class Choices(NamedTuple):
    """What happens to the images of a batch; all (B, N), in the order of application."""

    which: np.ndarray  # int64, number in NAMES
    applied: np.ndarray  # bool
    magnitude: np.ndarray  # float64, 0 to 10
    sign: np.ndarray  # int64, 1 or -1, the direction of a move
    bicubic: np.ndarray  # bool, the interpolation of a move


@AUGMENT.register("rand_augment")
class RandAugment:
    """Applies N operations of magnitude M, chosen uniformly and with repetition (Cubuk et al., NeurIPS 2020).

    The paper (https://arxiv.org/abs/1909.13719) has two settings, N and M. What long-tailed recognition uses under this name
    (PaCo, BCL and others: "rand-m10-n2-mstd0.5") is the implementation of the library timm, and so is this:

    - 15 operations, those of `NAMES`: 13 of the paper's 14, without the one that does nothing, with invert and solarize_add.
    - An operation that is chosen is applied with probability p, in the paper always.
    - The magnitude is M + s z, z standard normal, cut off at 0 and 10; the paper's does not vary.
    - Ranges at magnitude m, see `amount`: those of color, contrast, brightness and sharpness run from .1 to 1.9, so that
      5 changes nothing, and solarize and posterize grow weaker with m.
    - Moves go either way; they interpolate bilinearly or bicubically, either with probability 1/2.

    In recipes for photographs it stands after random_resized_crop, flip and color_jitter.

    Args:
        operations: N, default 2.
        magnitude: M, 0 to 10, default 10.
        magnitude_std: s, default .5.
        p: default .5; 1 for the paper's.
        fill: the colour that comes in from outside, default ImageNet's mean.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: a setting outside its bounds.

    Example:
        >>> images = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3).astype(np.uint8)
        >>> augment = RandAugment(operations=3, magnitude=9)
        >>> augment(images, np.arange(2)).shape, augment.choices(np.arange(2)).which.shape
        ((2, 8, 8, 3), (2, 3))
    """

    level = "batch"

    @checked
    def __init__(
        self,
        *,
        operations: Annotated[int, Ge(1)] = 2,
        magnitude: Annotated[float, Ge(0), Le(10)] = 10.0,
        magnitude_std: Annotated[float, Ge(0)] = 0.5,
        p: Annotated[float, Ge(0), Le(1)] = 0.5,
        fill: tuple[Level, Level, Level] = (124, 116, 104),
        seed: int = 0,
    ):
        self.operations, self.magnitude, self.magnitude_std = operations, magnitude, magnitude_std
        self.p, self.fill, self.seed = p, colour(fill), seed

    def choices(self, draws: np.ndarray) -> Choices:
        """The random choices for draw numbers (B,)."""
        numbers = hashing.uniform(self.seed, draws, "rand_augment", 6 * self.operations)
        which, applied, radius, angle, sign, bicubic = numbers.reshape(-1, self.operations, 6).transpose(2, 0, 1)
        normal = np.sqrt(-2 * np.log1p(-radius)) * np.cos(2 * math.pi * angle)  # Box and Muller
        return Choices(
            (which * len(NAMES)).astype(np.int64),
            applied < self.p,
            (self.magnitude + self.magnitude_std * normal).clip(0, 10),
            np.where(sign < 0.5, -1, 1),
            bicubic < 0.5,
        )

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        height, width = images.shape[1:3]
        chosen = self.choices(draws)
        for at in zip(*np.nonzero(chosen.applied), strict=True):  # row by row, so an image's operations are in order
            place, name = at[0], NAMES[chosen.which[at]]
            value = amount(name, float(chosen.magnitude[at]), int(chosen.sign[at]), height, width)
            if name in GEOMETRY:
                resample = BICUBIC if chosen.bicubic[at] else BILINEAR
                images[place] = GEOMETRY[name](images[place], value, self.fill, resample)
            else:
                images[place] = LEVELS[name](images[place], value)
        return images


def amount(name: str, magnitude: float, sign: int, height: int, width: int) -> float:
    """What an operation is called with at a magnitude from 0 to 10; moves go to 30 degrees, .3, and .45 of the side."""
    share = magnitude / 10
    match name:
        case "rotate":
            return sign * 30 * share
        case "shear_x" | "shear_y":
            return sign * 0.3 * share
        case "translate_x":
            return sign * 0.45 * share * width
        case "translate_y":
            return sign * 0.45 * share * height
        case "color" | "contrast" | "brightness" | "sharpness":
            return 0.1 + 1.8 * share
        case "posterize":
            return int(4 * share)
        case "solarize":
            return int(256 * share)
        case "solarize_add":
            return int(110 * share)
        case _:
            return 0.0  # auto_contrast, equalize and invert have no amount
