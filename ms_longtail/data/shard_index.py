"""Where the bytes of images are within large files: one row an image, as arrays, in memory and in a .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import BinaryIO

import numpy as np

_TYPES = {"labels": "i4", "shard": "i4", "offset": "i8", "length": "i8", "crc": "u4", "name_ends": "i8", "text": "u1"}


@dataclass(frozen=True)
class ShardIndex:
    """N images in shards; some 30 bytes and its name for each.

    Attributes:
        labels: class ids, int32 (N,).
        shard: which file, int32 (N,).
        offset, length: where in it, bytes, int64 (N,).
        crc: CRC-32 of the bytes, uint32 (N,), or (0,) where nobody computed them.
        text, name_ends: the names one behind the other as UTF-8, and where each ends, int64 (N,).
    """

    labels: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    crc: np.ndarray
    name_ends: np.ndarray
    text: np.ndarray

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        *,
        labels: Sequence[int],
        shard: int,
        offset: Sequence[int],
        length: Sequence[int],
        crc: Sequence[int] = (),
    ) -> ShardIndex:
        """The rows of one shard."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        columns = {
            "labels": labels,
            "shard": np.full(len(names), shard),
            "offset": offset,
            "length": length,
            "crc": crc,
            "name_ends": np.cumsum([len(name) for name in encoded], dtype="i8"),
            "text": np.frombuffer(b"".join(encoded), np.uint8),
        }
        return cls(**{key: np.asarray(column, _TYPES[key]) for key, column in columns.items()})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], prefix: str = "") -> ShardIndex:
        """What `arrays` made; ValueError where the columns do not fit together."""
        missing = [key for key in _TYPES if prefix + key not in arrays]
        if missing:
            raise ValueError(f"no column {missing[0]}")
        index = cls(**{key: np.asarray(arrays[prefix + key]) for key in _TYPES})
        count = len(index)
        for key, kind in _TYPES.items():
            column = getattr(index, key)
            sizes = {"text": (int(index.name_ends[-1]) if count else 0,), "crc": (0, count)}.get(key, (count,))
            if column.dtype != np.dtype(kind) or column.ndim != 1 or len(column) not in sizes:
                raise ValueError(f"column {key} is {column.dtype} {column.shape}, for {count} images")
        return index

    @classmethod
    def join(cls, parts: Sequence[ShardIndex]) -> ShardIndex:
        """All rows, in order."""
        columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)}
        before = np.cumsum([0] + [len(part.text) for part in parts[:-1]])
        ends = [part.name_ends + start for part, start in zip(parts, before, strict=True)]
        return cls(**columns | {"name_ends": np.concatenate(ends)})

    def __len__(self) -> int:
        return len(self.labels)

    def arrays(self, prefix: str = "") -> dict[str, np.ndarray]:
        return {prefix + f.name: getattr(self, f.name) for f in fields(self)}

    def name(self, row: int) -> str:
        start = self.name_ends[row - 1] if row else 0
        return self.text[start : self.name_ends[row]].tobytes().decode("utf-8", "surrogateescape")


def save(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """An uncompressed .npz: the same arrays give the same bytes."""
    np.savez(file, **arrays)


def load(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of a .npz; ValueError where it is damaged."""
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except (OSError, EOFError, KeyError, zipfile.BadZipFile, AttributeError, TypeError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
