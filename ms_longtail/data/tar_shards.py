"""Images in tar files made by others, read from where they lie: WebDataset's `KEY.jpg` + `KEY.cls`, or one folder per class."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from . import cache
from .blobs import Blobs, Files
from .image_set import ImageSet, Splits
from .shard_index import ShardIndex
from .tar_scan import Scan, scan

log = logging.getLogger(__name__)

VERSION = 1  # of what is kept in the cache
MAX_SHARDS = 100_000
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
Indexed = tuple[dict[str, ShardIndex], tuple[str, ...]]


@DATASETS.register("tar_shards")
def tar_shards(*, root: str, train_shards: str, test_shards: str, validation_shards: str | None = None) -> Splits:
    """Shards as WebDataset (Aizman et al., 2019) has them. Nothing is unpacked.

    The label of KEY.jpg is the number in KEY.cls, and classes are called by their numbers. Where no shard of train has such a
    member, an image's class is the folder that it lies in, and the id is its place among train's sorted folder names.

    The headers are read once and kept in the cache folder ($MSLT_CACHE, else $XDG_CACHE_HOME/ms_longtail, else
    ~/.cache/ms_longtail); a shard whose size or time has changed is read again.

    Args:
        root: folder that the patterns are relative to.
        train_shards, test_shards, validation_shards: a file name, with * ? [] or ranges such as train-{000000..000146}.tar.

    Raises:
        DataError: with shard and member: see `tar_scan.scan`; a pattern without a file, a class that train does not have.
    """
    patterns = {"train": train_shards, "test": test_shards, "validation": validation_shards}
    if not Path(root).is_dir():
        raise DataError(f"data.root: the folder {root} does not exist")
    shards = {p: find_shards(root, text, f"data.{p}_shards") for p, text in patterns.items() if text is not None}
    indices, names = _once(shards)
    parts = {
        part: ImageSet(index.labels, names, blobs=Blobs(Files(shards[part]), index)) for part, index in indices.items()
    }
    return Splits(parts["train"], parts["test"], parts.get("validation"))


def find_shards(root: str, pattern: str, key: str) -> list[str]:
    """Paths of the files that a pattern means, in its order; those of a * sorted. One that is missing is a DataError."""
    found: list[str] = []
    for name in _expand(pattern, key):
        # The part before the first * may be an absolute path; pathlib globs only relative ones.
        if any(mark in name for mark in "*?["):
            folder = Path(root, name)
            fixed = next(parent for parent in folder.parents if not any(mark in str(parent) for mark in "*?["))
            matches = sorted(str(path) for path in fixed.glob(str(folder.relative_to(fixed))) if path.is_file())
        else:
            matches = [str(Path(root, name))] if Path(root, name).is_file() else []
        if not matches:
            raise DataError(f"{key}: no file {Path(root, name)}")
        found += matches
    return list(dict.fromkeys(found))


def _expand(pattern: str, key: str) -> list[str]:
    """All names that the ranges {000..146} of a pattern stand for."""
    names = [pattern]
    while (match := _RANGE.search(names[0])) is not None:
        first, last = match.groups()
        if int(last) < int(first) or (int(last) - int(first) + 1) * len(names) > MAX_SHARDS:
            raise DataError(f"{key}: {match.group(0)} in {pattern!r} is no range of 1 to {MAX_SHARDS} numbers")
        numbers = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        names = [_RANGE.sub(number, name, count=1) for name in names for number in numbers]
    return names


def read_shards(shards: dict[str, list[str]]) -> Indexed:
    """(index of every part, class names) out of the headers of all shards."""
    log.warning("reading the headers of %d tar files (once)", sum(map(len, shards.values())))
    found = {part: [(path, scan(path)) for path in paths] for part, paths in shards.items()}
    everything = [(path, one) for scans in found.values() for path, one in scans]
    by_number = [path for path, one in everything if one.labels is not None]
    if not by_number:
        names = sorted({folder for path, one in found["train"] for folder in one.folders(path)})
        ids = {name: label for label, name in enumerate(names)}
        labels = {path: _by_folder(path, one, ids) for path, one in everything}
    else:
        for path, one in everything:
            if one.labels is None and one.names:
                raise DataError(
                    f"{path}: the image {one.names[0]!r} has no label: this shard has no member KEY.cls, {by_number[0]} has"
                )
        labels = {path: one.labels or [] for path, one in everything}
        names = [str(c) for c in range(1 + max((max(of, default=-1) for of in labels.values()), default=-1))]
    indices = {part: _join(scans, labels) for part, scans in found.items()}
    for part, scans in found.items():
        if not len(indices[part]):
            raise DataError(f"data.{part}_shards: no image in {scans[0][0]} (of {len(scans)} files)")
        _require_known(indices["train"], indices[part], [path for path, _ in scans], len(names))
    return indices, tuple(names)


def _by_folder(path: str, one: Scan, ids: dict[str, int]) -> list[int]:
    folders = one.folders(path)
    unknown = [name for name, folder in zip(one.names, folders, strict=True) if folder not in ids]
    if unknown:
        raise DataError(f"{path}: the image {unknown[0]!r} lies in a class folder that train does not have")
    return [ids[folder] for folder in folders]


def _join(scans: list[tuple[str, Scan]], labels: dict[str, list[int]]) -> ShardIndex:
    return ShardIndex.join(
        [
            ShardIndex.of(one.names, labels=labels[path], shard=number, offset=one.offset, length=one.length)
            for number, (path, one) in enumerate(scans)
        ]
    )


def _require_known(train: ShardIndex, part: ShardIndex, paths: Sequence[str], classes: int) -> None:
    counts = np.bincount(train.labels, minlength=classes)
    strange = np.flatnonzero(counts[part.labels] == 0)
    if len(strange):
        row = int(strange[0])
        raise DataError(
            f"{paths[part.shard[row]]}: the image {part.name(row)!r} has the label {part.labels[row]}, of which train has none"
        )


def _key(shards: dict[str, list[str]]) -> str:
    """What is kept belongs to these files with these sizes and times."""
    facts = [[part, str(Path(p).resolve()), *_times(p)] for part, paths in shards.items() for p in paths]
    return hashlib.sha256(json.dumps([VERSION, facts]).encode()).hexdigest()[:32]


def _times(path: str) -> tuple[int, int]:
    facts = Path(path).stat()
    return facts.st_size, facts.st_mtime_ns


def _once(shards: dict[str, list[str]]) -> Indexed:
    """What `read_shards` says, out of the cache where it is kept."""
    name = f"tar-{_key(shards)}"
    arrays = cache.load(name, VERSION)
    if arrays is not None:
        try:
            indices = {part: ShardIndex.from_arrays(arrays, f"{part}.") for part in shards}
            return indices, tuple(json.loads(arrays["classes"].tobytes()))
        except (ValueError, KeyError) as error:
            log.warning("damaged, made anew: %s in the cache (%s)", name, error)
    indices, names = read_shards(shards)
    arrays = {"classes": np.frombuffer(json.dumps(names).encode(), np.uint8)}
    for part, index in indices.items():
        arrays |= index.arrays(f"{part}.")
    try:
        cache.save(name, VERSION, arrays)
    except OSError as error:
        log.warning("no cache (%s): set MSLT_CACHE to a folder that can be written", error)
    return indices, names
