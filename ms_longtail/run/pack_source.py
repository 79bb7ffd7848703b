"""The images of a data set as the bytes that a shard keeps, in order, prepared by a few threads ahead of the writer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..data import ImageSet
from ..data.decode import EXTENSIONS, decode_image
from ..errors import DataError

QUALITY = 95  # of JPEG, where images are made smaller
AHEAD = 4  # images in memory for each thread, whatever the size of the set


@dataclass(frozen=True)
class Prepared:
    """An image's bytes, and the ending of the file that they would make."""

    data: bytes
    extension: str


def prepare(images: ImageSet, index: int, size: int | None) -> Prepared:
    """The bytes of a file as they are, pixels in memory as PNG; either way it is certain that they can be decoded.

    With `size`, an image whose shorter side is longer than that is made smaller (area averages, aspect ratio kept) and stored as
    JPEG of quality 95; others stay as they are.
    """
    if images.images is not None:
        pixels, kept = images.images[index], None
    else:
        kept = _stored(images, index)
        pixels = decode_image(kept.data, images.name(index))
    height, width = pixels.shape[:2]
    if size is not None and min(height, width) > size:
        scale = size / min(height, width)
        small = cv2.resize(pixels, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        return Prepared(_encode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY]), ".jpg")
    return kept or Prepared(_encode(".png", pixels, []), ".png")


def _stored(images: ImageSet, index: int) -> Prepared:
    if images.blobs is not None:
        data, name = images.blobs.read(index), images.blobs.name(index)
    else:
        name = images.files[index]
        try:
            data = Path(name).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {images.name(index)}: {error.strerror or error}") from error
    extension = Path(name).suffix.lower()
    if extension not in EXTENSIONS:  # what the decoder goes by are the first bytes
        extension = ".png" if data[:2] == b"\x89P" else ".jpg"
    return Prepared(data, extension)


def _encode(extension: str, pixels: np.ndarray, settings: list[int]) -> bytes:
    return cv2.imencode(extension, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)[1].tobytes()


def stream(images: ImageSet, first: int, size: int | None, workers: int) -> Iterator[tuple[int, Prepared | DataError]]:
    """(place, image or why it cannot be read) from place `first` on, in order, with a bounded number waiting."""
    waiting: deque[tuple[int, Future]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pack")
    try:
        for place in range(first, len(images)):
            waiting.append((place, pool.submit(prepare, images, place, size)))
            if len(waiting) >= AHEAD * workers:
                yield _next(waiting)
        while waiting:
            yield _next(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(waiting: deque[tuple[int, Future]]) -> tuple[int, Prepared | DataError]:
    place, future = waiting.popleft()
    try:
        return place, future.result()
    except DataError as error:
        return place, error
