"""Which shards of a folder that is being packed are finished, and the shard that is being written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from ..data.shard_index import ShardIndex, load, save
from ..data.shard_writers import FORMATS
from .folder import write_json
from .pack_source import Prepared


class Shard:
    """A shard being written, and its rows of the index."""

    def __init__(self, folder: Path, format: str, part: str, number: int):
        self.name, self.number = f"{part}-{number:05d}", number
        self.writer = FORMATS[format](folder, self.name)
        self.bytes = 0
        self._names: list[str] = []
        self._rows: list[tuple[int, int, int]] = []

    def add(self, image: Prepared, label: int, place: int, name: str) -> None:
        self.writer.add(image.data, label=label, number=place, extension=image.extension, name=name)
        self._names.append(name)
        self._rows.append((label, len(image.data), zlib.crc32(image.data)))
        self.bytes += len(image.data)

    def finish(self) -> ShardIndex:
        labels, length, crc = zip(*self._rows, strict=True)
        offset = self.writer.finish()
        return ShardIndex.of(self._names, labels=labels, shard=self.number, offset=offset, length=length, crc=crc)


class Journal:
    """The folder FOLDER/.packing.

    A shard is written in its sub-folder work, flushed to the disk, entered (PART-NNNNN.npz with the rows of the index, then
    PART-NNNNN.json), and moved to FOLDER. A shard that is entered and in its place is finished; any other is written anew from
    where the one before it ended.
    """

    def __init__(self, to: Path):
        self.to = to
        self.path = to / ".packing"
        self.work = self.path / "work"
        self.plan = self.path / "plan.json"

    def open(self, format: str, part: str, number: int) -> Shard:
        """A new shard; what a kill left of an earlier one goes."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        return Shard(self.work, format, part, number)

    def publish(self, shard: Shard, following: int, left_out: list[dict]) -> dict[str, Any]:
        """Finish a shard and return its entry; image `following` of the part is the first that comes after it."""
        index = shard.finish()
        entry = {
            "files": {file.name: file.stat().st_size for file in shard.writer.files},
            "images": len(index),
            "next": following,
            "left_out": left_out,
        }
        write_index(self.path / f"{shard.name}.npz", index)
        write_json(self.path / f"{shard.name}.json", entry)
        for file in shard.writer.files:
            os.replace(file, self.to / file.name)
        _flush(self.to)
        return entry

    def finished(self, part: str) -> list[dict[str, Any]]:
        """The entries of the part's shards that are whole and in their places, from the first up to the first that is not."""
        entries: list[dict[str, Any]] = []
        while (path := self.path / f"{part}-{len(entries):05d}.json").is_file():
            entry = json.loads(path.read_text(encoding="utf-8"))
            files = [(self.to / name, size) for name, size in entry["files"].items()]
            if not all(file.is_file() and file.stat().st_size == size for file, size in files):
                break
            entries.append(entry)
        return entries

    def index(self, part: str, shards: int) -> ShardIndex:
        """The rows of all shards of a part."""
        indices = []
        for number in range(shards):
            with (self.path / f"{part}-{number:05d}.npz").open("rb") as file:
                indices.append(ShardIndex.from_arrays(load(file)))
        return ShardIndex.join(indices)


def write_index(path: Path, index: ShardIndex) -> str:
    """Write under a temporary name, flush, rename; returns the SHA-256."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        save(file, index.arrays())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush(folder: Path) -> None:
    """Names that have moved are on the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
