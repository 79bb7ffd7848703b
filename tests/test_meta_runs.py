"""Whole runs with a meta-sampler: killed and resumed, stopped, on two workers, and what they leave behind."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_parallel import free_port
from test_resume import left_alone, run

from ms_longtail.training import checkpoints

HERE = Path(__file__).parent
RECIPE = """
name: tiny
data:
  name: digits_lt
  size: 16
  mean: [0.3, 0.3, 0.3]
  std: [0.34, 0.34, 0.34]
  imbalance: {profile: exp, n_max: 120, factor: 50}
model: resnet8_cifar
batch: 32
sampler: {name: instance, num_samples: 170}
augment: [{name: crop, padding: 2}]
optimizer: {name: sgd, lr: 0.1}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: represent, epochs: 2, loss: balanced_softmax, schedule: {name: cosine, span: stage}}
  - name: balance
    epochs: 3
    objective: meta_sampling
    second_sampler: class_balanced
    freeze: backbone
    reset: classifier
    schedule: {name: cosine, span: stage}
"""
FIRST, STEPS, DRAWS = 6, 5, 160  # steps of an epoch of either stage (170 images, and whole batches of them), its images

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE)


def state_of(path):
    """Parameters of a checkpoint, as `checkpoints.read` finds them."""
    return {name: value.asnumpy() for name, value in checkpoints.read(path)[0].items()}


def lines_of(folder):
    """The lines of metrics.jsonl, without how long they took."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("train_seconds", "eval_seconds")} for line in lines]


def assert_same_run(found, expected):
    names = sorted(path.name for path in (expected / "checkpoints").glob("stage-*.ckpt"))
    assert names == ["stage-1-represent.ckpt", "stage-2-balance.ckpt"]
    for name in ("last.ckpt", *names):
        a, b = (state_of(folder / "checkpoints" / name) for folder in (found, expected))
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    assert lines_of(found) == lines_of(expected)
    assert (found / "result.json").read_text() == (expected / "result.json").read_text()


def test_killed_in_the_middle_of_an_epoch_and_resumed_equals_untouched(untouched, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    killed = run(tmp_path, "step", 2 * FIRST + STEPS + 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = tmp_path / "runs" / "tiny-s0"
    position = checkpoints.read(found / "checkpoints" / "last.ckpt")[1]
    assert (position.stage, position.epoch) == (1, 1)
    assert position.step > 0
    resumed = run(tmp_path, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {found}" in resumed.stdout
    assert "stage 2 (balance), 1 of 3 epochs done, step" in resumed.stdout
    assert_same_run(found, untouched)


STOPPED = """
import os, signal, sys
from ms_longtail.cli import main
from ms_longtail.training.callbacks import Conductor
left, original = [int(sys.argv[1])], Conductor.on_train_step_end
def at_step(self, context):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGTERM)
    original(self, context)
Conductor.on_train_step_end = at_step
sys.exit(main(sys.argv[2:], verb="train"))
"""


def test_a_run_that_is_told_to_stop_ends_and_goes_on(untouched, tmp_path):
    """The pipeline waits for rates that will not come; that must hold nobody up."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    arguments = ["--config", tmp_path / "tiny.yaml", "--runs", tmp_path / "runs", "--device", "cpu"]
    command = [sys.executable, "-c", STOPPED, 2 * FIRST + STEPS + 2, *arguments]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    try:
        stopped = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=90
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"the run is still there: {(late.stdout or b'').decode()[-200:]}")
    assert stopped.returncode == 130, stopped.stderr
    assert "stage 2 (balance), 1 of 3 epochs done, step 2 of 5; everything is saved" in stopped.stdout + stopped.stderr
    resumed = run(tmp_path, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(tmp_path / "runs" / "tiny-s0", untouched)


def test_the_backbone_rests_to_the_last_bit(untouched):
    """Weights and running statistics; the classifier is another one."""
    before, after = (
        state_of(untouched / "checkpoints" / f"{name}.ckpt") for name in ("stage-1-represent", "stage-2-balance")
    )
    backbone = [name for name in before if name.startswith("backbone.")]
    assert sum("moving_" in name for name in backbone) == 2 * sum(name.endswith("gamma") for name in backbone) > 0
    assert any("conv" in name for name in backbone)
    for name in backbone:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    for name in ("head.weight", "head.bias"):
        assert np.abs(after[name] - before[name]).max() > 1e-3


def test_what_was_learnt_stands_in_the_metrics(untouched):
    lines, last = lines_of(untouched), state_of(untouched / "checkpoints" / "stage-2-balance.ckpt")
    assert [line["name"] for line in lines] == ["represent"] * 2 + ["balance"] * 3
    assert not any("learnt" in line for line in lines[:2])
    learnt = [line["learnt"] for line in lines[2:]]
    for epoch in learnt:
        assert epoch.keys() == {"rate", "drawn", "meta_loss"}
        assert len(epoch["rate"]) == len(epoch["drawn"]) == 10
        assert all(0 < rate < 1 for rate in epoch["rate"])
        assert sum(epoch["drawn"]) == DRAWS
        assert 0 < epoch["meta_loss"] < 10
    rates = np.array([epoch["rate"] for epoch in learnt])
    assert np.abs(rates[0] - 0.5).max() > 0.002  # Adam has done five steps
    assert np.abs(rates[0] - 0.5).max() < 0.25 * 0.01 * STEPS * 1.5
    assert (np.abs(np.diff(rates, axis=0)).max(axis=1) > 0.001).all()  # each epoch moves them
    np.testing.assert_allclose(rates[-1], 1 / (1 + np.exp(-last["rates"].astype(np.float64))), atol=1e-6)
    assert last["rates_moment2"].min() > 0
    np.testing.assert_allclose(last["rates_powers"], [0.9 ** (3 * STEPS), 0.999 ** (3 * STEPS)], rtol=1e-5)
    counts = json.loads((untouched / "split.json").read_text())["counts"]["train"]
    drawn = np.array([epoch["drawn"] for epoch in learnt])
    assert drawn[:, 0].min() > drawn[:, -1].max()  # with rates near one half, as often as there are images
    assert abs(drawn[:, 0].sum() - 3 * DRAWS * counts[0] / sum(counts)) < 60


# ---- two workers

PLAIN = (
    RECIPE.replace("lr: 0.1}", "lr: 0.05, momentum: 0.0}")
    .replace("num_samples: 170", "num_samples: 320")
    .replace("epochs: 2", "epochs: 1")
    .replace("epochs: 3", "epochs: 2")
    .replace("checkpoint: {every_minutes: 0.00001, keep: 2}\n", "")
)


def trained(folder, recipe, workers):
    """What every rank ended with."""
    config, file = folder / f"{workers}.yaml", folder / f"{workers}"
    config.write_text(recipe)
    bin_folder = Path(sys.executable).parent
    command = [sys.executable]
    if workers > 1:
        command += ["-m", "mindspore.parallel.cluster.run", f"--worker_num={workers}", "--join=True"]
        command += [f"--local_worker_num={workers}", f"--master_port={free_port()}", f"--log_dir={folder}"]
    command += [HERE / "meta_parallel_run.py", file, config, "graph"]
    environment = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    logs = "".join(path.read_text()[-3000:] for path in folder.glob("worker_*.log"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:] + logs
    return [np.load(f"{file}-{rank}.npz") for rank in range(workers)]


@pytest.mark.distributed
def test_two_workers_are_one(tmp_path):
    """The same images by the same rates; losses, rates and weights to 1e-5, and the two of them to the last bit."""
    (one,), two = trained(tmp_path, PLAIN, 1), trained(tmp_path, PLAIN, 2)
    drawn = np.concatenate([rank["drawn"] for rank in two])
    assert [len(rank["drawn"]) for rank in two] == [320, 320]
    np.testing.assert_array_equal(drawn[drawn[:, 0].argsort()], one["drawn"])
    assert one["losses"].shape == (30,)
    assert one["rates"].shape == (20, 10)
    assert np.abs(one["rates"][-1]).max() > 0.05
    for rank in two:
        np.testing.assert_allclose(rank["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(rank["rates"], one["rates"], rtol=1e-5, atol=1e-5)
        for name in one.files:
            if name.startswith("weight"):
                np.testing.assert_allclose(rank[name], one[name], rtol=1e-5, atol=1e-5, err_msg=name)
    for name in two[0].files:
        if name != "drawn":
            np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
    lines = [lines_of(tmp_path / f"{workers}.run")[1:] for workers in (1, 2)]
    for first, second in zip(*lines, strict=True):
        assert first["learnt"]["drawn"] == second["learnt"]["drawn"]
        assert abs(first["learnt"]["meta_loss"] - second["learnt"]["meta_loss"]) < 2e-5
