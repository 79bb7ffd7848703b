"""An image file of any kind as 8-bit RGB."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def read_image(path: str, name: str | None = None) -> np.ndarray:
    """The file as RGB, uint8 (h, w, 3), turned upright as its EXIF tag says.

    Grey images get three equal channels, 16-bit ones their upper 8 bits, CMYK and palettes are converted, transparency
    is dropped. A missing, empty or broken file raises DataError with its name.
    """
    name = name or path
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise DataError(f"cannot read image {name}: {error.strerror or error}") from error
    return decode_image(data, name)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """The same for the bytes of a file."""
    if not data:
        raise DataError(f"cannot decode image {name}: the file is empty")
    if data[:2] == b"\xff\xd8":
        channels, complete = _jpeg_frame(data)
        if not complete:
            # The decoder would fill the missing part with grey and say nothing.
            raise DataError(f"cannot decode image {name}: the JPEG is cut short ({len(data)} bytes, no end marker)")
        if channels == 4:  # OpenCV reads CMYK, but ignores that Adobe's is stored inverted
            return _decode_with_pillow(data, name)
    elif data[:2] != b"\x89P":
        return _decode_with_pillow(data, name)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    return _decode_with_pillow(data, name) if image is None else image


def _jpeg_frame(data: bytes) -> tuple[int, bool]:
    """(number of channels, whether an end marker follows the image data); an embedded preview has one of its own."""
    position, channels = 2, 0
    while position + 10 < len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        if marker == 0xDA:  # start of scan: in what follows, FF D9 can only be the end
            return channels, data.rfind(b"\xff\xd9", position) > 0
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            channels = data[position + 9]
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return channels, False


def _decode_with_pillow(data: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode.startswith("I") or image.mode == "F":
                values = np.asarray(image)
                grey = (values >> 8 if values.dtype.kind in "iu" else values).clip(0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError as error:  # its own message holds an address in memory, another one each time
        raise DataError(f"cannot decode image {name}: these {len(data)} bytes are no image of a known kind") from error
    except Exception as error:  # Pillow raises many kinds for broken files
        raise DataError(f"cannot decode image {name}: {error}") from error
