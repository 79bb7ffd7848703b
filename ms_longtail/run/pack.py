"""A data set into shards: streamed, so that memory does not grow with it, and resumable at every moment."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..console import Console
from ..data import ImageSet, Splits
from ..data.packed import DESCRIPTION, VERSION
from ..data.shard_index import ShardIndex, load, save
from ..data.shard_writers import FORMATS
from ..errors import DataError, UserError
from ..recipe import Recipe
from .dataset import data_root, whole_settings
from .folder import write_json
from .pack_check import check_parts
from .pack_source import Prepared, stream

SHOWN_EVERY = 64  # images between two looks at the progress


def make_plan(recipe: Recipe, splits: Splits, *, format: str, shard_mb: float, size: int | None) -> dict[str, Any]:
    """Everything that decides what the folder will hold; the long-tailed subset and the carved part do not."""
    settings = {key: value for key, value in whole_settings(recipe).items() if key != "root"}
    parts = {}
    for name, images in splits.parts().items():
        digest = hashlib.sha256(np.ascontiguousarray(images.labels, "<i4").tobytes())
        digest.update("\n".join(names_of(images, data_root(recipe))).encode("utf-8", "surrogateescape"))
        parts[name] = {"images": len(images), "labels_and_names_sha256": digest.hexdigest()}
    return {
        "format": format,
        "shard_mb": shard_mb,
        "size": size,
        "source": {"data": recipe.data.name, "root": str(Path(data_root(recipe)).resolve()), "settings": settings},
        "classes": list(splits.train.class_names),
        "parts": parts,
    }


def names_of(images: ImageSet, root: str) -> list[str]:
    """What images are called in a packed set: paths below root, or their numbers where there are no files."""
    names = images.file_names(root)
    return [images.name(i) for i in range(len(images))] if names is None else names


class Packing:
    """The work on one folder.

    A shard is written in FOLDER/.packing/work, flushed to the disk, entered in the journal, and moved to FOLDER. A shard that is
    in the journal and in its place is finished; any other is written anew from where the one before it ended. The journal of a
    shard is its part of the index and a small JSON file. `packed.json` comes last, after every image was read back.

    Args:
        to: the folder.
        plan: from `make_plan`; a folder begun by another one is refused.
        console: for progress.
    """

    def __init__(self, to: Path, plan: dict[str, Any], console: Console):
        self.to, self.plan, self.console = to, json.loads(json.dumps(plan)), console
        self.journal = to / ".packing"
        self.work = self.journal / "work"
        self._lock = None

    @property
    def finished(self) -> bool:
        return (self.to / DESCRIPTION).is_file()

    def begin(self) -> None:
        """Make the folder, or find in it what an earlier start of the same command left."""
        try:
            if self.finished:
                self._require_same(json.loads((self.to / DESCRIPTION).read_text(encoding="utf-8")).get("plan"))
                return
            if (self.journal / "plan.json").is_file():
                self._require_same(json.loads((self.journal / "plan.json").read_text(encoding="utf-8")))
            elif self.to.exists() and (not self.to.is_dir() or set(os.listdir(self.to)) - {".packing"}):
                raise UserError(f"--to {self.to}: it is there already and not empty; name a new folder")
            self.work.mkdir(parents=True, exist_ok=True)
        except ValueError as error:
            raise DataError(f"{self.to}: {DESCRIPTION} or .packing/plan.json is damaged ({error})") from error
        except OSError as error:
            raise UserError(f"--to {self.to}: cannot be made ({error.strerror})") from error
        self._lock = (self.journal / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"--to {self.to}: another process is packing into it") from error
        if not (self.journal / "plan.json").is_file():
            write_json(self.journal / "plan.json", self.plan)

    def _require_same(self, begun: Any) -> None:
        begun = begun if isinstance(begun, dict) else {}
        keys = [key for key in self.plan if begun.get(key) != self.plan[key]]
        if keys:
            lines = [f"  {key}: {str(begun.get(key))[:100]} there, {str(self.plan[key])[:100]} now" for key in keys]
            raise UserError(
                f"--to {self.to} was begun with other settings or from another data set:\n" + "\n".join(lines) + "\n"
                "Give the command that began it, or name a new folder; nothing was changed."
            )

    def run(self, splits: Splits, root: str, *, workers: int, skip: bool, most: float) -> dict[str, Any]:
        """Write what is missing, check everything, finish; returns the content of packed.json.

        Args:
            splits, root: the source.
            workers: threads that read; the result does not depend on them.
            skip: leave unreadable images out, up to the share `most` of a part; else the first one ends the work.
        """
        parts = {}
        for name, images in splits.parts().items():
            shards = self._part(name, images, names_of(images, root), workers, skip, most)
            parts[name] = self._merge(name, images, shards)
        check_parts(self.to, parts, self.plan["classes"], self.console)
        content = {"version": VERSION, "classes": self.plan["classes"], "parts": parts, "plan": self.plan}
        write_json(self.to / DESCRIPTION, content)
        return content

    def close(self) -> None:
        """Give the folder free; what only a resume needs goes once all is finished."""
        if self.finished and self.journal.is_dir():
            shutil.rmtree(self.journal)
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _part(self, part: str, images: ImageSet, names: list[str], workers: int, skip: bool, most: float) -> list[dict]:
        """All shards of a part; returns their entries in the journal."""
        done: list[dict] = []
        while (entry := self._finished(part, len(done))) is not None:
            done.append(entry)
        place = done[-1]["next"] if done else 0
        faults = [fault for entry in done for fault in entry["left_out"]]
        if faults and not skip:
            raise DataError(_unreadable(faults[0]["fault"], self.to))
        shard: _Shard | None = None
        self.console.start(part, len(images), place, "image")
        began, first = time.monotonic(), place
        try:
            for place, image in stream(images, place, self.plan["size"], workers):
                if isinstance(image, DataError):
                    if not skip:
                        raise DataError(_unreadable(str(image), self.to)) from image
                    faults.append({"image": names[place], "fault": str(image)})
                    if len(faults) > most * len(images):
                        raise DataError(
                            f"{len(faults)} of {len(images)} images of {part} are unreadable, more than data.max_error_share "
                            f"{most}; the last: {image}"
                        ) from image
                else:
                    if shard is not None and shard.bytes + len(image.data) > self.plan["shard_mb"] * 1e6:
                        done.append(self._publish(shard, place, _new(faults, done)))
                        shard = None
                    shard = shard or self._open(part, len(done))
                    shard.add(image, int(images.labels[place]), place, names[place])
                if (place + 1) % SHOWN_EVERY == 0 or place + 1 == len(images):
                    speed = (place + 1 - first) / max(1e-9, time.monotonic() - began)
                    self.console.step(place + 1, None, None, speed)
        finally:
            self.console.stop()
        if shard is not None:
            done.append(self._publish(shard, len(images), _new(faults, done)))
        if not done:
            raise DataError(f"no image of {part} can be read; the first: {faults[0]['fault'] if faults else 'it has none'}")
        return done

    def _open(self, part: str, number: int) -> _Shard:
        shutil.rmtree(self.work)  # what a kill left
        self.work.mkdir()
        return _Shard(FORMATS[self.plan["format"]](self.work, f"{part}-{number:05d}"), part, number)

    def _publish(self, shard: _Shard, following: int, left_out: list[dict]) -> dict:
        """Finish a shard; image `following` is the first that it does not hold."""
        index = shard.finish()
        entry = {
            "files": {file.name: file.stat().st_size for file in shard.writer.files},
            "images": len(index),
            "next": following,
            "left_out": left_out,
        }
        stem = self.journal / shard.name
        _write_index(stem.with_suffix(".npz"), index)
        write_json(stem.with_suffix(".json"), entry)
        for file in shard.writer.files:
            os.replace(file, self.to / file.name)
        _flush(self.to)
        return entry

    def _finished(self, part: str, number: int) -> dict | None:
        """The journal's entry of a shard that is whole and in its place."""
        path = self.journal / f"{part}-{number:05d}.json"
        if not path.is_file():
            return None
        entry = json.loads(path.read_text(encoding="utf-8"))
        for name, size in entry["files"].items():
            file = self.to / name
            if not file.is_file() or file.stat().st_size != size:
                return None
        return entry

    def _merge(self, part: str, images: ImageSet, shards: list[dict]) -> dict[str, Any]:
        """The part's index out of those of its shards, and the part's entry in packed.json."""
        indices = []
        for number in range(len(shards)):
            with (self.journal / f"{part}-{number:05d}.npz").open("rb") as file:
                indices.append(ShardIndex.from_arrays(load(file)))
        index = ShardIndex.join(indices)
        digest = _write_index(self.to / f"{part}.index.npz", index)
        return {
            "images": len(index),
            "bytes": int(index.length.sum()),
            "counts": np.bincount(index.labels, minlength=images.num_classes).tolist(),
            "index_sha256": digest,
            "shards": [_entry(shard) for shard in shards],
            "left_out": [fault for shard in shards for fault in shard["left_out"]],
        }


class _Shard:
    """A shard being written, and its rows of the index."""

    def __init__(self, writer, part: str, number: int):
        self.writer, self.name, self.number = writer, f"{part}-{number:05d}", number
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


def _entry(shard: dict) -> dict[str, Any]:
    """Of a shard in packed.json; of a MindRecord the file that holds the images, not its `.db`."""
    name, size = next((name, size) for name, size in shard["files"].items() if not name.endswith(".db"))
    return {"file": name, "bytes": size, "images": shard["images"]}


def _new(faults: list[dict], done: list[dict]) -> list[dict]:
    return faults[sum(len(entry["left_out"]) for entry in done) :]


def _unreadable(fault: str, to: Path) -> str:
    return f"{fault}; mend it and give the same command again ({to} goes on from there), or set data.on_error: skip"


def _write_index(path: Path, index: ShardIndex) -> str:
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
