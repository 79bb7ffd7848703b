"""Two CPU workers on this machine, through run_distribute.sh."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
RECIPE = """
name: pair
data: {name: digits_lt, imbalance: {profile: exp, n_max: 16, factor: 4}}
model: resnet8_cifar
batch: 16
augment: [crop]
optimizer: {name: sgd, lr: 0.02}
stages: [{name: one, epochs: 2}, {name: two, epochs: 1, sampler: class_balanced}]
"""


def script(*arguments):
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", ROOT / "run_distribute.sh", *map(str, arguments)], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "usage:"),
        (("x.yaml",), "WORKERS is missing"),
        (("nowhere.yaml", "2"), "CONFIG nowhere.yaml: no such file"),
        ((ROOT / "configs/digits_lt/default.yaml", "two"), "WORKERS two"),
        ((ROOT / "configs/digits_lt/default.yaml", "2", "--set", "batch=x"), "batch = 'x'"),
    ],
)
def test_bad_arguments(arguments, message):
    done = script(*arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_help():
    assert "usage:" in script("--help").stdout


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_train_and_only_one_writes(tmp_path):
    (tmp_path / "pair.yaml").write_text(RECIPE)
    done = script(tmp_path / "pair.yaml", 2, "--runs", tmp_path / "runs", "--device", "cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "pair-s0"
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["pair-s0"]
    assert (run / "result.json").is_file()
    assert sorted(p.name for p in (run / "logs").iterdir()) == ["rank-0.log", "rank-1.log"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    loaded = ms.load_checkpoint(str(run / "checkpoints" / "last.ckpt"))
    assert all(np.isfinite(p.asnumpy()).all() for p in loaded.values() if hasattr(p, "asnumpy"))
