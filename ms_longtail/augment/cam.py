"""CAM foreground augmentation: the object of an image, as an earlier network sees it, is moved; the background stays."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Ge, Gt, MinLen

from .. import hashing
from ..bounds import checked
from ..registry import AUGMENT
from .moves import MOVES, Box, Move, affine, moves, warp


@AUGMENT.register("cam")
class Cam:
    """Moves the foreground of an image (Zhang et al., AAAI 2021, section 3.3, "CAM-based sampling").

    M = sum_k W_ck F_k, the class activation map of the image's true class c, made by the network that the stage starts with
    (`run/maps.py`), is enlarged to the image. Foreground are the pixels where M > ratio * mean(M). One of `transforms`, at random,
    moves it about its bounding box: a flip, a shift that keeps the box inside the image, a rotation by -45 to 45 degrees, or a
    scaling by .8 to 1.2. What it uncovers keeps its old pixels.

    The paper adds a_c = n_max + n_min - n_c augmented images to a class of n_c, so a drawn image is an augmented one with
    probability a_c / (n_c + a_c): hardly ever in the largest class, nearly always in the smallest. The label stays.

    It works on whole images, so it comes before every crop and flip.

    Args:
        class_counts: training images per class, (C,).
        maps: uint8 (N, h, w), a low-resolution map for every training image, min-max normalised. None builds an operation
            that cannot be called, to check settings.
        transforms: which of flip, translate, rotate, scale; leave flip out where it changes the label.
        ratio: of the threshold to the map's mean; the paper says 1 (default), its published code uses .75.
        fill: "paste" (default): only pixels of the moved foreground change; "release": as the published code does, the
            foreground's old and new region both take the transformed image.
        cap: a_c is at most `cap`, and 0 for classes of `cap` images or more (100 for ImageNet-LT, 50 for iNaturalist in the
            paper); None for no cap.
        always: move every image, whatever its class and the cap.
        seed: the run's seed.

    Shapes: images (B, H, W, 3) uint8, labels, index, draws (B,) -> (B, H, W, 3), never the same memory.

    Raises:
        ValueError: a setting outside its bounds, a class count below 1, an image to be moved without maps.

    Example:
        >>> maps = np.zeros((1, 8, 8), np.uint8); maps[0, 2:4, 2:4] = 255
        >>> image = np.zeros((1, 32, 32, 3), np.uint8); image[0, 8:16, 8:16] = 200
        >>> move = Cam(class_counts=[1, 9], maps=maps, transforms=["translate"], always=True)
        >>> moved = move(image, np.array([0]), np.array([0]), np.array([5]))
        >>> bool((moved != image).any())
        True
    """

    level = "whole"
    needs_maps = True

    @checked
    def __init__(
        self,
        *,
        class_counts,
        maps: np.ndarray | None = None,
        transforms: Annotated[list[Move], MinLen(1)] = MOVES,
        ratio: Annotated[float, Gt(0)] = 1.0,
        fill: Literal["paste", "release"] = "paste",
        cap: Annotated[int, Ge(1)] | None = None,
        always: bool = False,
        seed: int = 0,
    ):
        self.maps, self.transforms, self.ratio, self.fill, self.seed = maps, moves(transforms), ratio, fill, seed
        self.probability = np.ones(len(class_counts)) if always else augmented_share(class_counts, cap)

    def __call__(self, images: np.ndarray, labels: np.ndarray, index: np.ndarray, draws: np.ndarray) -> np.ndarray:
        numbers = hashing.uniform(self.seed, draws, "cam", 4)  # (B, 4): whether, which, and two for how far
        images = images.copy()
        chosen = np.flatnonzero(numbers[:, 0] < self.probability[labels])
        if not len(chosen):
            return images
        foreground, boxes = self.foreground(index[chosen], *images.shape[1:3])
        for place, mask, box in zip(chosen, foreground, boxes, strict=True):
            if box is not None:
                self._move(images[place], mask, box, numbers[place, 1:].tolist())
        return images

    def foreground(self, index: np.ndarray, height: int, width: int) -> tuple[np.ndarray, list[Box | None]]:
        """(masks (B, H, W) uint8 of 0 and 255, boxes) of images of one size; no box where the map is flat."""
        if self.maps is None:
            raise ValueError(
                "cam moves what a class activation map shows; give it `maps`, one for every training image"
            )
        small = np.asarray(self.maps[index])
        maps = enlarge(small, height, width)  # (B, H, W)
        # A flat map shows nothing; enlarging it leaves roundings that a threshold must not take for an object.
        some = (small != small[:, :1, :1]).any(axis=(1, 2), keepdims=True)
        masks = (maps > self.ratio * maps.mean(axis=(1, 2), keepdims=True)) & some
        return masks.view(np.uint8) * np.uint8(255), bounding_boxes(masks)

    def _move(self, image: np.ndarray, mask: np.ndarray, box: Box, numbers: list[float]) -> None:
        """Move the foreground of one image, in place."""
        which, u, v = numbers
        matrix = self.matrix(int(which * len(self.transforms)), box, u, v, *image.shape[:2])
        # The mask is moved to whole pixels: a pixel is foreground or it is not.
        moved = cv2.warpAffine(mask, matrix, mask.shape[::-1], flags=cv2.INTER_NEAREST)
        border = cv2.BORDER_REPLICATE  # an object at the image's edge keeps its colour there
        if self.fill == "release":
            moved, border = cv2.bitwise_or(moved, mask), cv2.BORDER_CONSTANT
        cv2.copyTo(warp(image, matrix, border), moved, image)

    def matrix(self, which: int, box: Box, u: float, v: float, height: int, width: int) -> np.ndarray:
        """Of the transformation number `which`, see `affine`."""
        left, top, right, bottom = box
        return affine(self.transforms[which], box, u, v, (-left, width - 1 - right, -top, height - 1 - bottom))


def augmented_share(class_counts, cap: int | None = None) -> np.ndarray:
    """a_c / (n_c + a_c), (C,): how likely a drawn image of a class is an augmented one."""
    counts = np.asarray(class_counts, np.float64)
    if counts.min() < 1:
        raise ValueError(f"class {counts.argmin()} has {counts.min():g} training images; every class needs at least 1")
    added = counts.max() + counts.min() - counts
    if cap is not None:
        added = np.where(counts >= cap, 0.0, np.minimum(added, cap))
    return added / (counts + added)


def enlarge(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(B, h, w) uint8 -> (B, height, width) float32, bilinear between pixel centres: two matrix products for a whole batch."""
    batch, h, w = maps.shape
    wide = maps.reshape(batch * h, w).astype(np.float32) @ interpolation(w, width).T  # (B h, width)
    return interpolation(h, height) @ wide.reshape(batch, h, width)


@cache
def interpolation(size: int, wanted: int) -> np.ndarray:
    """The matrix (wanted, size) of linear interpolation between pixel centres, constant beyond the outermost ones."""
    place = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
    lower = np.minimum(place.astype(int), max(0, size - 2))
    matrix = np.zeros((wanted, size))
    np.add.at(matrix, (np.arange(wanted), lower), 1 - (place - lower))
    np.add.at(matrix, (np.arange(wanted), np.minimum(lower + 1, size - 1)), place - lower)
    return matrix.astype(np.float32)


def bounding_boxes(masks: np.ndarray) -> list[Box | None]:
    """The smallest box around what is true in each of (B, H, W); None where nothing is."""
    rows, columns = masks.any(axis=2), masks.any(axis=1)  # (B, H), (B, W)
    top, left = rows.argmax(axis=1), columns.argmax(axis=1)
    bottom = rows.shape[1] - 1 - rows[:, ::-1].argmax(axis=1)
    right = columns.shape[1] - 1 - columns[:, ::-1].argmax(axis=1)
    boxes = zip(left.tolist(), top.tolist(), right.tolist(), bottom.tolist(), strict=True)
    return [box if some else None for box, some in zip(boxes, rows.any(axis=1), strict=True)]
