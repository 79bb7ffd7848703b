"""The transformations of CAM augmentation on whole images: what remains of it without the map."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le, MinLen

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .cam import augmented_share
from .moves import MOVES, Move, affine, moves, warp


@AUGMENT.register("image_trans")
class ImageTrans:
    """Moves the whole image, for as many images of every class as `cam` does ("ImageTrans" in Zhang et al., AAAI 2021, table 8).

    One of `transforms`, at random, about the image's centre; what comes in from outside is black.

    Args:
        class_counts: training images per class, (C,).
        transforms: which of flip, translate, rotate, scale; leave flip out where it changes the label.
        shift: the largest translation, as a share of the image's sides, default .125.
        cap, always: as in `cam`.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, labels, index, draws (B,) -> (B, H, W, 3), never the same memory.

    Raises:
        ValueError: a setting outside its bounds.

    Example:
        >>> image = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
        >>> flip = ImageTrans(class_counts=[1, 9], transforms=["flip"], always=True)
        >>> bool((flip(image, np.array([0]), np.array([0]), np.array([0])) == image[:, :, ::-1]).all())
        True
    """

    level = "whole"

    @checked
    def __init__(
        self,
        *,
        class_counts,
        transforms: Annotated[list[Move], MinLen(1)] = MOVES,
        shift: Annotated[float, Ge(0), Le(1)] = 0.125,
        cap: Annotated[int, Ge(1)] | None = None,
        always: bool = False,
        seed: int = 0,
    ):
        self.transforms, self.shift, self.seed = moves(transforms), shift, seed
        self.probability = np.ones(len(class_counts)) if always else augmented_share(class_counts, cap)

    def __call__(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray, draws: np.ndarray) -> np.ndarray:
        numbers = hashing.uniform(self.seed, draws, "image_trans", 4)
        height, width = images.shape[1:3]
        x, y = round(self.shift * width), round(self.shift * height)
        images = images.copy()
        for place in np.flatnonzero(numbers[:, 0] < self.probability[labels]):
            _, which, u, v = numbers[place].tolist()
            move = self.transforms[int(which * len(self.transforms))]
            images[place] = warp(images[place], affine(move, (0, 0, width - 1, height - 1), u, v, (-x, x, -y, y)))
        return images
