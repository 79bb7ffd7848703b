"""Images as stretches of bytes in large files, read by any number of threads."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence

import numpy as np

from ..errors import DataError
from .shard_index import ShardIndex

MOST_OPEN = 256  # files; a process may have 1,024, and not only ours


class Files:
    """Reads stretches of files. A file is opened when it is first asked for and then stays open.

    `os.pread` has no position that threads or forked processes could move for each other. Beyond `MOST_OPEN` files, one is
    opened for every single read: closing another that some thread is just reading would need a lock for everybody.
    """

    def __init__(self, paths: Sequence[str]):
        self.paths = tuple(paths)
        self._open: dict[int, int] = {}

    def read(self, number: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes of file `number`, fewer where it ends; OSError where it cannot be read."""
        handle = self._open.get(number)
        if handle is not None:
            return os.pread(handle, length, offset)
        handle = os.open(self.paths[number], os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        try:
            return os.pread(handle, length, offset)
        finally:
            # Another thread may have been here first; of two handles one goes.
            if len(self._open) >= MOST_OPEN or self._open.setdefault(number, handle) != handle:
                os.close(handle)

    def __reduce__(self):
        return Files, (self.paths,)  # a copy opens its own

    def __del__(self):
        for handle in self._open.values():
            os.close(handle)


class Blobs:
    """The bytes and the names of N images.

    Args:
        files: the shards.
        index: of all images that the shards hold.
        rows: those meant here, (N,); None for all.
    """

    def __init__(self, files: Files, index: ShardIndex, rows: np.ndarray | None = None):
        self.files, self.index = files, index
        self.rows = np.arange(len(index)) if rows is None else rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, indices: np.ndarray) -> Blobs:
        """Only these images, in this order."""
        return Blobs(self.files, self.index, self.rows[indices])

    def read(self, number: int) -> bytes:
        """The bytes of an image; DataError where the shard is gone, too short, or holds other bytes than were packed."""
        row = self.rows[number]
        offset, length = int(self.index.offset[row]), int(self.index.length[row])
        try:
            data = self.files.read(int(self.index.shard[row]), offset, length)
        except OSError as error:
            raise DataError(f"cannot read image {self.describe(number)}: {error.strerror or error}") from error
        if len(data) < length:
            raise DataError(
                f"cannot read image {self.describe(number)}: the file ends before byte {offset + length}, where the image does"
            )
        if len(self.index.crc) and zlib.crc32(data) != self.index.crc[row]:
            raise DataError(
                f"cannot read image {self.describe(number)}: its {length} bytes from {offset} on are not those that were "
                f"packed (CRC-32 {zlib.crc32(data):08x}, not {self.index.crc[row]:08x})"
            )
        return data

    def name(self, number: int) -> str:
        """What the image was called before it came into a shard."""
        return self.index.name(int(self.rows[number]))

    def describe(self, number: int) -> str:
        return f"{self.name(number)} ({self.files.paths[self.index.shard[self.rows[number]]]})"
