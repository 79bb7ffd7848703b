"""PyTorch's pickles read without PyTorch, and without running anything that a file asks for.

A pickle is a program that may call any function by its name. Here a name stands for one of a few functions of ours, for a
placeholder, or for nothing: then the file is refused before anything was called.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

PLAIN = (
    "set",
    "frozenset",
    "complex",
    "range",
    "xrange",
    "slice",
    "list",
    "dict",
    "tuple",
    "int",
    "float",
    "str",
    "bool",
)
# Beside a network's weights, checkpoints hold settings and scores. These are read as empty placeholders.
INERT = frozenset(
    {
        ("_codecs", "encode"),
        ("argparse", "Namespace"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib", "WindowsPath"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("torch", "Size"),
        ("torch", "Tensor"),
        ("torch", "device"),
        ("torch.nn.parameter", "Parameter"),
        ("torch.serialization", "_get_layout"),
        ("types", "SimpleNamespace"),
        *((room, name) for room in ("builtins", "__builtin__") for name in PLAIN),
    }
)
MAPS = frozenset({("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter")})
# Name of a storage's class, or of a dtype -> bytes of an element, and how NumPy reads them ("bf16": the upper half of a float32).
ELEMENTS = {
    **dict.fromkeys(("FloatStorage", "float32"), (4, "f4")),
    **dict.fromkeys(("DoubleStorage", "float64"), (8, "f8")),
    **dict.fromkeys(("HalfStorage", "float16"), (2, "f2")),
    **dict.fromkeys(("BFloat16Storage", "bfloat16"), (2, "bf16")),
    **dict.fromkeys(("LongStorage", "int64"), (8, "i8")),
    **dict.fromkeys(("IntStorage", "int32"), (4, "i4")),
    **dict.fromkeys(("ShortStorage", "int16"), (2, "i2")),
    **dict.fromkeys(("CharStorage", "int8"), (1, "i1")),
    **dict.fromkeys(("ByteStorage", "uint8"), (1, "u1")),
    **dict.fromkeys(("BoolStorage", "bool"), (1, "?")),
    **dict.fromkeys(("ComplexFloatStorage", "complex64"), (8, None)),
    **dict.fromkeys(("ComplexDoubleStorage", "complex128"), (16, None)),
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "qint8", "quint8"), (1, None)),
    **dict.fromkeys(("QInt32Storage", "qint32"), (4, None)),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2"), (1, None)),
    **dict.fromkeys(("uint16",), (2, "u2")),
    **dict.fromkeys(("uint32",), (4, "u4")),
    **dict.fromkeys(("uint64",), (8, "u8")),
    "UntypedStorage": (1, "u1"),
}
REPEATED = 1 << 18  # elements at most of a tensor that shows the same ones many times over


PLAIN_KEYS = (str, bytes, int, float, bool, type(None))


class Inert:
    """What stands for an object that nobody needs: takes everything, does nothing."""

    def __init__(self, *_args: Any, **_named: Any):
        pass

    def __setstate__(self, _state: Any) -> None:
        pass

    def __setitem__(self, _key: Any, _value: Any) -> None:
        pass

    def append(self, _value: Any) -> None:
        pass

    def extend(self, _values: Any) -> None:
        pass


def require_keys(keys: Iterable[Any]) -> None:
    """What is hashed must be a plain value or a flat tuple of these: hashing deep tuples would exhaust the stack of C."""
    for key in keys:
        parts = key if type(key) is tuple else (key,)
        if not all(type(part) in PLAIN_KEYS for part in parts):
            raise pickle.UnpicklingError(f"a map with a key of type {type(key).__name__} that no state dict has")


class Record(dict):
    """What stands for an ordered map: its attributes (`_metadata` of a state dict) are dropped."""

    def __init__(self, *content: Any):
        content = [part for part in content if isinstance(part, dict | list | tuple)]
        for part in content:
            require_keys(part if isinstance(part, dict) else [pair[0] for pair in part])
        super().__init__(*content)

    def __setstate__(self, _state: Any) -> None:
        pass


class Call:
    """A function of ours as a pickle sees it: it can be called, and has nothing that could be set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, _state: Any) -> None:
        raise pickle.UnpicklingError("the file sets attributes of a function")

    def __setattr__(self, name: str, _value: Any) -> None:
        raise pickle.UnpicklingError(f"the file sets {name} of a function")


@dataclass(frozen=True, slots=True)
class Element:
    """Name of a storage's class or of a dtype."""

    name: str


@dataclass(frozen=True, slots=True)
class Storage:
    """A stretch of a file: `key` names it; `length` elements of a type from element `first` on."""

    key: str
    element: Element
    length: int
    first: int = 0


@dataclass(frozen=True, slots=True)
class TorchTensor:
    """Elements of a storage at `offset` + sum_d i_d stride_d, as PyTorch writes a tensor down; read by `array`."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    element: Element

    def array(self, raw: np.ndarray, order: str = "<") -> np.ndarray:
        """The tensor as an array of its own; float32 whatever kind of float it is in the file.

        Args:
            raw: uint8, the bytes of the whole storage. order: of the bytes of an element, "<" or ">".

        Raises:
            ValueError: a kind of number that NumPy does not know, or elements beyond the storage's end.
        """
        size, kind = ELEMENTS[self.element.name]
        if kind is None:
            raise ValueError(f"holds numbers of type {self.element.name}, which no network here has")
        self._check(len(raw) // size)
        flat = raw[: len(raw) // size * size].view(np.dtype("u2" if kind == "bf16" else kind).newbyteorder(order))
        view = np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, tuple(size * step for step in self.strides), writeable=False
        )
        if kind == "bf16":
            return (view.astype(np.uint32) << 16).view(np.float32)
        return np.array(view, np.float32 if kind[0] == "f" else np.dtype(kind), order="C")

    def _check(self, there: int) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if any(type(n) is not int or n < 0 for n in numbers) or len(self.shape) != len(self.strides):
            raise ValueError(f"has an impossible place: offset {self.offset}, {self.shape} by steps of {self.strides}")
        count = math.prod(self.shape)
        steps = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if count and self.offset + steps >= there:
            raise ValueError(f"reaches to element {self.offset + steps} of a storage that has {there}")
        if count > max(there, REPEATED):
            raise ValueError(f"shows a storage of {there} elements as {count}")
        if not count and self.offset > there:
            raise ValueError(f"begins at element {self.offset} of a storage that has {there}")


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_rest: Any) -> TorchTensor:
    if not isinstance(storage, Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return TorchTensor(storage, offset, tuple(shape), tuple(strides), storage.element)


def _tensor_of_type(storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, element: Any, *_rest):
    """The newest form: the storage is of bytes, the type stands beside it."""
    if not isinstance(storage, Storage) or not isinstance(element, Element):
        raise pickle.UnpicklingError("a tensor without a storage or a type")
    return TorchTensor(storage, offset, tuple(shape), tuple(strides), element)


def _typed(function: Any, _kind: Any, args: Any, _state: Any) -> Any:
    if not isinstance(function, Call):
        raise pickle.UnpicklingError("a tensor that is made by something else than a function of PyTorch's")
    return function(*args)


REBUILD = {
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor_v3"): _tensor_of_type,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_rest: data,
    ("torch._utils", "_rebuild_parameter_with_state"): lambda data, *_rest: data,
    ("torch._tensor", "_rebuild_from_type_v2"): _typed,
}


class Reader(pickle._Unpickler):
    """Reads one pickle. It is the unpickler written in Python: its memo is a map, and its reading stops where the pickle does.
    The compiled one sets aside as much memory as a damaged file names, and reads ahead.

    Raises:
        pickle.UnpicklingError: the file asks for a function or class that is not among those above; it is not called.
    """

    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")  # of strings that Python 2 wrote; no byte is refused

    def _build(self) -> None:
        """An object's own state is dropped: what is set on an object of ours could stand in for its methods."""
        self.stack.pop()
        if isinstance(self.stack[-1], Call | type):
            raise pickle.UnpicklingError("the file sets attributes of a function or class")

    def _set_item(self) -> None:
        require_keys(self.stack[-2:-1])
        self.load_setitem()

    def _set_items(self) -> None:
        require_keys(self.stack[::2])  # the stack is what stands behind the mark
        self.load_setitems()

    def _dict(self) -> None:
        require_keys(self.stack[::2])
        self.load_dict()

    def _add_items(self) -> None:
        require_keys(self.stack)
        self.load_additems()

    def _frozen_set(self) -> None:
        require_keys(self.stack)
        self.load_frozenset()

    def _byte_array(self) -> None:
        raise pickle.UnpicklingError(
            "holds a byte array, for which as much memory would be set aside as the file names"
        )

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: _build,
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: _set_items,
        pickle.DICT[0]: _dict,
        pickle.ADDITEMS[0]: _add_items,
        pickle.FROZENSET[0]: _frozen_set,
        pickle.BYTEARRAY8[0]: _byte_array,
    }

    def find_class(self, module: str, name: str) -> Any:
        where = (module, name)
        if where in REBUILD:
            return Call(REBUILD[where])
        if where in MAPS:
            return Record
        if module in ("torch", "torch.storage") and name in ELEMENTS:
            return Element(name)
        if where in INERT:
            return Inert
        hint = "save its state_dict() alone, in PyTorch"
        raise pickle.UnpicklingError(
            f"asks for {module}.{name}, which is not called: a file may hold weights only; {hint}"
        )

    def persistent_load(self, pid: Any) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], Element):
            raise pickle.UnpicklingError("refers to something else than a storage")
        _, element, key, _, length, *view = pid
        if type(length) is not int or length < 0:
            raise pickle.UnpicklingError(f"a storage of {length!r} elements")
        if not view or view[0] is None:
            return Storage(str(key), element, length)
        _, first, length = view[0]  # early versions wrote a part of another storage so
        if any(type(n) is not int or n < 0 for n in (first, length)):
            raise pickle.UnpicklingError(f"a part of a storage from {first!r} on, of {length!r} elements")
        return Storage(str(key), element, length, first)
