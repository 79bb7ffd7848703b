"""Writers of shards: images one behind the other into a file, and where each of them came to lie."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from pathlib import Path

from ..errors import DataError

PAGE = 1 << 25  # bytes of a MindRecord page, which must hold the largest image
HEADER = 1 << 20  # bytes of a MindRecord header: some 250 for each page
ROWS, BYTES = 64, 1 << 24  # that MindRecord is handed at once, whichever is reached first


class TarWriter:
    """An uncompressed tar as WebDataset reads it: 00000017.jpg and, with its label in digits, 00000017.cls.

    Args:
        folder, name: the file is `folder/name.tar`; it must not be there.
    """

    def __init__(self, folder: Path, name: str):
        self.files = [folder / f"{name}.tar"]
        self._file = self.files[0].open("xb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._offsets: list[int] = []

    def add(self, data: bytes, *, label: int, number: int, extension: str, name: str) -> None:
        """One image; `number` is its place in the part, `extension` begins with a dot."""
        self._offsets.append(self._member(f"{number:08d}{extension}", data))
        self._member(f"{number:08d}.cls", str(label).encode())

    def _member(self, name: str, data: bytes) -> int:
        header = tarfile.TarInfo(name)  # owner and time of nobody and never: the same images give the same bytes
        header.size = len(data)
        start = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(header, io.BytesIO(data))
        self._tar.members.clear()  # it remembers all it wrote
        return start

    def finish(self) -> list[int]:
        """Close the file, on the disk; returns where every image's bytes begin."""
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._offsets

    def abandon(self) -> None:
        """Let go of a file that will not be finished."""
        self._file.close()


class MindRecordWriter:
    """A MindRecord file with the fields image (bytes), label (int32) and name (string), and the `.db` that belongs to it.

    MindRecord's file is a header of fixed size and then pages of fixed size. An image lies in a page of blobs, behind its
    length as eight bytes; page and place are in the table INDEXES of the `.db`, an SQLite file. Both files hold the file's own
    name, so they cannot be renamed, only moved.
    """

    def __init__(self, folder: Path, name: str):
        from mindspore.mindrecord import FileWriter

        self.path = folder / f"{name}.mindrecord"
        self.files = [Path(f"{self.path}.db"), self.path]  # the order in which they are to be moved
        self._writer = FileWriter(str(self.path), 1)
        self._guard(self._writer.set_header_size, HEADER)
        self._guard(self._writer.set_page_size, PAGE)
        fields = {"image": {"type": "bytes"}, "label": {"type": "int32"}, "name": {"type": "string"}}
        self._guard(self._writer.add_schema, fields, "images packed by ms_longtail")
        self._guard(self._writer.add_index, ["label"])
        self._rows: list[dict] = []
        self._waiting = 0  # bytes in them
        self._lengths: list[int] = []

    def add(self, data: bytes, *, label: int, number: int, extension: str, name: str) -> None:
        if len(data) + 8 > PAGE:
            raise DataError(
                f"image {name} has {len(data)} bytes, more than a page of MindRecord holds ({PAGE}); use --format tar, or --size"
            )
        # SQLite and JSON take no broken UTF-8; the name in our own index is exact.
        readable = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        self._rows.append({"image": data, "label": label, "name": readable})
        self._lengths.append(len(data))
        self._waiting += len(data)
        if len(self._rows) >= ROWS or self._waiting >= BYTES:
            self._write()

    def _write(self) -> None:
        rows, self._rows, self._waiting = self._rows, [], 0
        self._guard(self._writer.write_raw_data, rows)

    def finish(self) -> list[int]:
        if self._rows:
            self._write()
        self._guard(self._writer.commit)
        for file in self.files:
            mask = os.umask(0)
            os.umask(mask)
            file.chmod(0o666 & ~mask)  # MindSpore leaves them to the owner alone
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)
        return mindrecord_offsets(self.path, self._lengths)

    def abandon(self) -> None:
        self._rows = []

    def _guard(self, function: Callable, *arguments) -> None:
        """MindSpore's errors of writing, such as a full disk, as what they are."""
        try:
            function(*arguments)
        except RuntimeError as error:
            lines = str(error).splitlines() or [type(error).__name__]
            reason = next((line for line in lines if line.startswith("[ERROR]")), lines[0])
            raise OSError(f"cannot write {self.path}: {reason}") from error


def mindrecord_offsets(path: Path, lengths: list[int]) -> list[int]:
    """Where the images of a MindRecord file begin; OSError where the file is not laid out as described above."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        connection = sqlite3.connect(f"file:{_quoted(path)}.db?mode=ro&immutable=1", uri=True)
        try:
            places = connection.execute(
                "SELECT PAGE_ID_BLOB, PAGE_OFFSET_BLOB, PAGE_OFFSET_BLOB_END FROM INDEXES ORDER BY ROW_ID"
            ).fetchall()
        finally:
            connection.close()
        starts = [header["header_size"] + page * header["page_size"] + offset for page, offset, _ in places]
        sizes = [end - offset - 8 for _, offset, end in places]
        for start, length in zip(starts, lengths, strict=False):
            file.seek(start)
            if int.from_bytes(file.read(8), "little") != length:
                sizes = []
        if sizes != lengths:
            raise OSError(f"{path}: this version of MindSpore lays MindRecord files out otherwise; use --format tar")
    return [start + 8 for start in starts]


def _quoted(path: Path) -> str:
    return str(path.resolve()).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


FORMATS = {"tar": TarWriter, "mindrecord": MindRecordWriter}
