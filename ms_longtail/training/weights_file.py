"""A network's weights from a file: MindSpore's .ckpt, .safetensors, or what PyTorch's `torch.save` writes (.pth, .pt)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import safetensors
from mindspore import Parameter, Tensor

from .average import averaged
from .torch_file import ZIP, Fetch, read_torch
from .torch_pickle import TorchTensor

log = logging.getLogger(__name__)

# Where several maps have as many weights (those of a network and their moving average), the first of these is taken.
PLACES = (
    "state_dict",
    "model",
    "model_state",
    "model_state_dict",
    "net",
    "network",
    "ema",
    "state_dict_ema",
    "model_ema",
)
PARTS = ("feat_model", "classifier")  # a network in two maps side by side, as Kang et al. (ICLR 2020) save it
WEIGHT = re.compile(r"(^|\.)(weight|bias|running_mean|running_var|gamma|beta|moving_mean|moving_variance)$")
SAFE = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": "u2", "I64": "i8", "I32": "i4", "I16": "i2", "I8": "i1"}
SAFE |= {"U64": "u8", "U32": "u4", "U16": "u2", "U8": "u1", "BOOL": "?"}
READS = "MindSpore's .ckpt, .safetensors, and PyTorch's .pth or .pt"


def read_weights(path: str | Path) -> tuple[dict[str, np.ndarray], str]:
    """(name -> values, what was read) of a file of one of three kinds, which it is told by its first bytes.

    Nothing in a file is run: a pickle that asks for anything but tensors and plain values is refused. Floats of any width
    (bfloat16 among them) come as float32, whole numbers as they are. Of the maps in a file of PyTorch's the one with the most
    weights is taken; optimizer, epoch and settings beside it are passed over.

    Args:
        path: of the file.

    Returns:
        names as in the file, and a text such as "PyTorch, 'state_dict': 320 tensors".

    Raises:
        ValueError: missing, damaged, of another kind, without weights, or asking for code; one line with the path.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is missing" if not path.exists() else f"{path} is no file")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    if start.startswith(ZIP) or (start[:1] == b"\x80" and start[1:2] in b"\x01\x02\x03\x04\x05" and start[8:9] != b"{"):
        return read_torch(path, lambda content, fetch: _of_torch(content, fetch))
    if start[8:9] == b"{" or path.suffix == ".safetensors":
        values, kind = _of_safetensors(path), "safetensors"
    elif path.suffix == ".ckpt":
        values, kind = _of_mindspore(path), "MindSpore"
    else:
        raise ValueError(f"{path} is none of the files that can be read: {READS}")
    if not values:
        raise ValueError(f"{path} holds no tensor")
    return values, f"{kind}: {len(values)} tensors"


def _of_mindspore(path: Path) -> dict[str, np.ndarray]:
    try:
        found = ms.load_checkpoint(str(path), crc_check=_has_checksum(path))
    except Exception as error:  # the reader raises many kinds for damaged files
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
    # A run's own state stands in a checkpoint as text; of an average and what it follows, the average is meant.
    return {name: _plain(value) for name, value in averaged(found).items() if isinstance(value, Parameter | Tensor)}


def _has_checksum(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 17))
        return file.read(7) == b"crc_num"


def _plain(value: Tensor) -> np.ndarray:
    if value.dtype in (ms.bfloat16, ms.float16, ms.float64):
        return value.astype(ms.float32).asnumpy()
    return value.asnumpy()


def _of_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        found = safetensors.deserialize(path.read_bytes())
    except Exception as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
    result = {}
    for name, entry in found:
        kind = SAFE.get(entry["dtype"])
        if kind is None:
            raise ValueError(f"{path}: {name} is of type {entry['dtype']}, which no network here has")
        array = np.frombuffer(entry["data"], np.dtype(kind).newbyteorder("<")).reshape(entry["shape"])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        result[name] = np.array(array, np.float32 if array.dtype.kind == "f" else np.dtype(kind))
    return result


# ---- which of the maps in a file of PyTorch's


def _of_torch(content: Any, fetch: Fetch) -> tuple[dict[str, np.ndarray], str]:
    found = [(place, tensors) for place, tensors in _maps(content, (), set()) if _weights(tensors)]
    if not found:
        raise ValueError("holds no map from names to weights; save a network's state_dict()")

    def rank(entry: tuple[tuple[str, ...], dict]) -> tuple:
        last = entry[0][-1] if entry[0] else ""
        return -_weights(entry[1]), PLACES.index(last) if last in PLACES else len(PLACES), len(entry[0]), entry[0]

    (place, tensors), *others = sorted(found, key=rank)
    values = {}
    for name, tensor in tensors.items():
        try:
            values[name] = fetch(tensor)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    note = f"PyTorch{_quoted(place)}: {len(values)} tensors"
    if others:
        beside = ", ".join(f"{'.'.join(where)} ({len(tensors)})" for where, tensors in others[:3])
        note = f"{note}; not taken: {beside}" + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return values, note


def _maps(content: Any, place: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(path within the file, name -> tensor) of every map that holds tensors under names."""
    if not isinstance(content, dict) or id(content) in seen or len(place) > 5:
        return
    seen.add(id(content))
    named = {key: value for key, value in content.items() if isinstance(key, str)}
    if all(isinstance(named.get(part), dict) for part in PARTS):
        pairs = [(f"{part}.{name}", value) for part in PARTS for name, value in named[part].items()]
        yield place, {name: value for name, value in pairs if isinstance(value, TorchTensor)}
    else:
        yield place, {name: value for name, value in named.items() if isinstance(value, TorchTensor)}
    for name, value in named.items():
        yield from _maps(value, (*place, name), seen)


def _weights(tensors: dict) -> int:
    """How many are called like a part of a network."""
    return sum(WEIGHT.search(name) is not None for name in tensors)


def _quoted(place: tuple[str, ...]) -> str:
    return f", {'.'.join(place)!r}" if place else ""
