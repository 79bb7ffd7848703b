"""Two workers against one on the same processors: images a second, and the share of a step that goes to other workers.

One process with batch 128 and two under `msrun` with 64 each take turns, so that a machine whose speed drifts does not decide
the ratio. What is spent on the other worker is the time of a step minus that of the same step without the sum over workers,
in alternating blocks of the same processes.

    python benchmarks/scaling.py [--network resnet32_cifar] [--rounds 5] [--steps 8]
    python benchmarks/scaling.py --predict      # the table of docs/scaling.md
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import arguments, report

from ms_longtail.run.cluster import free_port

HERE = Path(__file__).resolve().parent
BATCH, SIZE = 128, 32


def serve(folder: Path, name: str, network: str, rounds: int, steps: int) -> None:
    """A worker: at the file NAME-ROUND it trains, and leaves NAME-ROUND-RANK.json."""
    import mindspore as ms
    import numpy as np

    from ms_longtail import collectives, models, runtime  # noqa: F401
    from ms_longtail.losses import CrossEntropy
    from ms_longtail.objectives import Classification
    from ms_longtail.registry import MODELS
    from ms_longtail.training.optimizers import sgd
    from ms_longtail.training.step import TrainStep

    machine = runtime.start("cpu")

    def build(ranks):
        objective = Classification(MODELS.get(network)(num_classes=10), CrossEntropy())
        return TrainStep(objective, sgd(objective.trainable_params(), [0.01] * 10_000), ranks=ranks).set_train()

    rng = np.random.default_rng(machine.rank)
    share = BATCH // machine.ranks
    images = ms.Tensor(rng.integers(0, 256, (share, 3, SIZE, SIZE)).astype(np.uint8))
    labels = ms.Tensor(rng.integers(0, 10, share).astype(np.int32))
    together, alone = build(machine.ranks), build(1)

    def timed(step):
        collectives.any_of(False)
        began = time.perf_counter()
        for _ in range(steps):
            step(images, labels)[0].asnumpy()
            if step is together:
                collectives.any_of(False)  # as a run asks whether to stop
        return (time.perf_counter() - began) / steps

    for step in (together, alone):
        timed(step)  # compiles
    (folder / f"{name}-ready-{machine.rank}").touch()
    for number in range(rounds):
        while not (folder / f"{name}-{number}").exists():
            if (folder / "end").exists():
                return
            time.sleep(0.02)
        result = {"step": timed(together), "alone": timed(alone)}
        temporary = folder / f".{name}-{number}-{machine.rank}"
        temporary.write_text(json.dumps(result))
        temporary.replace(folder / f"{name}-{number}-{machine.rank}.json")
    while not (folder / "end").exists():
        time.sleep(0.1)


def wait_for(path: Path, processes: list[subprocess.Popen]) -> None:
    while not path.exists():
        if any(p.poll() is not None for p in processes):
            sys.exit(f"a worker ended before {path.name}; logs in {path.parent}")
        time.sleep(0.02)


def measure(network: str, rounds: int, steps: int) -> list[dict[str, str]]:
    folder = Path(tempfile.mkdtemp(prefix="scaling-"))
    serving = [str(HERE / "scaling.py"), "--serve", str(folder), "--network", network]
    serving += ["--rounds", str(rounds), "--steps", str(steps), "--name"]
    environment = os.environ | {"GLOG_v": "3", "PYTHONPATH": f"{HERE.parent}:{os.environ.get('PYTHONPATH', '')}"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    msrun = [
        sys.executable,
        "-m",
        "mindspore.parallel.cluster.run",
        "--worker_num=2",
        "--local_worker_num=2",
        "--join=True",
    ]
    msrun += [f"--master_port={free_port()}", f"--log_dir={folder}"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    found, processes = {"one": [], "two": []}, []
    try:
        processes.append(subprocess.Popen([sys.executable, *serving, "one"], **quiet))
        wait_for(folder / "one-ready-0", processes)
        processes.append(subprocess.Popen([*msrun, *serving, "two"], **quiet))
        for rank in (0, 1):
            wait_for(folder / f"two-ready-{rank}", processes)
        for number in range(rounds):
            for name, ranks in (("one", 1), ("two", 2)):
                (folder / f"{name}-{number}").touch()
                files = [folder / f"{name}-{number}-{rank}.json" for rank in range(ranks)]
                for file in files:
                    wait_for(file, processes)
                results = [json.loads(file.read_text()) for file in files]
                found[name].append({key: max(r[key] for r in results) for key in ("step", "alone")})
    finally:
        (folder / "end").touch()  # whoever still waits leaves
        for process in processes:
            process.wait()
    ratios = [one["step"] / two["step"] for one, two in zip(found["one"], found["two"], strict=True)]
    shares = [1 - two["alone"] / two["step"] for two in found["two"]]
    rows = []
    for name, workers in (("one", 1), ("two", 2)):
        speeds = [BATCH / result["step"] for result in found[name]]
        row = {"workers": str(workers), "images/s, median": f"{statistics.median(speeds):.0f}"}
        row["each round"] = " ".join(f"{v:.0f}" for v in speeds)
        row["over one worker"] = f"{statistics.median(ratios):.2f}" if workers == 2 else ""
        row["share of a step for the sum and for waiting"] = f"{statistics.median(shares):.3f}" if workers == 2 else ""
        rows.append(row)
    return rows


# ---- what to expect of ResNet-50 on accelerators; docs/scaling.md says where the numbers come from

GRADIENT = 25_557_032 * 4  # bytes, float32
DEVICES_PER_MACHINE = 8
INSIDE, BETWEEN = 50e9, 10e9  # bytes a second that a ring gets out of a link inside a machine, and between two
HOP = 10e-6  # seconds that one message takes beside its bytes


def ring(devices: int, size: float = GRADIENT) -> float:
    """Seconds of a ring all-reduce: 2 (n - 1) messages of size / n, at the pace of its slowest link."""
    link = INSIDE if devices <= DEVICES_PER_MACHINE else BETWEEN
    return 2 * (devices - 1) * (size / devices / link + HOP)


def predict(step: float) -> list[dict[str, str]]:
    rows = []
    for devices in (8, 64, 512):
        message = ring(devices)
        hidden = min(message, 0.5 * step)  # the backward pass is two thirds of a step; not all of it can be used
        rows.append(
            {
                "accelerators": str(devices),
                "step alone, ms": f"{1000 * step:.0f}",
                "ring all-reduce, ms": f"{1000 * message:.1f}",
                "efficiency, nothing hidden": f"{step / (step + message):.3f}",
                "efficiency, hidden behind the backward pass": f"{step / (step + message - hidden):.3f}",
            }
        )
    return rows


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/scaling.json")
    parser.add_argument("--network", default="resnet32_cifar")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="of each block")
    parser.add_argument(
        "--predict", action="store_true", help="only compute what to expect of ResNet-50 on accelerators"
    )
    parser.add_argument("--step", type=float, default=0.1, help="seconds of a step on one accelerator, for --predict")
    parser.add_argument("--serve", type=Path, help="be a worker of this folder")
    parser.add_argument("--name", default="one")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve, options.name, options.network, options.rounds, options.steps)
    if options.predict:
        return report(
            "ResNet-50, data parallel, computed", predict(options.step), "benchmarks/results/scaling_predicted.json"
        )
    report(
        "Two workers of 64 images against one of 128",
        measure(options.network, options.rounds, options.steps),
        options.json,
    )


if __name__ == "__main__":
    main()
