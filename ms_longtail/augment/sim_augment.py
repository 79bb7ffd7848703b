"""The colour part of contrastive learning's augmentation: jitter, grey, blur."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Ge, Le

from ..bounds import checked
from ..registry import AUGMENT
from .color_jitter import ColorJitter
from .gaussian_blur import GaussianBlur
from .grayscale import Grayscale


@AUGMENT.register("sim_augment")
class SimAugment:
    """What SimCLR (Chen et al., ICML 2020) and MoCo v2 (Chen et al., 2020, https://arxiv.org/abs/2003.04297) do to colours.

    First `color_jitter` with (.4, .4, .4, .1) for 80 % of the images, then `grayscale` for 20 %, then `gaussian_blur` for
    `blur` of them: MoCo v2's numbers, which the long-tailed contrastive methods took over. Their whole augmentation is the list

        augment: [{name: random_resized_crop, scale_min: 0.2}, flip, sim_augment]                      # photographs
        augment: [{name: random_resized_crop, scale_min: 0.2}, flip, {name: sim_augment, blur: 0}]     # 32 pixels

    MoCo v2 blurs before it flips, which makes no difference, and with a kernel that is not cut off.

    Args:
        blur: probability of a blur, default .5; 0 for images of 32 pixels.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, draws (B,) -> (B, H, W, 3), written into `images` if they are contiguous.

    Raises:
        ValueError: `blur` outside [0, 1].

    Example:
        >>> SimAugment(blur=0)(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)).max()
        0
    """

    level = "batch"

    @checked
    def __init__(self, *, blur: Annotated[float, Ge(0), Le(1)] = 0.5, seed: int = 0):
        self.parts = (
            ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8, seed=seed),
            Grayscale(p=0.2, seed=seed),
            GaussianBlur(p=blur, seed=seed),
        )
        for part in self.parts:  # numbers of their own, should a list name one of them beside this
            part.stream = f"sim_augment.{part.stream}"

    def __call__(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        for part in self.parts:
            images = part(images, draws)
        return images
