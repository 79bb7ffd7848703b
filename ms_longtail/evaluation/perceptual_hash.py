"""What is kept of a picture to find it again: a hash of its pixels, a 64-bit perceptual hash, and its middle frequencies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

SIDE, LOW = 32, 8  # the picture is reduced to 32 x 32, of whose frequencies 8 x 8 are hashed
COARSE, FINE = 3, 12  # frequencies below 12 x 12 without the first 3 x 3 say whether the details agree as well
FLAT = 1.0  # grey levels: with less spread than this in the reduced picture, only noise would be hashed
TIE = 0.05  # grey levels times 32: nearer to the median than rounding goes
SMOOTH = 8.0  # norm of these frequencies, below which they are the noise of rounding and compression
GREY = 2  # levels by which the channels of a grey picture may differ (JPEG rounds)

# The first 12 rows of the orthonormal DCT-II of 32 points: sqrt(2 / 32) cos(pi (2 n + 1) k / 64), row 0 divided by sqrt(2).
_PLACES = np.arange(SIDE)
_COSINES = np.cos(np.pi * np.outer(np.arange(FINE), 2 * _PLACES + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
_COSINES[0] /= np.sqrt(2)
_BASIS = _COSINES.astype(np.float32)  # (12, 32)
_MIDDLE = (np.arange(FINE)[:, None] >= COARSE) | (np.arange(FINE) >= COARSE)  # (12, 12)
DETAILS = int(_MIDDLE.sum()) + 1  # length of `details`


@dataclass(frozen=True)
class Look:
    """A picture after it was dropped.

    Attributes:
        height, width: pixels.
        grey: all channels equal, within 2 levels, on a grid of at most 64 x 64 of its pixels.
        flat: one colour, as far as the perceptual hash can tell; its `code` is 0 and means nothing.
        digest: 128 bits of shape and pixels, so that the same picture in another lossless file has the same.
        code: perceptual hash, an integer below 2**64.
        details: the middle frequencies as a direction, float16 (136,); their cosine says how alike two pictures are.
    """

    height: int
    width: int
    grey: bool
    flat: bool
    digest: bytes
    code: int
    details: np.ndarray


def look(image: np.ndarray) -> Look:
    """All that is kept of an image, RGB uint8 (H, W, 3).

    Example:
        >>> look(np.zeros((40, 50, 3), np.uint8)).flat
        True
    """
    code, details, flat = perceptual_hash(image)
    return Look(*image.shape[:2], is_grey(image), flat, pixel_digest(image), code, details)


def pixel_digest(image: np.ndarray) -> bytes:
    """BLAKE2b with 128 bits over height, width and pixels."""
    digest = hashlib.blake2b(np.array(image.shape[:2], "<i8").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    return digest.digest()


def is_grey(image: np.ndarray) -> bool:
    """Whether the channels agree within 2 levels, looked at on a grid of at most 64 x 64 pixels."""
    down, across = (-(-side // 64) for side in image.shape[:2])
    red, green, blue = np.ascontiguousarray(image[::down, ::across].transpose(2, 0, 1))
    highest, lowest = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    return bool((highest - lowest).max() <= GREY)


def perceptual_hash(image: np.ndarray) -> tuple[int, np.ndarray, bool]:
    """(hash, middle frequencies (136,), whether the picture is flat) of an image, RGB uint8 (H, W, 3).

    The DCT hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), in this form: luma
    (.299 R + .587 G + .114 B), averaged over areas to 32 x 32 pixels whatever the aspect ratio (interpolated where a side is
    shorter), DCT-II in both directions, of which the 8 x 8 lowest frequencies are kept without the first, the mean. Bit
    8 u + v of the hash is 1 if the coefficient of frequency (u, v) is above the median of the 63; what is nearer to
    it than rounding goes is 0. Bit 0 is always 0.

    31 of 63 bits are 1 unless there are ties, so two hashes mostly differ in an even number of bits. The hash does not
    change with brightness or contrast and little with size and compression. It does with flips, turns, crops and frames.
    A picture is flat, with hash 0, if the 32 x 32 pixels have a standard deviation below 1 level.

    The hash alone takes pictures of one layout for the same. The middle frequencies, divided by their norm, tell them apart: the
    135 below 12 x 12 without the lowest 3 x 3. Where these are noise, they are 0, and the 136th number is 1 instead of 0.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=how).astype(np.float32)
    small -= small.mean()
    frequencies = _BASIS @ small @ _BASIS.T  # (12, 12)
    low = frequencies[:LOW, :LOW].ravel()[1:]  # (63,)
    details = np.zeros(DETAILS, np.float16)
    if np.vdot(small, small) < SIDE * SIDE * FLAT**2 or not low.any():
        return 0, details, True
    bits = np.zeros(64, bool)
    bits[1:] = low > np.partition(low, 31)[31] + TIE  # the 32nd of 63 is the median
    middle = frequencies[_MIDDLE]
    norm = float(np.vdot(middle, middle)) ** 0.5
    if norm < SMOOTH:
        details[-1] = 1
    else:
        details[:-1] = middle / norm
    return int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little"), details, False
