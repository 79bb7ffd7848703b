"""Half a million file names without half a million Python strings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

CHUNK = 1 << 16  # names that are cut out of the block at once; bounds the memory of passes over all of them


class Paths(Sequence):
    """A sequence of paths, kept as one block of bytes and two places for each; a path becomes a `str` when it is asked for.

    437,513 paths of 70 characters take 38 MB; as a list of strings they would take 56, and more while they are made.

    Args:
        blob: UTF-8 text that holds all paths; what lies between them does not matter, so it may be a list file as it is.
        starts, ends: (N,) path i is `prefix + blob[starts[i]:ends[i]]`.
        prefix: what stands before every path, mostly a folder and its slash.

    Example:
        >>> paths = Paths.of(["a/1.jpg", "b/2.jpg"], prefix="data/")
        >>> paths[1], list(paths.take([1, 1]))
        ('data/b/2.jpg', ['data/b/2.jpg', 'data/b/2.jpg'])
    """

    def __init__(self, blob: bytes, starts: np.ndarray, ends: np.ndarray, prefix: str = ""):
        self.blob, self.prefix = blob, prefix
        self.starts, self.ends = np.asarray(starts, np.int64), np.asarray(ends, np.int64)

    @classmethod
    def of(cls, names: Sequence[str], prefix: str = "") -> Paths:
        """From strings; one that is no text (half a surrogate pair) raises UnicodeEncodeError."""
        parts = [name.encode() for name in names]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        return cls(b"".join(parts), np.concatenate([[0], ends[:-1]]) if parts else ends, ends, prefix)

    @classmethod
    def joined(cls, parts: Sequence[Paths]) -> Paths:
        """One behind the other; a block that several share (as parts of one list do) is there once. The prefixes must agree."""
        if len({part.prefix for part in parts}) != 1:
            raise ValueError("paths with different prefixes cannot be joined")
        blobs = {id(part.blob): part.blob for part in parts}
        begins = dict(zip(blobs, np.cumsum([0, *map(len, blobs.values())]).tolist(), strict=False))
        starts = np.concatenate([part.starts + begins[id(part.blob)] for part in parts])
        ends = np.concatenate([part.ends + begins[id(part.blob)] for part in parts])
        return cls(b"".join(blobs.values()), starts, ends, parts[0].prefix)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index):
        """A path, or with a slice a sequence of them."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self.prefix + self.blob[self.starts[index] : self.ends[index]].decode()

    def __iter__(self) -> Iterator[str]:
        for part in self._parts():
            yield from [self.prefix + name.decode() for name in part]

    def take(self, indices: np.ndarray) -> Paths:
        """Those of `indices`, in that order; the block of bytes is shared, not copied."""
        indices = np.asarray(indices)
        if not len(indices):
            indices = indices.astype(np.int64)
        return Paths(self.blob, self.starts[indices], self.ends[indices], self.prefix)

    def hashes(self) -> np.ndarray:
        """int64 (N,) equal for equal paths, of what stands behind the prefix; valid within this process only."""
        parts = [np.array([hash(name) for name in part], np.int64) for part in self._parts()]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def repeats(self) -> tuple[np.ndarray, np.ndarray]:
        """(indices of the paths that were there before, ascending; where each was for the first time)."""
        _, first, which = np.unique(self.hashes(), return_index=True, return_inverse=True)
        earlier = first[which]
        later = np.flatnonzero(earlier != np.arange(len(self)))
        later = later[[self[i] == self[j] for i, j in zip(later, earlier[later], strict=True)]] if len(later) else later
        return later, earlier[later]

    def _parts(self) -> Iterator[list[bytes]]:
        for first in range(0, len(self), CHUNK):
            part = slice(first, first + CHUNK)
            places = zip(self.starts[part].tolist(), self.ends[part].tolist(), strict=True)
            yield [self.blob[start:end] for start, end in places]
