"""One training step of CIFAR ResNet-32, batch 128: this project, the same without its oneDNN setting, and PyTorch.

Each contestant runs in a process of its own, in turn, several rounds; the ratios are within a round, so that a machine
whose speed drifts does not decide the result.

    python benchmarks/train_step.py [--rounds 3] [--steps 12]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from common import arguments, report

BATCH, DEPTH = 128, 32


def ours(steps: int) -> list[float]:
    """Seconds of each step after the first two (the first compiles)."""
    import mindspore as ms
    import numpy as np

    from ms_longtail import models, runtime  # noqa: F401
    from ms_longtail.losses import CrossEntropy
    from ms_longtail.objectives import Classification
    from ms_longtail.registry import MODELS
    from ms_longtail.training.optimizers import sgd
    from ms_longtail.training.step import TrainStep

    runtime.start("cpu")
    model = MODELS.get(f"resnet{DEPTH}_cifar")(num_classes=10)
    objective = Classification(model, CrossEntropy())
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.1] * (steps + 2)))
    step.set_train()
    rng = np.random.default_rng(0)
    images = ms.Tensor(rng.integers(0, 256, (BATCH, 3, 32, 32)).astype(np.uint8))
    labels = ms.Tensor(rng.integers(0, 10, BATCH).astype(np.int32))
    return [timed(lambda: step(images, labels)[0].asnumpy()) for _ in range(steps + 2)][2:]


def pytorch(steps: int, channels_last: bool) -> list[float]:
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
            self.stride, self.extra = stride, (outputs - inputs) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
            if self.extra:
                x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
            return functional.relu(x + y)

    n = (DEPTH - 2) // 6
    blocks, inputs = [], 16
    for channels in (16, 32, 64):
        for number in range(n):
            blocks.append(Block(inputs, channels, 2 if channels > 16 and number == 0 else 1))
            inputs = channels
    first = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    model = nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=2e-4)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32)).float() / 255
    labels = torch.randint(0, 10, (BATCH,))
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()

    return [timed(step) for _ in range(steps + 2)][2:]


def timed(function) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


CONTESTANTS = {
    "ms_longtail": lambda steps: ours(steps),
    "ms_longtail, as MindSpore ships": lambda steps: ours(min(2, steps)),
    "PyTorch contiguous": lambda steps: pytorch(steps, False),
    "PyTorch channels_last": lambda steps: pytorch(steps, True),
}


def child(name: str, steps: int) -> float | None:
    """Median seconds of a contestant in a process of its own; None where it cannot run."""
    variables = {"GLOG_v": "3"}
    if name.endswith("ships"):
        # A limit that limits nothing: the library chooses as if the variable were not there.
        variables["ONEDNN_MAX_CPU_ISA"] = "ALL"
    command = [sys.executable, __file__, "--only", name, "--steps", str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | variables)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/train_step.json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", choices=CONTESTANTS, help="run one contestant here and print its median")
    options = parser.parse_args()
    if options.only:
        print(statistics.median(CONTESTANTS[options.only](options.steps)))
        return
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for number in range(options.rounds):
        for name in CONTESTANTS:
            if name.endswith("ships") and number:
                continue  # half a minute a step: once is enough
            value = child(name, options.steps)
            if value is not None:
                seconds[name].append(value)
    base = seconds["PyTorch contiguous"]
    rows = []
    for name, values in seconds.items():
        row = {
            "contestant": name,
            "s / step (median of rounds)": "not installed" if not values else f"{statistics.median(values):.3f}",
        }
        row["each round"] = " ".join(f"{v:.3f}" for v in values)
        ratios = [v / b for v, b in zip(values, base, strict=False)]
        row["times PyTorch contiguous"] = f"{statistics.median(ratios):.2f}" if ratios else ""
        row["times ms_longtail"] = f"{values[0] / seconds['ms_longtail'][0]:.2f}" if values else ""
        rows.append(row)
    report(f"ResNet-{DEPTH}, batch {BATCH}, forward + backward + SGD", rows, options.json)


if __name__ == "__main__":
    main()
