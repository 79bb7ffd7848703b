"""From typing the command to the first step, and an epoch of train.py against its steps alone.

    python benchmarks/startup.py [--config configs/cifar10_lt/ce_20_epochs.yaml] [--blocks 17] [--steps 6]

The first figure runs train.py as a person would and waits for its first line of progress. The second runs one epoch of
the recipe through `Model.train`, with the pipeline and all callbacks, in turn with as many steps of the same step cell on
one resident batch: blocks of a few steps alternate, so that a drifting machine does not decide the ratio.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, report

HERE = Path(__file__).parent.parent


def first_step(config: str) -> float:
    """Seconds until the first optimizer step is done, in a new process."""
    probe = (
        "import sys, os, time\n"
        "from ms_longtail.training import callbacks\n"
        "original = callbacks.Conductor.on_train_step_end\n"
        "def stop(self, context):\n"
        "    original(self, context)\n"
        "    print('first step', flush=True)\n"
        "    os._exit(0)\n"
        "callbacks.Conductor.on_train_step_end = stop\n"
        "from ms_longtail.cli import main\n"
        "main(sys.argv[1:], verb='train')\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "probe.py"
        script.write_text(probe)
        command = [sys.executable, script, "--config", config, "--runs", folder, "--device", "cpu"]
        began = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(HERE)})
        seconds = time.perf_counter() - began
    if "first step" not in done.stdout:
        raise SystemExit(done.stderr)
    return seconds


def epoch_against_steps(config: str, blocks: int, steps: int) -> list[tuple[float, float]]:
    """[(seconds a step in `Model.train`, seconds a step on a resident batch)] for alternating blocks of steps."""
    import mindspore as ms

    from ms_longtail import recipe, runtime
    from ms_longtail.console import Console
    from ms_longtail.run import dataset, plan
    from ms_longtail.run.folder import RunFolder
    from ms_longtail.run.train import Run
    from ms_longtail.training import callbacks

    loaded = recipe.load(config)
    machine = runtime.start("cpu")
    data = dataset.load_data(loaded)
    stages = plan.make_plan(loaded, data)
    rng = np.random.default_rng(0)
    size = loaded.data.size
    images = ms.Tensor(rng.integers(0, 256, (loaded.batch, 3, size, size)).astype(np.uint8))
    labels = ms.Tensor(rng.integers(0, len(data.class_counts), loaded.batch).astype(np.int32))
    pairs: list[tuple[float, float]] = []
    original = callbacks.Conductor.on_train_step_end

    class Enough(Exception):
        pass

    marks: list[float] = []

    def watch(self, context):
        original(self, context)
        marks.append(time.perf_counter())
        if len(marks) == steps + 1:
            trained = (marks[-1] - marks[0]) / steps
            began = time.perf_counter()
            for _ in range(steps):
                self.step(images, labels)[0].asnumpy()
            pairs.append((trained, (time.perf_counter() - began) / steps))
            marks.clear()
            if len(pairs) == blocks:
                raise Enough

    callbacks.Conductor.on_train_step_end = watch
    with tempfile.TemporaryDirectory() as folder:
        home = RunFolder(Path(folder) / "run")
        home.create(loaded, data.description, {})
        with contextlib.suppress(Enough):
            Run(loaded, data, stages, home, machine, Console(quiet=True)).train()
    return pairs[1:]  # the first block holds the compilation


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/startup.json")
    parser.add_argument("--config", default=str(HERE / "configs" / "cifar10_lt" / "ce_20_epochs.yaml"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=17)
    parser.add_argument("--steps", type=int, default=6, help="steps of a block")
    options = parser.parse_args()
    starts = [first_step(options.config) for _ in range(options.rounds)]
    pairs = epoch_against_steps(options.config, options.blocks, options.steps)
    ratio = statistics.median(a / b for a, b in pairs)
    rows = [
        {
            "figure": "first step done, seconds after the command",
            "median": f"{statistics.median(starts):.1f}",
            "each": " ".join(f"{s:.1f}" for s in starts),
        },
        {
            "figure": "a step in Model.train over a step on a resident batch",
            "median": f"{ratio:.3f}",
            "each": " ".join(f"{a:.3f}/{b:.3f}" for a, b in pairs),
        },
    ]
    report(f"start and epoch overhead of {Path(options.config).stem}", rows, options.json)


if __name__ == "__main__":
    main()
