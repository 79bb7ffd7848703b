"""What a contrastive branch costs beside the classifier: projection, prototypes and loss, forward + backward in graph mode.

Features go in, of 2 contrasted views of B images and D = 64 channels (a CIFAR network's), through the projection 64 - 512 - 128 and,
where the loss has them, prototypes made from the classifier's weights; beside it stands what every method has, the classifier and
cross-entropy on one view. Both take turns in one process, a process for every loss and size, so that ratios are fair on a machine
whose speed drifts. The backbone is left out: it sees V views instead of one and costs V times as much.

"MB" is by how much the process's peak memory grows at the first call, less the same for a batch of 8 and 10 classes, which is
the compilation. "predicted MB" counts the matrices of the formula, N x (N + C) floats with N = 2 B (PaCo: B x (2 B + K + C)).

    python benchmarks/contrastive.py [--repeats 15]
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

SIZES = [(256, 100), (256, 1000), (512, 1000), (1024, 1000), (256, 8142), (1024, 8142)]
SMALL = (8, 10)
NAMES = [
    "supcon",
    "balanced_supcon",
    "balanced_supcon class mean",
    "balanced_supcon L2",
    "balanced_supcon L3",
    "psc",
    "paco",
]
SETTINGS = {
    "balanced_supcon class mean": {"anchor_mean": "class"},
    "balanced_supcon L2": {"form": "L2"},
    "balanced_supcon L3": {"form": "L3"},
}
D, QUEUE, MATRICES = 64, 1024, 8  # kept at once for the backward pass, as counted in the formulas


def branch(name: str, batch: int, classes: int):
    """(call of the contrastive branch, call of classifier and cross-entropy)."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    from ms_longtail import runtime
    from ms_longtail.losses import CrossEntropy
    from ms_longtail.models import Embedding, initialise
    from ms_longtail.registry import CONTRASTS

    runtime.start("cpu")
    rng = np.random.default_rng(0)
    contrast = CONTRASTS.get(name.split()[0])(**SETTINGS.get(name, {}))
    features = Tensor(rng.standard_normal((2 * batch, D)), ms.float32)
    labels = Tensor(rng.integers(0, classes, batch), ms.int32)

    class Head(nn.Cell):
        def __init__(self):
            super().__init__()
            self.head, self.loss = nn.Dense(D, classes), CrossEntropy()
            initialise(self.head, 0)

        def construct(self, features, labels):
            return self.loss(self.head(features[: labels.shape[0]]), labels)

    class Branch(nn.Cell):
        def __init__(self):
            super().__init__()
            kind = "classifier" if contrast.needs_prototypes else None
            self.embedding = Embedding(D, classes, prototypes=kind)
            self.head, self.contrast, self.queued = nn.Dense(D, classes), contrast, contrast.queued
            initialise(self.head, 0)
            self.queue = Tensor(rng.standard_normal((QUEUE, 128)) / 12, ms.float32)
            self.queue_labels = Tensor(rng.integers(0, classes, QUEUE), ms.int32)

        def construct(self, features, labels):
            z = self.embedding(features)
            count = labels.shape[0]
            if self.queued:
                keys = ops.stop_gradient(z[count:])
                logits = self.head(features[:count])
                return self.contrast(z[:count], keys, labels, self.queue, self.queue_labels, logits)
            prototypes = None
            if self.contrast.needs_prototypes:
                prototypes = self.embedding.prototypes(self.head.weight)
            return self.contrast(z.reshape(2, count, z.shape[1]), labels, prototypes)

    calls = []
    for cell in (Branch(), Head()):
        gradient = ms.value_and_grad(cell, 0, cell.trainable_params())
        calls.append(lambda gradient=gradient: gradient(features, labels)[1][0].asnumpy())
    return calls


def measure(name: str, batch: int, classes: int, repeats: int) -> dict:
    """{"branch", "head": seconds of each call, in turns, "peak": MB by which the first call of the branch raised the peak}."""
    call, head = branch(name, batch, classes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    call()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    head()
    seconds: dict[str, list[float]] = {"branch": [], "head": []}
    for _ in range(repeats):
        for key, function in (("branch", call), ("head", head)):
            began = time.perf_counter()
            function()
            seconds[key].append(time.perf_counter() - began)
    return seconds | {"peak": peak}


def predicted(name: str, batch: int, classes: int) -> float:
    """MB of the matrices of similarities that the loss keeps."""
    rows, columns = 2 * batch, 2 * batch + classes
    if name == "paco":
        rows, columns = batch, 2 * batch + QUEUE + classes
    elif name == "psc":
        columns = classes
    elif name == "supcon":
        columns = 2 * batch
    return MATRICES * 4 * rows * columns / 2**20


def child(name: str, batch: int, classes: int, repeats: int) -> dict:
    command = [sys.executable, __file__, "--only", name, str(batch), str(classes), str(repeats)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"GLOG_v": "3"})
    if done.returncode:
        raise SystemExit(f"{name} {batch} {classes}: {done.stderr.splitlines()[-1] if done.stderr else 'no output'}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/contrastive.json")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs=4, help="used by the program itself: NAME BATCH CLASSES REPEATS")
    options = parser.parse_args()
    if options.only:
        name, *numbers = options.only
        print(json.dumps(measure(name, *(int(n) for n in numbers))))
        return
    rows = []
    small = {name: child(name, *SMALL, 1)["peak"] for name in NAMES}
    for batch, classes in SIZES:
        for name in NAMES:
            found = child(name, batch, classes, options.repeats)
            ratio = statistics.median(a / b for a, b in zip(found["branch"], found["head"], strict=True))
            row = {
                "B": batch,
                "C": classes,
                "loss": name,
                "ms": round(1000 * statistics.median(found["branch"]), 2),
                "classifier + CE, ms": round(1000 * statistics.median(found["head"]), 2),
                "times": round(ratio, 2),
                "MB": round(max(0.0, found["peak"] - small[name]), 1),
                "predicted MB": round(predicted(name, batch, classes), 1),
            }
            rows.append(row)
            print(row, flush=True)
    report("contrastive branch beside the classifier, forward + backward, graph mode", rows, options.json)


if __name__ == "__main__":
    main()
