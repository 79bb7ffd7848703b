"""One training step on the CPU: this project, with MindSpore's own convolution, as MindSpore ships, and PyTorch.

Each contestant is a process of its own; they take turns step by step, one at a time, and a ratio is that of two steps of
the same round, so that a machine whose speed drifts, or that has other work, does not decide the result.

    python benchmarks/train_step.py [--network resnet32_cifar] [--steps 12]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from common import arguments, report

# network -> (batch, pixels)
NETWORKS = {"resnet32_cifar": (128, 32), "resnet18": (16, 96), "resnet50": (16, 224)}
# contestant -> environment
CONTESTANTS = {
    "ms_longtail": {},
    "ms_longtail, MSLT_CPU_CONV=gemm": {"MSLT_CPU_CONV": "gemm"},
    # A limit that limits nothing: the library chooses as if the variable were not there.
    "ms_longtail, as MindSpore ships": {"MSLT_CPU_CONV": "gemm", "ONEDNN_MAX_CPU_ISA": "ALL"},
    "PyTorch contiguous": {},
    "PyTorch channels_last": {},
}
WARM_UP = 2  # the first step compiles


def ours(name: str, batch: int, size: int):
    """A function that does one step on random images."""
    import mindspore as ms
    import numpy as np

    from ms_longtail import models, runtime  # noqa: F401
    from ms_longtail.losses import CrossEntropy
    from ms_longtail.objectives import Classification
    from ms_longtail.registry import MODELS
    from ms_longtail.training.optimizers import sgd
    from ms_longtail.training.step import TrainStep

    runtime.start("cpu")
    objective = Classification(MODELS.get(name)(num_classes=10), CrossEntropy())
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.1] * 10_000))
    step.set_train()
    rng = np.random.default_rng(0)
    images = ms.Tensor(rng.integers(0, 256, (batch, 3, size, size)).astype(np.uint8))
    labels = ms.Tensor(rng.integers(0, 10, batch).astype(np.int32))
    return lambda: step(images, labels)[0].asnumpy()


def serve(contestant: str, network: str, cores: int | None) -> None:
    """A contestant's process: one step for every line on standard input, its seconds on standard output."""
    if cores:  # every library asks which processors it may use when it is loaded
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if contestant.startswith("PyTorch"):
        from pytorch_resnet import training_step

        step = training_step(network, *NETWORKS[network], channels_last=contestant.endswith("channels_last"))
    else:
        step = ours(network, *NETWORKS[network])
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)


class Process:
    """A contestant, waiting for its turn; `step()` is None where it cannot run."""

    def __init__(self, contestant: str, network: str, cores: int | None):
        command = [sys.executable, __file__, "--serve", contestant, "--network", network]
        command += ["--cores", str(cores)] if cores else []
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
        self.process = subprocess.Popen(command, env=os.environ | {"GLOG_v": "3"} | CONTESTANTS[contestant], **pipes)

    def step(self) -> float | None:
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            return None


def rounds(network: str, steps: int, cores: int | None) -> dict[str, list[float]]:
    """Seconds of every step of every contestant that runs; one step of the one that takes half a minute, after one to compile
    where a step does not take minutes."""
    processes = {name: Process(name, network, cores) for name in CONTESTANTS}
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    slow = {WARM_UP} if network == "resnet50" else {WARM_UP - 1, WARM_UP}
    for number in range(WARM_UP + steps):
        for name, process in processes.items():
            if name.endswith("ships") and number not in slow:
                continue
            value = process.step()
            if value is not None and number >= WARM_UP:
                seconds[name].append(value)
    for process in processes.values():
        process.process.stdin.close()
        process.process.wait()
    return seconds


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/train_step.json")
    parser.add_argument("--network", choices=NETWORKS, help="only this one (default: all)")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cores", type=int, help="let every contestant use only so many (default: all)")
    parser.add_argument("--without-shipped", action="store_true", help="leave out the contestant that takes minutes")
    parser.add_argument("--serve", choices=CONTESTANTS, help="be this contestant's process")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.network, options.cores)
    if options.without_shipped:
        del CONTESTANTS["ms_longtail, as MindSpore ships"]
    rows = []
    for network in [options.network] if options.network else NETWORKS:
        batch, size = NETWORKS[network]
        seconds = rounds(network, options.steps, options.cores)
        base = seconds["PyTorch contiguous"]
        for name, values in seconds.items():
            ratios = [v / b for v, b in zip(values, base, strict=False)]
            rows.append(
                {
                    "network": f"{network}, batch {batch}, {size} px",
                    "contestant": name,
                    "s / step": f"{statistics.median(values):.3f}" if values else "not installed",
                    "fastest": f"{min(values):.3f}" if values else "",
                    "times PyTorch contiguous": f"{statistics.median(ratios):.2f}" if ratios else "",
                    "each step": " ".join(f"{v:.3f}" for v in values),
                }
            )
    report("Forward + backward + SGD", rows, options.json)


if __name__ == "__main__":
    main()
