"""The elementary operations that AutoAugment and RandAugment choose from, each on one image (H, W, 3) uint8.

Their results are those of Pillow to the last bit, since it is Pillow that the published policies were searched and used with.
What is a table of 256 levels goes through OpenCV, with tables computed as Pillow's are: several times faster on
small images. Colour, sharpness and what moves pixels is Pillow's own. MindSpore's operations of the same names give
other levels (auto-contrast, equalisation, all four enhancements, smooth interpolation; rotation at some sizes), or are no
faster than a table (invert, solarize, posterize).

All are functions (image, amount) -> image of the same shape, never the same memory unless nothing is to be done; those that
move pixels take the colour that comes in from outside, and Pillow's interpolation, as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Le
from PIL import Image, ImageEnhance

Level = Annotated[int, Ge(0), Le(255)]
Colour = tuple[int, int, int]
NEAREST, BILINEAR, BICUBIC = Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC

_LEVELS = np.arange(256)
# ITU-R 601 in 16 binary digits and half a level, as Pillow computes it; in float32 every sum of these is exact.
_LUMA = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536


def colour(fill) -> Colour:
    """Red, green and blue as a tuple; a ValueError unless they are three whole numbers from 0 to 255."""
    whole = [value for value in fill if isinstance(value, (int, np.integer)) and not isinstance(value, bool)]
    if len(fill) != 3 or len(whole) != 3 or min(whole) < 0 or max(whole) > 255:
        raise ValueError(f"fill = {fill!r}: must be three whole numbers from 0 to 255")
    return tuple(int(value) for value in fill)


def invert(image: np.ndarray, amount: float = 0) -> np.ndarray:
    """255 - level; the amount has no meaning."""
    return cv2.bitwise_not(image)


def solarize(image: np.ndarray, threshold: float) -> np.ndarray:
    """Levels from `threshold` on are inverted; 256 changes nothing."""
    return _through(image, np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS))


def solarize_add(image: np.ndarray, addition: int) -> np.ndarray:
    """Levels below 128 become brighter by `addition`, at most 255; 0 changes nothing."""
    return _through(image, np.where(_LEVELS < 128, np.minimum(_LEVELS + addition, 255), _LEVELS))


def posterize(image: np.ndarray, bits: int) -> np.ndarray:
    """Only the upper `bits` of a level's 8 binary digits are kept; 8 changes nothing, 0 leaves black."""
    return image & np.uint8(256 - (1 << (8 - bits)))


def auto_contrast(image: np.ndarray, amount: float = 0) -> np.ndarray:
    """Each channel stretched so that its darkest level becomes 0 and its brightest 255; the amount has no meaning."""
    table = np.empty((256, 3))
    for channel, plane in enumerate(cv2.split(image)):
        dark, bright = cv2.minMaxLoc(plane)[:2]
        if bright > dark:
            scale = 255.0 / (bright - dark)
            table[:, channel] = _LEVELS * scale - dark * scale  # in this order, or whole numbers are missed by a hair
        else:
            table[:, channel] = _LEVELS
    return _through(image, table.clip(0, 255))


def equalize(image: np.ndarray, amount: float = 0) -> np.ndarray:
    """Each channel's levels spread so that all are about equally frequent; the amount has no meaning.

    A channel stays as it is if all but its brightest level fill less than 255 pixels.
    """
    counts = np.stack([cv2.calcHist([image], [channel], None, [256], [0, 256])[:, 0] for channel in range(3)])
    counts = counts.astype(np.int64)  # (3, 256)
    darker = np.cumsum(counts, axis=1) - counts
    brightest = 255 - np.argmax(counts[:, ::-1] > 0, axis=1)
    step = darker[np.arange(3), brightest, None] // 255  # (3, 1)
    table = np.where(step > 0, (step // 2 + darker) // np.maximum(step, 1), _LEVELS)
    return _through(image, np.minimum(table, 255).T)


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """From black (0) over the image (1) to brighter."""
    return _through(image, _away(0, factor))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """From the grey of the image's mean brightness (0) over the image (1) to more contrast."""
    luma = cv2.transform(image.astype(np.float32), _LUMA).astype(np.uint8)  # (H, W)
    return _through(image, _away(int(luma.mean() + 0.5), factor))


def color(image: np.ndarray, factor: float) -> np.ndarray:
    """From the grey image (0) over the image (1) to stronger colours."""
    return np.asarray(ImageEnhance.Color(Image.fromarray(image)).enhance(factor))


def sharpness(image: np.ndarray, factor: float) -> np.ndarray:
    """From the image smoothed by a 3 x 3 kernel (0) over the image (1) to sharper; the border stays."""
    return np.asarray(ImageEnhance.Sharpness(Image.fromarray(image)).enhance(factor))


def shear_x(image: np.ndarray, factor: float, fill: Colour, resample: int = BICUBIC) -> np.ndarray:
    """Row y is moved to the left by factor * y pixels: the upper border stays."""
    return _affine(image, (1, factor, 0, 0, 1, 0), fill, resample)


def shear_y(image: np.ndarray, factor: float, fill: Colour, resample: int = BICUBIC) -> np.ndarray:
    """Column x is moved upwards by factor * x pixels: the left border stays."""
    return _affine(image, (1, 0, 0, factor, 1, 0), fill, resample)


def translate_x(image: np.ndarray, pixels: float, fill: Colour, resample: int = NEAREST) -> np.ndarray:
    """Moved to the left by `pixels`, which may be negative."""
    return _affine(image, (1, 0, pixels, 0, 1, 0), fill, resample)


def translate_y(image: np.ndarray, pixels: float, fill: Colour, resample: int = NEAREST) -> np.ndarray:
    """Moved upwards by `pixels`, which may be negative."""
    return _affine(image, (1, 0, 0, 0, 1, pixels), fill, resample)


def rotate(image: np.ndarray, degrees: float, fill: Colour, resample: int = NEAREST) -> np.ndarray:
    """Turned counter-clockwise about its centre."""
    return np.asarray(Image.fromarray(image).rotate(degrees, resample, fillcolor=fill))


LEVELS: dict[str, Callable] = {  # called with (image, amount)
    function.__name__: function
    for function in (
        auto_contrast, invert, equalize, solarize, solarize_add, posterize, contrast, color, brightness, sharpness,
    )
}  # fmt: skip
GEOMETRY: dict[str, Callable] = {  # called with (image, amount, fill) and, where it is not the default, resample
    function.__name__: function for function in (shear_x, shear_y, translate_x, translate_y, rotate)
}


def _affine(image: np.ndarray, matrix: tuple[float, ...], fill: Colour, resample: int) -> np.ndarray:
    """`matrix` sends a place in the result to the place in the image that it shows."""
    picture = Image.fromarray(image)
    return np.asarray(picture.transform(picture.size, Image.Transform.AFFINE, matrix, resample, fillcolor=fill))


def _away(centre: int, factor: float) -> np.ndarray:
    """centre + factor * (level - centre) for all levels, in float32 as Pillow blends two images, (256,)."""
    centre = np.float32(centre)
    return (centre + np.float32(factor) * (_LEVELS.astype(np.float32) - centre)).clip(0, 255)


def _through(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Every level replaced by that of the table (256,), or (256, 3) for the channels apart; fractions are cut off."""
    return cv2.LUT(image, np.ascontiguousarray(table, np.uint8)[None])
