"""What training needs of a COCO-style JSON, read from an index that is made once: parsing 437,513 images takes seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from . import cache
from .listed import further, require_no_repeats
from .paths import Paths

VERSION = 1  # of the index; another one is made again
PARTS = ("images", "annotations", "categories")


@dataclass(frozen=True)
class Index:
    """Annotated images in the order of the annotations.

    Attributes:
        files: their `file_name` entries.
        codes: (N,) int32, the place of each one's category in `seen`.
        seen: ids of the categories that annotations name, by first appearance.
        categories: id -> name of those that the file describes.
    """

    files: Paths
    codes: np.ndarray
    seen: list[int | str]
    categories: dict[int | str, str]


def read_index(path: str, key: str, unsaved: list[str]) -> Index:
    """The index of a JSON file, from the cache if it is there, else made and put there.

    Args:
        path: of the JSON. key: of the setting that names it, for error messages.
        unsaved: gets a line where the index could not be written; nothing but time is lost.

    Raises:
        DataError: the file cannot be read, is cut short, or has an entry that is wrong by itself.
    """
    try:
        name = cache.key_of(path)
        index = _unpack(cache.load(name, VERSION))
        if index is not None:
            return index
        index = _make(Path(path).read_bytes(), path)
        changed = cache.key_of(path) != name
    except OSError as error:
        raise DataError(f"{key}: cannot read {path}: {error.strerror}") from error
    try:
        if not changed:
            cache.save(name, VERSION, _pack(index))
    except OSError as error:
        unsaved.append(f"{error.filename or cache.cache_folder()}: {error.strerror}")
    return index


def _pack(index: Index) -> dict[str, np.ndarray]:
    words = json.dumps([index.seen, list(index.categories.items())]).encode()
    blobs = {"blob": np.frombuffer(index.files.blob, np.uint8), "words": np.frombuffer(words, np.uint8)}
    return blobs | {"ends": index.files.ends, "codes": index.codes}


def _unpack(arrays: dict[str, np.ndarray] | None) -> Index | None:
    """What `_pack` packed, or None where it is something else."""
    if arrays is None:
        return None
    try:
        blob, ends, codes = arrays["blob"].tobytes(), arrays["ends"], arrays["codes"]
        seen, categories = json.loads(arrays["words"].tobytes())
        if len(ends) != len(codes) or ends[-1] != len(blob) or codes.min() < 0 or codes.max() >= len(seen):
            return None
        starts = np.concatenate([[0], ends[:-1]])
        return Index(Paths(blob, starts, ends), codes, seen, dict(map(tuple, categories)))
    except (KeyError, ValueError, TypeError, IndexError):
        return None


def _make(data: bytes, path: str) -> Index:
    content = _parse(data, path)
    images, annotations, categories = (content[part] for part in PARTS)
    names: dict[int | str, str] = {}
    for place, entry in enumerate(categories):
        identity = _identity(entry, "id", path, f"category {place}")
        if identity in names:
            raise DataError(f"{path}, category {place}: an earlier category has the id {identity!r} already")
        names[identity] = str(entry.get("name", identity))
    files, number = [], {}
    for place, entry in enumerate(images):
        identity = _identity(entry, "id", path, f"image {place}")
        if identity in number:
            raise DataError(f"{path}, image {place}: image {number[identity]} has the id {identity!r} already")
        number[identity] = place
        files.append(_file_name(entry, path, place))
    if not annotations:
        raise DataError(f"{path}: no annotation")
    which, codes = np.empty(len(annotations), np.int64), np.empty(len(annotations), np.int32)
    code: dict[int | str, int] = {}
    for place, entry in enumerate(annotations):
        which[place] = number.get(_identity(entry, "image_id", path, f"annotation {place}"), -1)
        codes[place] = code.setdefault(_identity(entry, "category_id", path, f"annotation {place}"), len(code))

    def say(place: int) -> str:
        return f"{path}, annotation {place}"

    lost = np.flatnonzero(which < 0)
    if len(lost):
        identity = annotations[lost[0]]["image_id"]
        raise DataError(f"{say(lost[0])}: no image has the id {identity!r}{further(len(lost) - 1)}")
    _require_one_each(which, images, say)
    paths = Paths.of([files[i] for i in which])
    seen = list(code)
    require_no_repeats(paths, np.array(seen, object)[codes], say, "category")
    return Index(paths, codes, seen, names)


def _parse(data: bytes, path: str) -> dict[str, Any]:
    try:
        content = json.loads(data.decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file complete?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise DataError(f"{path}: lists within lists without end; this is not COCO-style JSON") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: no map of images, annotations and categories; this is not COCO-style JSON")
    missing = [part for part in PARTS if part not in content]
    if missing:
        raise DataError(f"{path}: no {' and no '.join(missing)}; this is not COCO-style JSON")
    for part in PARTS:
        if not isinstance(content[part], list):
            raise DataError(
                f"{path}: {part!r} is no list, but {str(content[part])[:40]!r}; this is not COCO-style JSON"
            )
    return content


def _identity(entry: Any, key: str, path: str, place: str) -> int | str:
    """entry[key], a number or a word, or an error that shows the entry."""
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{path}, {place}: {str(entry)[:80]!r} has no {key!r}")
    if type(entry[key]) not in (int, str):
        raise DataError(f"{path}, {place}: {key} is {str(entry[key])[:40]!r}, not a whole number")
    return entry[key]


def _file_name(entry: dict, path: str, place: int) -> str:
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name or not _is_text(name):
        raise DataError(f"{path}, image {place}: {str(entry)[:80]!r} has no 'file_name' that a file could have")
    return name


def _is_text(name: str) -> bool:
    try:
        return name.isascii() or bool(name.encode())
    except UnicodeEncodeError:  # half a surrogate pair, as JSON can write it
        return False


def _require_one_each(which: np.ndarray, images: list[dict], say: Callable[[int], str]) -> None:
    """A DataError with the first annotation of an image that has one already."""
    _, first, inverse = np.unique(which, return_index=True, return_inverse=True)
    earlier = first[inverse]
    again = np.flatnonzero(earlier != np.arange(len(which)))
    if len(again):
        image = images[which[again[0]]]
        raise DataError(
            f"{say(again[0])}: image {image['id']!r} ({image['file_name']}) has annotation {earlier[again[0]]} already"
            f"{further(len(again) - 1)}; an image belongs to one class"
        )
