"""Files as `torch.save` writes them, made without PyTorch: pickles put together opcode by opcode, in both containers."""

import io
import struct
import zipfile
from dataclasses import dataclass, field

import numpy as np

KINDS = {
    "f4": "Float",
    "f8": "Double",
    "f2": "Half",
    "i8": "Long",
    "i4": "Int",
    "u1": "Byte",
    "?": "Bool",
    "i2": "Short",
}


@dataclass(eq=False)
class Stored:
    """A storage: the elements of an array, of the kind that it says or NumPy says."""

    values: np.ndarray
    kind: str = ""
    length: int | None = None  # what the pickle says, if not the truth

    def __post_init__(self):
        self.kind = self.kind or KINDS[self.values.dtype.str[1:].replace("b1", "?")]


@dataclass(eq=False)
class Tensor:
    storage: Stored
    shape: tuple
    strides: tuple
    offset: int = 0
    parameter: bool = False


@dataclass(eq=False)
class Raw:
    """Opcodes put in as they are."""

    code: bytes


@dataclass(eq=False)
class With:
    """A value, and opcodes that do something to it."""

    value: object
    code: bytes


@dataclass(eq=False)
class Ordered:
    content: dict
    attributes: dict = field(default_factory=dict)


def tensor(array, *, kind="", parameter=False):
    """A contiguous tensor with a storage of its own."""
    array = np.array(array, order="C")
    strides = tuple(s // array.itemsize for s in array.strides)
    return Tensor(Stored(array.reshape(-1), kind), array.shape, strides, parameter=parameter)


def bfloat16(array):
    """The upper halves of float32 numbers."""
    return tensor((np.asarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16), kind="BFloat16")


def called(module, name):
    return f"c{module}\n{name}\n".encode()


class Writer:
    def __init__(self, legacy=False):
        self.storages, self.legacy = [], legacy

    def key(self, stored):
        if stored not in self.storages:
            self.storages.append(stored)
        return str(self.storages.index(stored))

    def code(self, value):
        if isinstance(value, Raw):
            return value.code
        if isinstance(value, With):
            return self.code(value.value) + value.code
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            raw = value.to_bytes((value.bit_length() // 8) + 1, "little", signed=True)
            return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"\x8a" + bytes([len(raw)]) + raw
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.code, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.code, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(self.code(k) + self.code(v) for k, v in value.items()) + b"u"
        if isinstance(value, Ordered):
            pairs = b"(" + b"".join(self.code(k) + self.code(v) for k, v in value.content.items()) + b"u"
            return called("collections", "OrderedDict") + b")R" + pairs + self.code(value.attributes) + b"b"
        if isinstance(value, Stored):
            length = len(value.values) if value.length is None else value.length
            parts = [self.code("storage"), called("torch", f"{value.kind}Storage"), self.code(self.key(value))]
            parts += [self.code("cpu"), self.code(length)] + ([b"N"] if self.legacy else [])
            return b"(" + b"".join(parts) + b"tQ"
        if isinstance(value, Tensor):
            place = (value.storage, value.offset, value.shape, value.strides, False, Ordered({}))
            made = called("torch._utils", "_rebuild_tensor_v2") + self.code(place) + b"R"
            if value.parameter:
                made = called("torch._utils", "_rebuild_parameter") + self.code((Raw(made), True, Ordered({}))) + b"R"
            return made
        raise TypeError(value)

    def pickle(self, value):
        return b"\x80\x02" + self.code(value) + b"."


def archive(path, value, *, order="little", compression=zipfile.ZIP_STORED, root="archive"):
    """The form of PyTorch 1.6 and later."""
    writer = Writer()
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(f"{root}/data.pkl", writer.pickle(value))
        if order is not None:
            file.writestr(f"{root}/byteorder", order)
        for number, stored in enumerate(writer.storages):
            sign = ">" if order == "big" else "<"
            data = stored.values.astype(stored.values.dtype.newbyteorder(sign)).tobytes()
            file.writestr(f"{root}/data/{number}", data)
        file.writestr(f"{root}/version", "3\n")
    return path


def legacy(path, value, *, version=1001):
    """The form before it: five pickles, then every storage with its length before it."""
    writer, plain = Writer(legacy=True), Writer()
    out = io.BytesIO()
    out.write(plain.pickle(0x1950A86A20F9469CFC6C) + plain.pickle(version))
    out.write(plain.pickle({"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}))
    out.write(writer.pickle(value))
    order = list(range(len(writer.storages)))[::-1]  # in any order
    out.write(plain.pickle([str(n) for n in order]))
    for n in order:
        values = writer.storages[n].values
        out.write(struct.pack("<q", len(values)) + values.tobytes())
    path.write_bytes(out.getvalue())
    return path


SAVE = {"archive": archive, "legacy": legacy}
