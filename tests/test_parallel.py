"""Two workers with half a batch each are one worker with all of it: losses and weights, every step, both modes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent
PLAIN = """
name: plain
data: {name: digits_lt, imbalance: {profile: exp, factor: 10}}
model: resnet8_cifar
batch: 128
augment: [crop]
sampler: {name: power, q: 1.0, num_samples: 1280}
optimizer: {name: sgd, lr: 0.05, momentum: 0.0}
stages: [{name: one, epochs: 2}]
"""
MIXED = PLAIN + "loss: cs_ce\nmixing: {name: mixup, alpha: 1.0}\n"
PROGRESSIVE = (
    PLAIN.replace("{name: power, q: 1.0,", "{name: progressive,")
    + "second_sampler: reversed\nmixing: {name: mixup, alpha: 0.2}\n"
)
OPTIONS = (
    PLAIN.replace("model: resnet8_cifar", "model: {name: resnet8_cifar, dropout: 0.3}")
    + "loss: cs_ce\nsam: 0.02\nema: 0.5\nclip_norm: 2.0\nloss_scale: dynamic\n"
)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def trained(folder, recipe, mode, workers):
    """What every rank ended with."""
    config, file = folder / f"{workers}.yaml", folder / f"{workers}"
    config.write_text(recipe)
    bin_folder = Path(sys.executable).parent
    arguments = [HERE / "parallel_run.py", file, config, mode]
    command = [sys.executable, *arguments]
    if workers > 1:
        command = [sys.executable, "-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}", "--join=True"]
        command += [f"--local_worker_num={workers}", f"--master_port={free_port()}", f"--log_dir={folder}", *arguments]
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, cwd=folder, timeout=600
    )
    logs = "".join(path.read_text()[-3000:] for path in folder.glob("worker_*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return [np.load(f"{file}-{rank}.npz") for rank in range(workers)]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("recipe", "mode"),
    [
        (PLAIN, "graph"),
        (PLAIN, "pynative"),
        (MIXED, "graph"),
        (MIXED, "pynative"),
        (PROGRESSIVE, "graph"),
        (OPTIONS, "graph"),
    ],
    ids=["plain-graph", "plain-pynative", "mixup-graph", "mixup-pynative", "two-orders-graph", "options-graph"],
)
def test_two_workers_are_one(tmp_path, recipe, mode):
    (one,), two = trained(tmp_path, recipe, mode, 1), trained(tmp_path, recipe, mode, 2)
    losses = one["losses"]
    assert losses.shape == (20,)
    assert losses[-5:].mean() < losses[-10:-5].mean() < losses[:5].mean(), (
        losses
    )  # it learns, and still does at the end
    for rank in two:
        np.testing.assert_allclose(rank["losses"], losses, rtol=1e-5)
        for name in one.files:
            if name.startswith("weight"):
                # a gradient at weights that were moved along another one carries the rounding of both
                tolerance = 5e-5 if recipe is OPTIONS else 1e-5
                np.testing.assert_allclose(rank[name], one[name], rtol=1e-5, atol=tolerance, err_msg=name)
    for name in two[0].files:
        if "moving" not in name:  # running statistics are each worker's own
            np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
