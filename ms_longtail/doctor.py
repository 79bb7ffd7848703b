"""python -m ms_longtail doctor: what is installed, what it can do, and what to do about each fault."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from rich.console import Console
from rich.table import Table

from . import runtime

# What was measured to work together; setup.py holds the same bounds.
PINS = {
    "mindspore": ("2.10", "2.11"),
    "numpy": ("1.26", "2"),
    "opencv-python-headless": ("4.8", "4.12"),
}
SLOW_GFLOPS = 8.0  # a reference loop reaches 1 to 3 per core pair, matrix products 40 and more


@dataclass(frozen=True)
class Finding:
    check: str
    found: str
    good: bool = True
    advice: str = ""


def run() -> int:
    """Print the table; exit status 1 when something is wrong."""
    findings = [*_versions(), *_devices(), *_convolution()]
    table = Table()
    for name in ("check", "found", "", "what to do"):
        table.add_column(name, overflow="fold")
    for f in findings:
        table.add_row(f.check, f.found, "ok" if f.good else "FAULT", f.advice)
    Console().print(table)
    return 0 if all(f.good for f in findings) else 1


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", text)[:3])


def _versions() -> list[Finding]:
    good = (3, 10) <= sys.version_info[:2] <= (3, 12)
    advice = "" if good else "use Python 3.10, 3.11 or 3.12: there is no MindSpore 2.10 wheel for others"
    findings = [Finding("Python", platform.python_version(), good, advice)]
    for package, (low, high) in PINS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            findings.append(Finding(package, "not installed", False, f"pip install '{package}>={low},<{high}'"))
            continue
        good = _numbers(low) <= _numbers(found) < _numbers(high)
        findings.append(Finding(package, found, good, "" if good else f"pip install '{package}>={low},<{high}'"))
    try:
        other = version("opencv-python")
        findings.append(
            Finding("opencv-python", other, False, "pip uninstall opencv-python: it shadows the headless build")
        )
    except PackageNotFoundError:
        pass
    return findings


def _devices() -> list[Finding]:
    findings = []
    try:
        devices = runtime.available_devices()
    except Exception as error:  # a broken installation is what the doctor is for
        return [
            Finding(
                "mindspore", f"cannot be imported: {' '.join(str(error).split())[:200]}", False, "mend the faults above"
            )
        ]
    for name, reason in devices.items():
        # A missing accelerator is no fault: the CPU serves.
        findings.append(Finding(f"device {name}", "available" if not reason else f"not available: {reason}"))
    findings.append(Finding("processors", f"{os.cpu_count()} ({platform.machine()})"))
    return findings


def _convolution() -> list[Finding]:
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    shown = Finding("ONEDNN_MAX_CPU_ISA", limit or "not set")
    try:
        from .kernels import reason

        runtime.start("cpu")
        path = _path()
        speed = convolution_gflops()
    except runtime.DeviceError as error:
        return [shown, Finding("convolution", str(error), False, f"unset {runtime.CONVOLUTION_VARIABLE}")]
    except Exception as error:  # the doctor reports, whatever is broken
        return [shown, Finding("convolution", " ".join(str(error).split())[:200], False, "reinstall MindSpore")]
    good = speed >= SLOW_GFLOPS
    advice = ""
    if not good and not reason():
        advice = "something else keeps the processors busy: look again when it has ended"
    elif not good:
        advice = f"a reference loop is in use: start Python with ONEDNN_MAX_CPU_ISA=AVX2 (now {limit or 'not set'})"
    return [
        shown,
        path,
        Finding(
            "convolution", f"{speed:.0f} GFLOP/s, {'fast' if good else 'slow'} kernel (3x3, 32 channels)", good, advice
        ),
    ]


def _path() -> Finding:
    """Which kernels the networks take, and how to get the others. Neither is a fault: both are right."""
    from .kernels import BUILD, UNBUILT, reason

    why, variable = reason(), runtime.CONVOLUTION_VARIABLE
    if not why:
        threads = runtime.convolution_threads()
        found = (
            f"compiled convolution, batch norm and max pooling, {threads} threads ({variable}=gemm: MindSpore's own)"
        )
        return Finding("kernels on the CPU", found)
    advice = {UNBUILT: f"for the fast one, {BUILD}", f"{variable}=gemm is set": f"unset {variable} for the fast one"}
    mend = f"for the fast one, mend that and run pip install again; MindSpore {PINS['mindspore'][0]} is needed"
    return Finding("kernels on the CPU", f"MindSpore's own: {why}", True, advice.get(why, mend))


def convolution_gflops(batch: int = 64, channels: int = 32, size: int = 32) -> float:
    """Speed of a 3x3 convolution's forward pass, the best of five."""
    import mindspore as ms
    import numpy as np

    from .models.layers import conv

    layer = conv(channels, channels, 3)
    layer.set_train(False)
    x = ms.Tensor(np.ones((batch, channels, size, size), np.float32))
    layer(x).asnumpy()
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        layer(x).asnumpy()
        seconds.append(time.perf_counter() - began)
    return 2 * 9 * batch * channels * channels * size * size / min(seconds) / 1e9
