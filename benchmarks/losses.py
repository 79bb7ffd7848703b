"""Every loss, forward + backward in graph mode, beside plain cross-entropy (ours and MindSpore's), and the formula in PyTorch.

A process for each loss and size, in which the loss and both cross-entropies take turns, so that the ratio is fair on a machine whose
speed drifts. "peak MB" is by how much the first call raises the peak of the process's memory, the compilation of its graph
included. Losses with a memory are timed with what they observe. PyTorch runs in a process of its own for each size.

    python benchmarks/losses.py [--repeats 15]
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from common import arguments, report

SIZES = [(128, 100), (256, 1000), (256, 8142)]
FEATURES = 64
VARIANTS = {  # settings beside the defaults that are worth a row
    "crl": {},
    "crl instance": {"level": "instance"},
    "focal softmax": {"form": "softmax"},
}


def inputs(batch: int, classes: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    share = np.arange(classes) / (classes - 1)
    return {
        "counts": np.maximum(2, (1000 * (1 / 500) ** share).astype(int)),
        "logits": rng.normal(0, 2, (batch, classes)).astype(np.float32),
        "labels": rng.integers(0, classes, batch).astype(np.int32),
        "features": rng.normal(size=(batch, FEATURES)).astype(np.float32),
        "teacher": rng.normal(0, 2, (batch, classes)).astype(np.float32),
        "draws": np.arange(batch, dtype=np.int32),
    }


def timed(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def ours(name: str, batch: int, classes: int, repeats: int) -> dict:
    """{"ours": seconds of each call, "ce" and "nn": of our cross-entropy and MindSpore's between them, "peak": MB}."""
    import mindspore as ms

    from ms_longtail import runtime
    from ms_longtail.registry import LOSSES

    runtime.start("cpu")
    data = inputs(batch, classes)
    columns = [ms.Tensor(data[key]) for key in ("logits", "labels", "features", "teacher", "draws")]

    class Observing(ms.nn.Cell):
        """A loss with a memory does its part of every step."""

        def __init__(self, loss):
            super().__init__()
            self.loss = loss

        def construct(self, logits, labels, features, teacher_logits, draws):
            return self.loss(logits, labels, features, teacher_logits, draws), self.loss.observe(logits, labels)

    def prepare(name, **settings):
        loss = LOSSES.get(name)(class_counts=data["counts"], **settings)
        if loss.stateful:
            observing = ms.value_and_grad(Observing(loss), has_aux=True)
            return lambda: observing(*columns)[1].asnumpy()
        gradient = ms.value_and_grad(loss)
        return lambda: gradient(*columns)[1].asnumpy()

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call = prepare(name.split()[0], **VARIANTS.get(name, {}))
    call()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    base = prepare("ce")
    framework = ms.value_and_grad(ms.nn.CrossEntropyLoss())
    calls = {"ours": call, "ce": base, "nn": lambda: framework(*columns[:2])[1].asnumpy()}
    seconds = {key: [] for key in calls}
    for _ in range(repeats + 1):  # the first one compiles
        for key, function in calls.items():
            seconds[key].append(timed(function))
    return {key: values[1:] for key, values in seconds.items()} | {"peak": peak}


def theirs(batch: int, classes: int, repeats: int) -> dict:
    """{name: median seconds} of the formulas in PyTorch."""
    from pytorch_losses import formulas

    return {
        name: statistics.median(timed(call) for _ in range(repeats))
        for name, call in formulas(inputs(batch, classes), repeats)
    }


def child(*words: str) -> dict | None:
    command = [sys.executable, __file__, "--only", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"GLOG_v": "3"})
    if done.returncode:
        print(done.stderr.splitlines()[-1] if done.stderr else f"{words}: no output", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/losses.json")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="+", help="used by the program itself: NAME BATCH CLASSES REPEATS")
    options = parser.parse_args()
    if options.only:
        name, *numbers = options.only
        batch, classes, repeats = (int(n) for n in numbers)
        result = theirs(batch, classes, repeats) if name == "pytorch" else ours(name, batch, classes, repeats)
        print(json.dumps(result))
        return
    from ms_longtail import losses  # noqa: F401
    from ms_longtail.registry import LOSSES

    names = sorted({*LOSSES, *VARIANTS})
    rows = []
    for batch, classes in SIZES:
        shape = [str(batch), str(classes), str(options.repeats)]
        reference = child("pytorch", *shape) or {}
        for name in names:
            found = child(name, *shape)
            if found is None:
                continue
            ms = 1000 * statistics.median(found["ours"])
            row = {"size": f"({batch}, {classes})", "loss": name, "ms": round(ms, 2)}
            ratio = statistics.median(a / b for a, b in zip(found["ours"], found["ce"], strict=True))
            row["times our CE"] = round(ratio, 2)
            ratio = statistics.median(a / b for a, b in zip(found["ours"], found["nn"], strict=True))
            row["times nn.CrossEntropyLoss"] = round(ratio, 2)
            row["peak MB"] = round(found["peak"], 1)
            torch_ms = 1000 * reference[name] if name in reference else None
            row["PyTorch ms"] = "" if torch_ms is None else round(torch_ms, 2)
            row["times PyTorch"] = "" if torch_ms is None else round(ms / torch_ms, 2)
            rows.append(row)
            print(row, flush=True)
    report("losses, forward + backward, graph mode", rows, options.json)


if __name__ == "__main__":
    main()
