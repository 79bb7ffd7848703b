"""AutoAugment: pairs of operations that a search found to help on CIFAR-10 or ImageNet."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .operations import GEOMETRY, LEVELS, Level, colour
from .policies import POLICIES, amount


class Choices(NamedTuple):
    """What happens to the images of a batch."""

    pair: np.ndarray  # (B,) int64, which of the policy's 25 pairs
    applied: np.ndarray  # (B, 2) bool, which of its operations are applied
    sign: np.ndarray  # (B, 2) int64, 1 or -1, the direction of those that have one


@AUGMENT.register("auto_augment")
class AutoAugment:
    """Applies one of 25 pairs of operations, uniformly chosen, to each image (Cubuk et al., CVPR 2019).

    Each of the pair's operations is applied with its own probability and a fixed magnitude (`policies.py`). What the paper does
    not say is done as the public PyTorch implementations do: moves and enhancement factors go either way with probability
    1/2; shears are about the upper left corner and interpolate bicubically; translations and rotations take the nearest pixel.

    In recipes for CIFAR it stands after crop and flip and before cutout. It turns images, inverts their levels and shifts
    their colours, so leave it out where one of these makes the label.

    Args:
        policy: "cifar10" (default; also for CIFAR-100, as in the paper) or "imagenet".
        fill: the colour that comes in from outside, default grey.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: an unknown policy, a fill that is no colour.

    Example:
        >>> images = np.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3).astype(np.uint8)
        >>> AutoAugment(policy="imagenet", seed=1)(images, np.arange(2)).shape
        (2, 8, 8, 3)
    """

    level = "batch"

    @checked
    def __init__(
        self,
        *,
        policy: Literal["cifar10", "imagenet"] = "cifar10",
        fill: tuple[Level, Level, Level] = (128, 128, 128),
        seed: int = 0,
    ):
        self.pairs, self.fill, self.seed = POLICIES[policy], colour(fill), seed
        self.probabilities = np.array([[step[1] for step in pair] for pair in self.pairs])  # (25, 2)

    def choices(self, draws: np.ndarray) -> Choices:
        """The random choices for draw numbers (B,)."""
        numbers = hashing.uniform(self.seed, draws, "auto_augment", 5)
        pair = (numbers[:, 0] * len(self.pairs)).astype(np.int64)
        return Choices(pair, numbers[:, 1:3] < self.probabilities[pair], np.where(numbers[:, 3:] < 0.5, -1, 1))

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        height, width = images.shape[1:3]
        pair, applied, sign = self.choices(draws)
        for place, which in zip(
            *np.nonzero(applied), strict=True
        ):  # row by row, so a pair's first operation comes first
            name, _, magnitude = self.pairs[pair[place]][which]
            value = amount(name, magnitude, int(sign[place, which]), height, width)
            if name in GEOMETRY:
                images[place] = GEOMETRY[name](images[place], value, self.fill)
            else:
                images[place] = LEVELS[name](images[place], value)
        return images
