import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ms_longtail.data.decode import decode_image
from ms_longtail.errors import DataError

GRADIENT = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
COLOUR = np.stack([GRADIENT, GRADIENT[::-1], np.full_like(GRADIENT, 90)], axis=2)


def encode(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_colour(format):
    image = decode_image(encode(Image.fromarray(COLOUR), format, quality=95), "x")
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - COLOUR).mean() < 3  # red stays red


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_grey(format):
    image = decode_image(encode(Image.fromarray(GRADIENT), format), "x")
    assert image.shape == (48, 64, 3)
    assert np.abs(image.astype(int) - GRADIENT[..., None]).max() < 6


def test_cmyk_jpeg_as_adobe_writes_it():
    image = Image.fromarray(COLOUR).convert("CMYK")
    expected = np.asarray(image.convert("RGB")).astype(int)
    assert np.abs(decode_image(encode(image, "JPEG", quality=95), "x").astype(int) - expected).mean() < 4


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_upper_eight(format):
    deep = (GRADIENT.astype(np.uint16) << 8) + 77
    data = encode(Image.fromarray(deep), format)
    np.testing.assert_array_equal(decode_image(data, "x"), np.repeat(GRADIENT[..., None], 3, axis=2))


def test_sixteen_bit_colour_png():
    done, data = cv2.imencode(".png", (COLOUR[..., ::-1].astype(np.uint16) << 8) + 3)
    assert done
    np.testing.assert_array_equal(decode_image(data.tobytes(), "x"), COLOUR)


def test_palette_and_transparency():
    palette = encode(Image.fromarray(COLOUR).convert("P"), "PNG")
    assert decode_image(palette, "x").shape == (48, 64, 3)
    transparent = np.dstack([COLOUR, GRADIENT])
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(transparent), "PNG"), "x"), COLOUR)
    assert decode_image(encode(Image.fromarray(COLOUR).convert("P"), "GIF"), "x").shape == (48, 64, 3)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_exif_orientation(format):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    image = decode_image(encode(Image.fromarray(COLOUR), format, exif=exif), "x")
    assert image.shape == ((64, 48, 3) if format == "JPEG" else image.shape)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\xff\xd8\xff\xe0 nothing",
        encode(Image.fromarray(COLOUR), "JPEG")[:-200],
        encode(Image.fromarray(COLOUR), "PNG")[:300],
    ],
)
def test_broken_files(data):
    with pytest.raises(DataError, match="cannot decode image photo 7"):
        decode_image(data, "photo 7")
