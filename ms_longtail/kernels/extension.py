"""The compiled part: finding it, opening it once, and saying in one line why it cannot serve."""

from __future__ import annotations

import ctypes
import functools
import importlib.machinery
import logging
from pathlib import Path

from .. import runtime

log = logging.getLogger(__name__)
UNBUILT = "the extension was not built"
BUILD = "install a C++ compiler (g++) and run pip install again"
_INSTRUCTIONS = {0x1: "SSE4.1", 0x3: "AVX", 0x7: "AVX2", 0x27: "AVX-512"}  # others by oneDNN's number


def compiled() -> Path | None:
    """The shared library that setup.py built beside this file, or None."""
    files = (Path(__file__).with_name("_compiled" + end) for end in importlib.machinery.EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


@functools.cache
def _open() -> tuple[ctypes.CDLL | None, str]:
    """The opened library and '', or None and the reason; tried once a process."""
    import mindspore
    from mindspore import ops

    path = compiled()
    if path is None:
        return None, UNBUILT
    onednn = Path(mindspore.__file__).parent / "lib" / "libdnnl.so.3"
    try:
        library = ctypes.CDLL(str(path))
        library.mslt_open.restype = ctypes.c_char_p
        library.mslt_open.argtypes = ctypes.c_char_p, ctypes.c_int, ctypes.c_int
        library.mslt_accepts.restype = ctypes.c_char_p
        shape = ctypes.POINTER(ctypes.c_int64), ctypes.c_int
        library.mslt_accepts.argtypes = *shape, shape[0], *shape, shape[0]
        library.mslt_lanes.restype = library.mslt_isa.restype = ctypes.c_int
        library.mslt_kept.restype = library.mslt_scratch.restype = ctypes.c_int64
        refused = library.mslt_open(str(onednn).encode(), runtime.convolution_threads(), runtime.convolution_parts())
        if not refused and ":" in str(path):
            refused = f"MindSpore takes a path with a colon for two: {path}".encode()
        if not refused:  # MindSpore has rules of its own about the files that it loads, such as a list of folders
            ops.Custom(f"{path}:Reorder", lambda x: x, mindspore.float32, func_type="aot")
    except (OSError, AttributeError, TypeError, ValueError, RuntimeError) as error:  # built for another system, say
        refused = " ".join(str(error).split()).encode()
    if refused:
        # What is there but cannot be used is worth a line; what was never built is the doctor's to tell.
        log.warning("convolution by MindSpore's own kernels: %s", refused.decode())
        return None, refused.decode()
    return library, ""


def opened() -> ctypes.CDLL:
    """The opened library; only where `reason()` is empty."""
    return _open()[0]


def description() -> str:
    """What convolves in this process, with all that its last digits depend on beside the processor's name."""
    if reason():
        return "MindSpore's own"
    library = opened()
    instructions, size = _INSTRUCTIONS.get(library.mslt_isa(), hex(library.mslt_isa())), library.mslt_lanes()
    return f"compiled, {runtime.convolution_parts()} parts, blocks of {size}, {instructions}"


def reason() -> str:
    """'' where convolutions of this process take the compiled operator, else why not."""
    if not runtime.on_cpu():
        return "the device is no CPU"
    if not runtime.fast_convolution():
        return f"{runtime.CONVOLUTION_VARIABLE}=gemm is set"
    return _open()[1]
