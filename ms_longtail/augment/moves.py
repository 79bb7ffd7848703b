"""The four transformations of the bag of tricks, as affine maps of pixel coordinates about a box."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

Move = Literal["flip", "translate", "rotate", "scale"]
MOVES: tuple[str, ...] = ("flip", "translate", "rotate", "scale")
DEGREES, SCALES = 45.0, (0.8, 1.2)

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, all four inside


def moves(names) -> tuple[str, ...]:
    """The names as they are; a ValueError for none, or one that is not in MOVES."""
    if not names or any(name not in MOVES for name in names):
        raise ValueError(f"transforms = {list(names)}: choose at least one from {', '.join(MOVES)}")
    return tuple(names)


def affine(move: str, box: Box, u: float, v: float, shifts: tuple[int, int, int, int]) -> np.ndarray:
    """The (2, 3) matrix that sends a pixel (x, y, 1) to its new place.

    Args:
        move: one of MOVES. "flip" mirrors left and right about the box's centre, "rotate" turns about it by -45 to 45 degrees,
            "scale" enlarges about it by .8 to 1.2, "translate" shifts by whole pixels.
        box: of what is moved.
        u, v: uniform in [0, 1); they choose angle, factor or shift.
        shifts: least and largest shift to the right, least and largest shift downwards, in pixels.
    """
    left, top, right, bottom = box
    x, y = (left + right) / 2, (top + bottom) / 2
    if move == "flip":
        return np.array([[-1.0, 0.0, left + right], [0.0, 1.0, 0.0]])
    if move == "translate":
        low_x, high_x, low_y, high_y = shifts
        dx, dy = low_x + int(u * (high_x - low_x + 1)), low_y + int(v * (high_y - low_y + 1))
        return np.array([[1.0, 0.0, dx], [0.0, 1.0, dy]])
    if move == "rotate":
        return cv2.getRotationMatrix2D((x, y), DEGREES * (2 * u - 1), 1.0)
    factor = SCALES[0] + (SCALES[1] - SCALES[0]) * u
    return np.array([[factor, 0.0, x - factor * x], [0.0, factor, y - factor * y]])


def warp(image: np.ndarray, matrix: np.ndarray, border: int = cv2.BORDER_CONSTANT) -> np.ndarray:
    """The image moved, bilinear; what comes from outside is black, or goes on as `border` says."""
    return cv2.warpAffine(image, matrix, image.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=border)
