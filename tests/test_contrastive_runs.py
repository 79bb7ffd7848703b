"""Whole runs with momentum contrast: killed, stopped and resumed to the same bits, what passes to the next stage, evaluation."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from contrast_parallel_run import COUNTS, Tiny, f32, i32
from test_meta_runs import STOPPED, lines_of, state_of
from test_resume import left_alone, run

from ms_longtail.losses import BalancedSoftmax, SupCon
from ms_longtail.models.embedding import Embedding
from ms_longtail.objectives.contrastive import Contrastive
from ms_longtail.run.handover import hand_over
from ms_longtail.training import checkpoints
from ms_longtail.training.checkpoints import optimizer_state
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

HERE = Path(__file__).parent
RECIPE = """
name: tiny
data:
  name: digits_lt
  size: 16
  mean: [0.3, 0.3, 0.3]
  std: [0.34, 0.34, 0.34]
  imbalance: {profile: exp, n_max: 60, factor: 20}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 32}
augment: [{name: crop, padding: 2}]
views: [[{name: random_resized_crop, scale_min: 0.5}]]
loss: balanced_softmax
contrast: paco
objective: {name: momentum_contrast, momentum: 0.9, queue_size: 48, hidden_size: 16, embedding_size: 8}
optimizer: {name: sgd, lr: 0.1}
schedule: {name: cosine, span: stage, warmup_epochs: 0}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: one, epochs: 2}
  - {name: two, epochs: 1}
  - {name: other, epochs: 1, objective: {momentum: 0.8}}
"""
STAGES = ("stage-1-one", "stage-2-two", "stage-3-other")
PROJECTION = "embedding.projection."


# ---- in this process: what one step hands to the next


def step_of(hidden=7, seed=4, rate=0.1):
    model = Tiny(1)
    objective = Contrastive(
        model,
        BalancedSoftmax(class_counts=COUNTS),
        contrast=SupCon(),
        views=2,
        contrasted="all",
        projection="mlp",
        hidden_size=hidden,
        embedding_size=5,
        seed=seed,
    )
    step = TrainStep(objective, sgd(objective.trainable_params(), [rate] * 4)).set_train()
    rng = np.random.default_rng(0)
    views, label = rng.normal(size=(2, 6, 12)), rng.integers(0, 4, 6)
    return step, (f32(views[0]), i32(label), f32([0.0]), f32(views[1]))


def plan(span="run", start="last", reset=(), **objective):
    schedule = SimpleNamespace(settings={"span": span})
    stage = {"schedule": schedule, "start": start, "reset": reset, "loss": "balanced_softmax", "contrast": "supcon"}
    return SimpleNamespace(stage=SimpleNamespace(**stage, objective=objective))


def embedded(step):
    return {p.name: p.asnumpy().copy() for p in step.objective.embedding.get_parameters()}


@pytest.mark.parametrize(
    ("next_one", "kept"),
    [
        (plan(hidden_size=7), True),
        (plan(hidden_size=7, loss_weight=2.0), False),
        (plan(hidden_size=7, start="best"), False),
        (plan(hidden_size=7, reset=("classifier",)), False),
    ],
    ids=["same", "another", "best", "reset"],
)
def test_the_projection_goes_on_with_the_same_objective_alone(next_one, kept):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    before, columns = step_of()
    before(*columns)
    after, _ = step_of(seed=5)
    fresh = embedded(after)
    hand_over(before, after, plan(hidden_size=7), next_one)
    for name, value in embedded(after).items():
        np.testing.assert_array_equal(value, (embedded(before) if kept else fresh)[name], err_msg=name)


@pytest.mark.parametrize("hidden", [7, 6])
def test_a_new_projection_has_no_momentum_of_the_one_before(hidden):
    """One schedule over the run hands the optimizer's state on: of what goes on, not of what begins anew."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    before, columns = step_of()
    before(*columns)
    after, _ = step_of(hidden, seed=5)
    hand_over(before, after, plan(hidden_size=7), plan(hidden_size=hidden, loss_weight=2.0))
    was, found = optimizer_state(before), optimizer_state(after)
    carried = [name for name in found if "embedding" not in name]
    assert any("backbone" in name for name in carried)
    for name in carried:
        np.testing.assert_array_equal(found[name].asnumpy(), was[name].asnumpy(), err_msg=name)
        assert "backbone" not in name or np.abs(found[name].asnumpy()).max() > 0
    for name in set(found) - set(carried):
        np.testing.assert_array_equal(found[name].asnumpy(), 0, err_msg=name)


# ---- runs


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE)


def of_stage(folder, name):
    return state_of(folder / "checkpoints" / f"{name}.ckpt")


def assert_same_run(found, expected):
    for name in ("last", *STAGES):
        a, b = of_stage(found, name), of_stage(expected, name)
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    assert lines_of(found) == lines_of(expected)
    assert (found / "result.json").read_text() == (expected / "result.json").read_text()


@pytest.mark.slow
def test_killed_stopped_and_resumed_equals_untouched(untouched, tmp_path):
    """SIGKILL in the second epoch's middle, SIGTERM in that of the second stage, then on to the end."""
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    killed = run(tmp_path, "step", 3)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    found = tmp_path / "runs" / "tiny-s0"
    parameters, position = checkpoints.read(found / "checkpoints" / "last.ckpt")
    assert (position.stage, position.epoch, position.step) == (0, 1, 1)
    assert (parameters["queue_labels"].asnumpy() >= 0).all()
    arguments = ["--config", tmp_path / "tiny.yaml", "--runs", tmp_path / "runs", "--device", "cpu", "--resume"]
    command = [sys.executable, "-c", STOPPED, 2, *arguments]  # the rest of the epoch, and one step
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    stopped = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=200
    )
    assert stopped.returncode == 130, stopped.stderr
    said = stopped.stdout + stopped.stderr
    assert "stage 2 (two), 0 of 1 epochs done, step 1 of 2; everything is saved" in said
    resumed = run(tmp_path, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {found}" in resumed.stdout
    assert_same_run(found, untouched)


@pytest.mark.slow
def test_what_a_checkpoint_holds(untouched):
    last = of_stage(untouched, "last")
    own = {name.removeprefix("keys.") for name in last if name.startswith("keys.") and "moving" not in name}
    weights = {name for name in last if name.startswith(("backbone.", PROJECTION)) and "moving" not in name}
    assert {name.removeprefix("network.") for name in own} == weights
    assert last["queue"].shape == (48, 8)
    assert last["queue_labels"].shape == (48,)
    there = last["queue_labels"] >= 0
    np.testing.assert_allclose(np.linalg.norm(last["queue"][there], axis=1), 1, rtol=1e-5)
    for name in weights:  # the copy lags behind
        key = f"keys.network.{name}" if name.startswith("backbone") else f"keys.{name}"
        assert not np.array_equal(last[key], last[name]) or ".0.bias" in name, name
    for name in last:
        assert np.isfinite(last[name]).all(), name


@pytest.mark.slow
def test_the_same_objective_goes_on_with_its_queue_and_projection(untouched):
    one, two = (of_stage(untouched, name) for name in STAGES[:2])
    assert (one["queue_labels"] >= 0).all()
    np.testing.assert_array_equal(two["queue"][32:], one["queue"][:16])  # two steps of 16 came before them
    np.testing.assert_array_equal(two["queue_labels"][32:], one["queue_labels"][:16])
    embedding = Embedding(64, 10, hidden_size=16, embedding_size=8, seed=0)
    fresh = {f"embedding.{p.name}": p.asnumpy() for p in embedding.get_parameters()}
    for name in (f"{PROJECTION}0.weight", f"{PROJECTION}3.weight"):
        moved = np.linalg.norm(two[name] - one[name])
        assert moved < np.linalg.norm(two[name] - fresh[name])
        key = f"keys.{name}"
        assert np.linalg.norm(two[key] - one[key]) < np.linalg.norm(two[key] - fresh[name])


@pytest.mark.slow
def test_another_objective_begins_without(untouched):
    two, other = (of_stage(untouched, name) for name in STAGES[1:])
    assert other["queue_labels"].tolist().count(-1) == 16
    assert (other["queue_labels"][:32] >= 0).all()
    np.testing.assert_array_equal(other["queue"][32:], 0)
    embedding = Embedding(64, 10, hidden_size=16, embedding_size=8, seed=0)
    for p in embedding.get_parameters():
        if p.ndim == 2:
            name = f"embedding.{p.name}"
            near, far = (np.linalg.norm(other[name] - value) for value in (p.asnumpy(), two[name]))
            assert near < far, name
    learnt = [line["learnt"]["queue_filled"] for line in lines_of(untouched)]
    assert learnt == [round(32 / 48, 6), 1.0, 1.0, round(32 / 48, 6)]


@pytest.mark.slow
def test_evaluation_does_without_what_belongs_to_the_training(untouched):
    command = [sys.executable, HERE.parent / "eval.py", "--run", untouched, "--checkpoint", "last"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "identical to result.json" in done.stdout
    assert "top1" in json.dumps(json.loads((untouched / "result.json").read_text()))
