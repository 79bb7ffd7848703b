"""The two containers of `torch.save`: a zip archive (PyTorch 1.6 and later) and a row of pickles (before)."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from .torch_pickle import ELEMENTS, Element, Reader, Storage, TorchTensor

ZIP = b"PK\x03\x04"
MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
Fetch = Callable[[TorchTensor], np.ndarray]


def read_torch(path: Path, use: Callable[[Any, Fetch], Any]) -> Any:
    """What `use` makes of a file's content, in which tensors are `TorchTensor`, and of a function that reads one of them.

    Only the tensors that are asked for are read: beside the weights a file may hold an optimizer's state of twice their size.

    Raises:
        ValueError: another kind of file, a damaged one, or one that asks for code to be run.
    """
    with path.open("rb") as file:
        try:
            if file.read(4) == ZIP:
                with zipfile.ZipFile(file) as archive:
                    return use(*_of_archive(archive))
            file.seek(0)
            return use(*_of_pickles(file, path.stat().st_size))
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} {_one_line(error)}") from error
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is damaged: {_one_line(error)}") from error
        except ValueError as error:
            raise ValueError(f"{path} {_one_line(error)}") from error
        except Exception as error:  # a damaged pickle may end in any of them
            raise ValueError(f"{path} is damaged: {type(error).__name__} {_one_line(error)}") from error


def _of_archive(archive: zipfile.ZipFile) -> tuple[Any, Fetch]:
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError("is a zip archive without one data.pkl, so it is not by torch.save")
    root = roots[0]
    if f"{root}constants.pkl" in names:
        raise ValueError("holds a TorchScript program; save the network's state_dict() instead")
    order = "<"
    if f"{root}byteorder" in names:
        order = {b"little": "<", b"big": ">"}[_member(archive, f"{root}byteorder").strip()]
    content = Reader(io.BytesIO(_member(archive, f"{root}data.pkl"))).load()

    def fetch(tensor: TorchTensor) -> np.ndarray:
        storage, name = tensor.storage, f"{root}data/{tensor.storage.key}"
        if name not in names:
            raise ValueError(f"lacks {name}, which a tensor is in")
        return tensor.array(_whole(storage, _member(archive, name)), order)

    return content, fetch


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"holds {name} in a compressed form, which torch.save does not write; save it anew")
    return archive.read(name)  # compares the checksum


def _of_pickles(file: IO[bytes], size: int) -> tuple[Any, Fetch]:
    if Reader(file).load() != MAGIC:
        raise ValueError("is a pickle, but not one by torch.save")
    version = Reader(file).load()
    if version != VERSION:
        raise ValueError(f"is of version {version!r} of the older form of torch.save; {VERSION} is known")
    Reader(file).load()  # about the machine; the storages have their lowest byte first whatever it was
    elements: dict[str, Element] = {}

    class Noting(Reader):
        def persistent_load(self, pid: Any) -> Storage:
            storage = super().persistent_load(pid)
            elements[storage.key] = storage.element
            return storage

    content, keys = Noting(file).load(), Reader(file).load()
    places: dict[str, tuple[int, int]] = {}  # key -> place in the file, bytes
    at = file.tell()
    for key in keys:
        if str(key) not in elements:
            raise ValueError(f"has a storage {key!r} that nothing speaks of")
        file.seek(at)
        length = int.from_bytes(file.read(8), "little", signed=True)
        count = length * ELEMENTS[elements[str(key)].name][0]
        if length < 0 or at + 8 + count > size:
            raise ValueError(f"is damaged: it ends before storage {key!r} does")
        places[str(key)] = at + 8, count
        at += 8 + count

    def fetch(tensor: TorchTensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in places:
            raise ValueError(f"lacks the storage {storage.key!r}, which a tensor is in")
        at, count = places[storage.key]
        file.seek(at)
        return tensor.array(_whole(storage, file.read(count)))

    return content, fetch


def _whole(storage: Storage, data: bytes) -> np.ndarray:
    """The bytes of a storage, as many as the pickle says."""
    size = ELEMENTS[storage.element.name][0]
    begin, end = size * storage.first, size * (storage.first + storage.length)
    if end > len(data):
        raise ValueError(f"is damaged: storage {storage.key!r} has {len(data)} bytes, {end} are needed")
    return np.frombuffer(data, np.uint8)[begin:end]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
