"""A data set into shards: streamed, so that memory does not grow with its bytes, and resumable at every moment."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..console import Console
from ..data import ImageSet, Splits
from ..data.packed import DESCRIPTION, VERSION
from ..errors import DataError, UserError
from .folder import write_json
from .pack_check import check_parts
from .pack_journal import Journal, Shard, write_index
from .pack_plan import names_of, require_same
from .pack_source import stream

SHOWN_EVERY = 64  # images between two looks at the progress


class Packing:
    """The work on one folder: its shards, then their common index, then every image read back, then `packed.json`.

    Args:
        to: the folder.
        plan: from `make_plan`; a folder begun by another one is refused.
        console: for progress.
    """

    def __init__(self, to: Path, plan: dict[str, Any], console: Console):
        self.to, self.plan, self.console = to, json.loads(json.dumps(plan)), console
        self.journal = Journal(to)
        self._lock = None

    @property
    def finished(self) -> bool:
        return (self.to / DESCRIPTION).is_file()

    def begin(self) -> None:
        """Make the folder, or find in it what an earlier start of the same command left."""
        try:
            if self.finished:
                require_same(self.to, _json(self.to / DESCRIPTION).get("plan"), self.plan)
                return
            if self.journal.plan.is_file():
                require_same(self.to, _json(self.journal.plan), self.plan)
            elif self.to.exists() and (not self.to.is_dir() or set(os.listdir(self.to)) - {self.journal.path.name}):
                raise UserError(f"--to {self.to}: it is there already and not empty; name a new folder")
            self.journal.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.journal.path / "lock").open("w")
        except OSError as error:
            raise UserError(f"--to {self.to}: cannot be written ({error.strerror})") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self.journal.plan.is_file():
                write_json(self.journal.plan, self.plan)
        except BlockingIOError as error:
            self._unlock()
            raise UserError(f"--to {self.to}: another process is packing into it") from error
        except BaseException:
            self._unlock()
            raise

    def run(self, splits: Splits, root: str, *, workers: int, skip: bool, most: float) -> dict[str, Any]:
        """Write what is missing, check everything, finish; returns the content of packed.json.

        Args:
            splits, root: the source.
            workers: threads that read; the result does not depend on them.
            skip: leave unreadable images out, up to the share `most` of a part; else the first one ends the work.
        """
        parts = {}
        for name, images in splits.parts().items():
            shards = self._part(name, images, names_of(images, root), workers, most if skip else None)
            parts[name] = self._merge(name, images, shards)
        check_parts(self.to, parts, self.plan["classes"], self.console)
        content = {"version": VERSION, "classes": self.plan["classes"], "parts": parts, "plan": self.plan}
        write_json(self.to / DESCRIPTION, content)
        return content

    def close(self) -> None:
        """Give the folder free; what only a resume needs goes once all is finished."""
        if self.finished and self.journal.path.is_dir():
            shutil.rmtree(self.journal.path)
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _part(self, part: str, images: ImageSet, names: list[str], workers: int, most: float | None) -> list[dict]:
        """Write the shards of a part that are missing; returns the entries of all."""
        done = self.journal.finished(part)
        left_out = [fault for entry in done for fault in entry["left_out"]]
        if left_out and most is None:
            raise DataError(self._unreadable(left_out[0]["fault"]))
        new: list[dict] = []  # those that no entry holds yet
        shard: Shard | None = None
        first = done[-1]["next"] if done else 0
        self.console.start(part, len(images), first, "image")
        began = time.monotonic()
        try:
            for place, image in stream(images, first, self.plan["size"], workers):
                if isinstance(image, DataError):
                    new.append({"image": names[place], "fault": str(image)})
                    self._require_few(part, len(left_out) + len(new), len(images), image, most)
                else:
                    if shard is not None and shard.bytes + len(image.data) > self.plan["shard_mb"] * 1e6:
                        done.append(self.journal.publish(shard, place, new))
                        left_out, new, shard = left_out + new, [], None
                    shard = shard or self.journal.open(self.plan["format"], part, len(done))
                    shard.add(image, int(images.labels[place]), place, names[place])
                if (place + 1) % SHOWN_EVERY == 0 or place + 1 == len(images):
                    speed = (place + 1 - first) / max(1e-9, time.monotonic() - began)
                    self.console.step(place + 1, None, None, speed)
            if shard is not None:
                done.append(self.journal.publish(shard, len(images), new))
                shard = None
        finally:
            self.console.stop()
            if shard is not None:
                shard.writer.abandon()
        if not done:
            raise DataError(f"no image of {part} can be read: {new[0]['fault'] if new else 'it has none'}")
        return done

    def _require_few(self, part: str, faults: int, total: int, error: DataError, most: float | None) -> None:
        """Unreadable images end the work: the first one, or where some may be left out, one too many."""
        if most is None:
            raise DataError(self._unreadable(str(error))) from error
        if faults > max(1, most * total):
            raise DataError(
                f"{faults} of {total} images of {part} are unreadable, more than data.max_error_share {most}; the last: {error}"
            ) from error

    def _unreadable(self, fault: str) -> str:
        return f"{fault}; mend it and give the same command again ({self.to} goes on from there), or set data.on_error: skip"

    def _merge(self, part: str, images: ImageSet, shards: list[dict]) -> dict[str, Any]:
        """The part's index out of those of its shards, and the part's entry in packed.json."""
        index = self.journal.index(part, len(shards))
        return {
            "images": len(index),
            "bytes": int(index.length.sum()),
            "counts": np.bincount(index.labels, minlength=images.num_classes).tolist(),
            "index_sha256": write_index(self.to / f"{part}.index.npz", index),
            "shards": [_entry(shard) for shard in shards],
            "left_out": [fault for shard in shards for fault in shard["left_out"]],
        }


def _entry(shard: dict) -> dict[str, Any]:
    """Of a shard in packed.json; of a MindRecord the file that holds the images, not its `.db`."""
    name, size = next((name, size) for name, size in shard["files"].items() if not name.endswith(".db"))
    return {"file": name, "bytes": size, "images": shard["images"]}


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); name a new folder") from error
    return content if isinstance(content, dict) else {}
