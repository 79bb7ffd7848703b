"""A data set that `python -m ms_longtail pack` wrote: shards, an index for each part, and `packed.json`."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..registry import DATASETS
from .blobs import Blobs, Files
from .image_set import ImageSet, Splits
from .shard_index import ShardIndex, load

VERSION = 1
DESCRIPTION = "packed.json"


@DATASETS.register("packed")
def packed(*, root: str, folder: str | None = None) -> Splits:
    """The parts of a packed data set: the images, labels, names and class names of the set that was packed, in its order.

    Args:
        root: folder that holds packed.json, or the folder `folder` with it.
        folder: name of that folder below root, None for root itself.

    Raises:
        DataError: no such folder, a description or an index that is missing or damaged, a shard that is missing or shorter
            than the index says. Bytes that are not those packed are found when an image is read.
    """
    top = Path(root) if folder is None else Path(root) / folder
    if not top.is_dir():
        raise DataError(f"data.root: the folder {top} does not exist")
    content = description(top)
    classes = tuple(content["classes"])
    parts = {name: open_part(top, name, part, classes) for name, part in content["parts"].items()}
    return Splits(parts["train"], parts["test"], parts.get("validation"))


def description(folder: Path) -> dict[str, Any]:
    """packed.json, checked as far as it is relied on."""
    path = folder / DESCRIPTION
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(_nothing_packed(folder)) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); pack the data set again") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        found = content.get("version") if isinstance(content, dict) else content
        raise DataError(f"{path}: version {str(found)[:40]!r}, this program reads {VERSION}; pack the data set again")
    try:
        fits = all(isinstance(name, str) for name in content["classes"]) and {"train", "test"} <= set(content["parts"])
        for part in content["parts"].values():
            names = [shard["file"] for shard in part["shards"]]
            fits &= all(
                name == os.path.basename(name) and name.strip(".") for name in names
            )  # never outside the folder
            fits &= all(type(shard["bytes"]) is int for shard in part["shards"])
            fits &= isinstance(part["images"], int) and isinstance(part["index_sha256"], str)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged (no {error}); pack the data set again") from error
    if not fits:
        raise DataError(
            f"{path} is damaged: parts, classes or shards are not what `pack` writes; pack the data set again"
        )
    return content


def _nothing_packed(folder: Path) -> str:
    if (folder / ".packing").is_dir():
        return f"{folder} is packed in part only: give the command that began it again, it goes on from there"
    if next(folder.glob("*.mindrecord*"), None):
        return (
            f"{folder} holds MindRecord files but no {DESCRIPTION}: data.name packed reads only what `python -m ms_longtail "
            "pack --format mindrecord` wrote; pack the images that these files were made from"
        )
    if next(folder.glob("*.tar"), None):
        return f"{folder} holds tar files but no {DESCRIPTION}: for shards made by others use data.name tar_shards"
    return f"{folder} holds no {DESCRIPTION}: pack a data set with `python -m ms_longtail pack --to {folder}`"


def open_part(folder: Path, name: str, part: Mapping[str, Any], classes: tuple[str, ...]) -> ImageSet:
    """One part, after a look at its index and at the sizes of its shards."""
    path = folder / f"{name}.index.npz"
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}; pack the data set again") from error
    if hashlib.sha256(raw).hexdigest() != part["index_sha256"]:
        raise DataError(f"{path} is damaged: its SHA-256 is not that in {DESCRIPTION}; pack the data set again")
    try:
        index = ShardIndex.from_arrays(load(io.BytesIO(raw)))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); pack the data set again") from error
    shards = [folder / shard["file"] for shard in part["shards"]]
    if len(index) != part["images"] or not len(index):
        raise DataError(f"{path}: {len(index)} images, {DESCRIPTION} says {part['images']}; pack the data set again")
    for what, column, most in (("label", index.labels, len(classes)), ("shard", index.shard, len(shards))):
        if column.min() < 0 or column.max() >= most:
            raise DataError(f"{path}: a {what} {column.min()} or {column.max()}, not 0 to {most - 1}; pack again")
    for shard, expected in zip(shards, part["shards"], strict=True):
        try:
            size = shard.stat().st_size
        except OSError as error:
            raise DataError(f"the shard {shard} is missing ({error.strerror}); restore it, or pack again") from error
        if size < expected["bytes"]:
            raise DataError(f"the shard {shard} has {size} bytes, not {expected['bytes']}: restore it, or pack again")
    return ImageSet(index.labels, classes, blobs=Blobs(Files([str(s) for s in shards]), index))
