"""The one place that touches global state: CPU kernels, logs, device, execution mode, seed, data-parallel start-up."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass

CONVOLUTION_VARIABLE = "MSLT_CPU_CONV"
LOCAL_WORKERS_VARIABLE = "MSLT_LOCAL_WORKERS"  # of this machine; MindSpore itself tells only how many there are in all
DEVICES = ("auto", "cpu", "gpu", "ascend")
_TARGETS = {"cpu": "CPU", "gpu": "GPU", "ascend": "Ascend"}


class DeviceError(RuntimeError):
    """The device that was asked for is not there; the message is one line and says why."""


def tune_cpu() -> str | None:
    """Let oneDNN take its fast convolution on x86 processors, unless the user has set a limit of their own.

    On AVX-512 processors the oneDNN in MindSpore's 2.9 and 2.10 wheels has only a reference loop for convolution in
    plain layout, 30 to 60 times slower than the matrix-product path that it takes when told that AVX2 is the newest
    instruction set. The library reads the variable at its first convolution, so it may be set after MindSpore was
    imported. Returns the value in force (None on other processors).
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return None
    return os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX2")


def fast_convolution() -> bool:
    """False when the user asked for MindSpore's own convolution (MSLT_CPU_CONV=gemm); any other value is a mistake."""
    asked = os.environ.get(CONVOLUTION_VARIABLE, "")
    if asked not in ("", "onednn", "gemm"):
        raise DeviceError(f"{CONVOLUTION_VARIABLE}={asked!r} is not known; choose from onednn, gemm")
    return asked != "gemm"


def convolution_threads() -> int:
    """Threads of one convolution: OMP_NUM_THREADS where it is set, else this worker's share of the processors allowed."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    here = int(os.environ.get(LOCAL_WORKERS_VARIABLE) or os.environ["MS_WORKER_NUM"]) if in_group() else 1
    return max(1, len(os.sched_getaffinity(0)) // here)


def convolution_parts() -> int:
    """Parts that the work of one convolution is cut into, which decides the last digits of its sums.

    One for every processor of the machine, at most 16 (each part keeps sums of its own), whatever the number of threads:
    so a run gives the same bits with any number of threads up to that. One for every thread where there are more.
    """
    return max(convolution_threads(), min(16, os.cpu_count() or 1))


def on_cpu() -> bool:
    """True when networks built now run on the CPU."""
    import mindspore as ms

    return ms.get_context("device_target") == "CPU"


def quiet_logs() -> None:
    """Errors only from MindSpore's own logger; it reads the level once, at import. A level the user set stays."""
    if "mindspore" not in sys.modules:
        os.environ.setdefault("GLOG_v", "3")


@dataclass(frozen=True)
class Runtime:
    """What this process runs on: device name, execution mode, and its place among the data-parallel workers."""

    device: str
    graph: bool
    rank: int = 0
    ranks: int = 1

    @property
    def main(self) -> bool:
        """True for the one process that writes files and prints."""
        return self.rank == 0


def available_devices() -> dict[str, str]:
    """Device name -> '' where it can be used, else the reason in one line."""
    import mindspore as ms

    reasons = {"cpu": ""}
    for name, context in (("gpu", ms.device_context.gpu), ("ascend", ms.device_context.ascend)):
        try:
            usable = bool(context.is_available())
            why = "this MindSpore build and machine offer none (driver, CUDA or CANN missing?)"
        except Exception as error:  # a broken driver must end as a line of text, whatever the plugin raises
            usable, why = False, " ".join(str(error).split())[:200]
        reasons[name] = "" if usable else why
    return reasons


def choose_device(asked: str = "auto") -> str:
    """'cpu', 'gpu' or 'ascend'. `auto` takes Ascend, then GPU, then CPU; a missing device raises DeviceError."""
    if asked not in DEVICES:
        raise DeviceError(f"--device {asked!r} is not known; choose from {', '.join(DEVICES)}")
    reasons = available_devices()
    if asked == "auto":
        return next(name for name in ("ascend", "gpu", "cpu") if not reasons[name])
    if reasons[asked]:
        usable = [name for name, reason in reasons.items() if not reason]
        raise DeviceError(f"--device {asked} is not available: {reasons[asked]}; available here: {', '.join(usable)}")
    return asked


def start(
    device: str = "auto", *, debug: bool = False, jit_level: str | None = None, deterministic: bool = False
) -> Runtime:
    """Set up this process once: device, graph or PyNative mode, and the data-parallel group when there is one.

    Args:
        device: "auto", "cpu", "gpu" or "ascend". debug: PyNative mode, every operation waited for.
        jit_level: of the graph compiler (None: the device's own). deterministic: kernels whose sums have one fixed order.
    """
    import mindspore as ms

    if jit_level is not None:
        ms.set_context(jit_config={"jit_level": jit_level})
    if deterministic and ms.get_context("deterministic") != "ON":  # it may be said once, before the workers meet
        ms.set_deterministic(True)
    tune_cpu()
    fast_convolution()
    single_threaded_opencv()
    name = choose_device(device)
    try:
        ms.set_device(_TARGETS[name])
    except RuntimeError as error:
        if "initialized" not in str(error):
            raise
        raise DeviceError(
            f"the device ({name}) cannot be chosen any more, MindSpore has computed something: a file in `imports`, or the "
            "script, computes as soon as it is run; let it do so in a function or a constructor"
        ) from error
    ms.set_context(mode=ms.PYNATIVE_MODE if debug else ms.GRAPH_MODE)
    if debug:
        ms.runtime.launch_blocking()
    rank, ranks = _join_group() if in_group() else (0, 1)
    return Runtime(device=name, graph=not debug, rank=rank, ranks=ranks)


def single_threaded_opencv() -> None:
    """The pipeline's threads are the parallelism; threads inside OpenCV on top of them only wait for each other."""
    import cv2

    cv2.setNumThreads(0)


def in_group() -> bool:
    """True when `msrun` (or whatever sets the same variables) started this process as one of several.

    The scheduler that brings the workers together runs the same script; it stays inside `init` until they are done.
    """
    return os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED") and int(os.environ.get("MS_WORKER_NUM", "1")) > 1


def _join_group() -> tuple[int, int]:
    """Start the collectives. The gradients are reduced by our own step cell, so no parallel context is set."""
    from mindspore import communication

    communication.init()
    return communication.get_rank(), communication.get_group_size()


def set_seed(seed: int) -> None:
    """Seed MindSpore's global generators. Nothing of ours draws from them; it is for users' own components."""
    import mindspore as ms

    ms.set_seed(seed)


def workers(asked: int) -> int:
    """Threads for the input pipeline; MindSpore refuses more than there are processors."""
    return max(1, min(asked, os.cpu_count() or 1))
