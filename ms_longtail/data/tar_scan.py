"""What a tar file of somebody else's holds: its images, their labels, and where their bytes are. Nothing is unpacked."""

from __future__ import annotations

import os
import posixpath
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import DataError
from .decode import EXTENSIONS
from .list_file import MAX_CLASSES

COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_LABEL = re.compile(rb"\s*(\d{1,9})\s*")
_LABEL_BYTES = 64


@dataclass(frozen=True)
class Scan:
    """The images of one tar, in its order.

    Attributes:
        names: of the members, cleaned of "./".
        offset, length: of their bytes.
        labels: from the members KEY.cls, or None where there is none in the file: then the folders say the class.
    """

    names: list[str]
    offset: list[int]
    length: list[int]
    labels: list[int] | None

    def folders(self, path: str) -> list[str]:
        """The name of the folder that each image lies in; an image without one is a DataError."""
        found = [posixpath.basename(posixpath.dirname(name)) for name in self.names]
        if "" in found:
            name = self.names[found.index("")]
            raise DataError(f"{path}: the image {name!r} has no label: neither a member KEY.cls nor a folder around it")
        return found


def scan(path: str) -> Scan:
    """Read the headers of a tar.

    A label KEY.cls belongs to the image KEY.jpg (or .png, ...) of the same folder; where KEY.left.jpg has no label of its own
    that of KEY is taken, as WebDataset cuts names at the first dot. Other files, folders, and names that begin with a dot are
    passed over.

    Raises:
        DataError: with the member's name: a file that cannot be read, is compressed, no tar, or cut short; a member that is a link
            or a device, whose name leads out of its folder, or that is there twice; an image without label, a label without
            image, a label that is not a whole number.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with open(path, "rb") as file:
            _require_plain(path, file.read(6))
            file.seek(0)
            for name, member in _members(path, file):
                key, extension = posixpath.splitext(name)
                if name in images or (extension == ".cls" and key in labels):
                    raise DataError(f"{path}: the member {name!r} is there twice")
                if extension.lower() in EXTENSIONS:
                    images[name] = (member.offset_data, member.size)
                elif extension == ".cls":
                    labels[key] = _label(path, name, member, file.fileno())
    except OSError as error:
        raise DataError(f"cannot read the shard {path}: {error.strerror or error}") from error
    offset, length = zip(*images.values(), strict=True) if images else ((), ())
    found = _pair(path, list(images), labels) if labels else None
    return Scan(list(images), list(offset), list(length), found)


def _require_plain(path: str, begin: bytes) -> None:
    for magic, kind in COMPRESSED.items():
        if begin.startswith(magic):
            raise DataError(
                f"{path} is compressed with {kind}: images are read from where they lie, so unpack it to a plain .tar"
            )


def _members(path: str, file) -> Iterator[tuple[str, tarfile.TarInfo]]:
    """(clean name, member) of all plain files that are not hidden."""
    size = os.fstat(file.fileno()).st_size
    end = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # it remembers all it read
                name = _clean(path, member)
                if member.isdir():
                    end = member.offset_data
                    continue
                if not member.isreg() or member.issparse():
                    kind = "a link" if member.issym() or member.islnk() else "no plain file"
                    raise DataError(f"{path}: the member {member.name!r} is {kind}; shards hold plain files only")
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if end > size:
                    raise DataError(f"{path} is cut short: {size} bytes, the member {member.name!r} ends at {end}")
                if not any(part.startswith(".") for part in name.split("/")):
                    yield name, member
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise DataError(f"{path} is not a tar, or is damaged after byte {end} ({error})") from error
    # tarfile takes whatever it cannot read for the end; the real one is a block of zeros.
    tail = os.pread(file.fileno(), tarfile.BLOCKSIZE, end)
    if tail != bytes(tarfile.BLOCKSIZE):
        what = "is cut short" if len(tail) < tarfile.BLOCKSIZE else "is damaged"
        raise DataError(f"{path} {what}: no header of a member and no end mark at byte {end}")


def _clean(path: str, member: tarfile.TarInfo) -> str:
    """The name without "./"; one that leads out of its folder is refused although nothing is unpacked."""
    if member.name.startswith("/") or ".." in member.name.split("/") or "\0" in member.name:
        raise DataError(
            f"{path}: the member {member.name!r} has a name that leads out of its folder: do not trust this shard"
        )
    return posixpath.normpath(member.name)


def _label(path: str, name: str, member: tarfile.TarInfo, handle: int) -> int:
    text = os.pread(handle, min(member.size, _LABEL_BYTES + 1), member.offset_data)
    match = _LABEL.fullmatch(text)
    if match is None or len(text) > _LABEL_BYTES or int(match.group(1)) >= MAX_CLASSES:
        raise DataError(f"{path}: the label {name!r} is {text[:40]!r}, not a whole number from 0 to {MAX_CLASSES - 1}")
    return int(match.group(1))


def _pair(path: str, names: list[str], labels: dict[str, int]) -> list[int]:
    """The label of every image."""
    used, found = set(), []
    for name in names:
        folder, base = posixpath.split(name)
        keys = (posixpath.splitext(name)[0], posixpath.join(folder, base.partition(".")[0]))
        key = next((key for key in keys if key in labels), None)
        if key is None:
            raise DataError(f"{path}: the image {name!r} has no label: no member {keys[0] + '.cls'!r}")
        used.add(key)
        found.append(labels[key])
    alone = [key for key in labels if key not in used]
    if alone:
        raise DataError(f"{path}: the label {alone[0] + '.cls'!r} has no image ({', '.join(EXTENSIONS)})")
    return found
