"""What is kept of a picture to find it again: a hash of its pixels, a 64-bit perceptual hash, and its low frequencies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

SIDE, LOW = 32, 8  # the picture is reduced to 32 x 32, of whose frequencies 8 x 8 are kept
FLAT = 1.0  # grey levels: with less spread than this in the reduced picture, only noise would be hashed
TIE = 0.05  # grey levels times 32: nearer to the median than rounding goes
GREY = 2  # levels by which the channels of a grey picture may differ (JPEG rounds)

# The first 8 rows of the orthonormal DCT-II of 32 points: sqrt(2 / 32) cos(pi (2 n + 1) k / 64), row 0 divided by sqrt(2).
_PLACES = np.arange(SIDE)
_COSINES = np.cos(np.pi * np.outer(np.arange(LOW), 2 * _PLACES + 1) / (2 * SIDE)) * np.sqrt(2 / SIDE)
_COSINES[0] /= np.sqrt(2)
_BASIS = _COSINES.astype(np.float32)  # (8, 32)
_WEIGHTS = (np.uint64(1) << np.arange(1, LOW * LOW, dtype=np.uint64)).astype(np.uint64)  # bit k is frequency k


@dataclass(frozen=True)
class Look:
    """A picture after it was dropped.

    Attributes:
        height, width: pixels.
        grey: all channels equal, within 2 levels, on a grid of at most 64 x 64 of its pixels.
        flat: one colour, as far as the perceptual hash can tell; its `code` is 0 and means nothing.
        digest: 128 bits of shape and pixels, so that the same picture in another lossless file has the same.
        code: perceptual hash, an integer below 2**64.
        spectrum: the 63 low frequencies as a direction, float16 (63,); their cosine says how alike two pictures are.
    """

    height: int
    width: int
    grey: bool
    flat: bool
    digest: bytes
    code: int
    spectrum: np.ndarray


def look(image: np.ndarray) -> Look:
    """All that is kept of an image, RGB uint8 (H, W, 3).

    Example:
        >>> look(np.zeros((40, 50, 3), np.uint8)).flat
        True
    """
    code, spectrum, flat = perceptual_hash(image)
    return Look(*image.shape[:2], is_grey(image), flat, pixel_digest(image), code, spectrum)


def pixel_digest(image: np.ndarray) -> bytes:
    """BLAKE2b with 128 bits over height, width and pixels."""
    digest = hashlib.blake2b(np.array(image.shape[:2], "<i8").tobytes(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    return digest.digest()


def is_grey(image: np.ndarray) -> bool:
    """Whether the channels agree within 2 levels, looked at on a grid of at most 64 x 64 pixels."""
    down, across = (-(-side // 64) for side in image.shape[:2])
    grid = image[::down, ::across].astype(np.int16)
    return bool(np.ptp(grid, axis=2).max() <= GREY)


def perceptual_hash(image: np.ndarray) -> tuple[int, np.ndarray, bool]:
    """(hash, low frequencies (63,), whether the picture is flat) of an image, RGB uint8 (H, W, 3).

    The DCT hash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), in this form: luma
    (.299 R + .587 G + .114 B), averaged over areas to 32 x 32 pixels whatever the aspect ratio (interpolated where a side is
    shorter), DCT-II in both directions, of which the 8 x 8 lowest frequencies are kept without the first, the mean. Bit
    8 u + v of the hash is 1 if the coefficient of frequency (u, v) is above the median of the 63; what is nearer to
    it than rounding goes is 0. Bit 0 is always 0.

    31 of 63 bits are 1 unless there are ties, so two hashes mostly differ in an even number of bits. The hash does not
    change with brightness or contrast and little with size and compression. It does with flips, turns, crops and frames.
    A picture is flat, with hash 0, if the 32 x 32 pixels have a standard deviation below 1 level.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    how = cv2.INTER_AREA if min(grey.shape) >= SIDE else cv2.INTER_LINEAR
    small = cv2.resize(grey, (SIDE, SIDE), interpolation=how).astype(np.float32)
    low = (_BASIS @ (small - small.mean()) @ _BASIS.T).ravel()[1:]  # (63,)
    norm = float(np.linalg.norm(low))
    if small.std() < FLAT or norm == 0:
        return 0, np.zeros(len(low), np.float16), True
    bits = low > np.median(low) + TIE
    return int(_WEIGHTS[bits].sum()), (low / norm).astype(np.float16), False
