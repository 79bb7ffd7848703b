"""Every image of a packed data set read back and compared with its checksum."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..console import Console
from ..data import ImageSet
from ..data.packed import description, open_part
from ..errors import DataError

SPAN = 256  # images that a thread reads before the progress is looked at
SHOWN = 5  # faults named


def check_folder(folder: Path, console: Console) -> tuple[int, int]:
    """The same as `check_parts` for a folder that is packed already."""
    if not folder.is_dir():
        raise DataError(f"--to {folder}: the folder does not exist")
    content = description(folder)
    return check_parts(folder, content["parts"], content["classes"], console)


def check_parts(folder: Path, parts: dict[str, Any], classes: Sequence[str], console: Console) -> tuple[int, int]:
    """(images, bytes) that were read; DataError with the first faults where one is not what was packed.

    Args:
        folder: that the shards are in.
        parts: as in packed.json.
    """
    began, images, read, faults = time.monotonic(), 0, 0, []
    for name, part in parts.items():
        opened = open_part(folder, name, part, tuple(classes))
        for shard in part["shards"]:
            _forget(folder / shard["file"])
        faults += _check(name, opened, console)
        images += len(opened)
        read += int(opened.blobs.index.length.sum())
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DataError(
            f"{folder}: {len(faults)} of {images} images are not what was packed; remove their shards and pack again:\n  "
            + "\n  ".join(faults[:SHOWN])
            + more
        )
    seconds = time.monotonic() - began
    console.say(
        f"checked: {images:,} images, {read:,} bytes, {seconds:.1f} s, {images / max(seconds, 1e-9):,.0f} images/s"
    )
    return images, read


def _check(name: str, images: ImageSet, console: Console) -> list[str]:
    def faults_of(span: range) -> list[str]:
        found = []
        for number in span:
            try:
                images.blobs.read(number)
            except DataError as error:
                found.append(str(error))
        return found

    faults, began = [], time.monotonic()
    spans = [range(start, min(start + SPAN, len(images))) for start in range(0, len(images), SPAN)]
    console.start(f"check {name}", len(images), 0, "image")
    try:
        with ThreadPoolExecutor(2) as pool:
            for span, found in zip(spans, pool.map(faults_of, spans), strict=True):
                faults += found
                console.step(span.stop, None, None, span.stop / max(1e-9, time.monotonic() - began))
    finally:
        console.stop()
    return faults


def _forget(path: Path) -> None:
    """Let the system drop its copy of the file in memory, where it can, so that the disk is what is read."""
    if hasattr(os, "posix_fadvise"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)
