"""Losses through the step cell: micro-batches, mixing, workers, skipped steps; and killed runs of those with a memory."""

import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import loss_steps
import numpy as np
import pytest
from loss_steps import NAMES, train
from mindspore import Tensor, ops
from test_resume import kill_and_resume, left_alone, parameters

from ms_longtail import recipe
from ms_longtail.objectives import Classification
from ms_longtail.recipe import Component
from ms_longtail.registry import LOSSES, MODELS
from ms_longtail.run.build import build_loss
from ms_longtail.run.handover import hand_over
from ms_longtail.training import checkpoints
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

HERE = Path(__file__).parent
EXACT = 1e-6


def assert_same(found, expected):
    """Losses and everything remembered, to a millionth of the array's largest magnitude."""
    np.testing.assert_allclose(found[0], expected[0], rtol=EXACT)
    assert found[1].keys() == expected[1].keys()
    for key, value in expected[1].items():
        np.testing.assert_allclose(
            found[1][key], value, rtol=0, atol=EXACT * max(1e-3, np.abs(value).max()), err_msg=key
        )


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_micro_batches_equal_the_whole_batch(name, mixed):
    assert_same(train(name, parts=3, mixed=mixed), train(name, mixed=mixed))


@pytest.mark.parametrize("name", ["eqlv2", "softmax_eql"])
def test_the_state_follows_applied_steps_only(mode, name):
    """It changes once a step, by the whole step; a step that is not finite leaves it alone."""
    network = loss_steps.Network()
    loss = LOSSES.get(name)(class_counts=loss_steps.COUNTS)
    objective = Classification(network, loss)
    step = TrainStep(objective, sgd(network.trainable_params(), [0.0, 0.0, 0.0], weight_decay=0.0))
    step.set_train()
    state = next(p for p in loss.get_parameters() if "positive" in p.name or "gradient" in p.name)
    x, y = Tensor(loss_steps.X[0]), Tensor(loss_steps.Y[0])
    step(x, y)
    once = state.asnumpy().copy()
    assert once.max() > 0
    broken = loss_steps.X[0].copy()
    broken[2, 1] = np.nan
    _, finite = step(Tensor(broken), y)
    assert not bool(finite.asnumpy())
    np.testing.assert_array_equal(state.asnumpy(), once)
    alone = LOSSES.get(name)(class_counts=loss_steps.COUNTS)
    alone.update(ops.matmul(x, Tensor(loss_steps.W.T)), y)
    other = next(p for p in alone.get_parameters() if p.name == state.name)
    np.testing.assert_allclose(once, other.asnumpy(), rtol=1e-5)


def test_a_first_batch_of_one_class_does_not_spoil_the_ratio(mode):
    """Weighted sums over no image are 0, not the difference of two roundings."""
    loss = LOSSES.get("eqlv2")(class_counts=loss_steps.COUNTS)
    rng = np.random.default_rng(0)
    for _ in range(20):
        loss.update(Tensor(rng.normal(size=(8, 4)).astype(np.float32)), Tensor(np.full(8, 2, np.int32)), 0.3)
    assert loss.negative.asnumpy()[2] == 0
    assert loss.ratio.asnumpy()[2] > 1e6


def test_a_teacher_stays_in_evaluation_mode(mode):
    """Neither training mode around it nor a step changes anything of it, running statistics included."""
    student, trained = (MODELS.get("resnet8_cifar")(num_classes=4, seed=seed) for seed in (0, 1))
    before = {p.name: p.asnumpy().copy() for p in trained.get_parameters()}
    images = Tensor(np.random.default_rng(0).integers(0, 256, (8, 3, 32, 32)).astype(np.uint8))
    expected = trained(images).asnumpy()
    objective = Classification(student, LOSSES.get("dive")(class_counts=loss_steps.COUNTS), trained)
    step = TrainStep(objective, sgd(student.trainable_params(), [0.1]))
    step.set_train()
    assert step.objective.model.training
    assert not any(cell.training for _, cell in objective.teacher.cells_and_names())
    step(images, Tensor(np.arange(8, dtype=np.int32) % 4))
    np.testing.assert_array_equal(objective.teacher(images).asnumpy(), expected)
    for parameter in trained.get_parameters():
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name.removeprefix("teacher.")])


def test_the_runs_seed_reaches_the_draws():
    keys = []
    for seed in (0, 1):
        stage = recipe.load(HERE.parent / "configs/digits_lt/losses/seql.yaml", [f"seed={seed}"]).stages[0]
        keys.append(build_loss(stage, np.array(loss_steps.COUNTS), seed).keys.asnumpy())
    assert not np.array_equal(*keys)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(sys.executable).parent
    command = [folder / "msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True"]
    command += [f"--log_dir={tmp_path}", HERE / "loss_steps.py", tmp_path / "two.npz"]
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": f"{HERE.parent}:{HERE}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    two = np.load(tmp_path / "two.npz")
    for name in NAMES:
        for mixed in (False, True):
            prefix = f"{name} {mixed} "
            found = {key.removeprefix(prefix): two[key] for key in two.files if key.startswith(prefix)}
            assert_same((found.pop("losses"), found), train(name, mixed=mixed))
    for name in ("eqlv2", "softmax_eql"):
        loss = LOSSES.get(name)(class_counts=loss_steps.COUNTS)
        loss.update(ops.matmul(Tensor(loss_steps.X[0]), Tensor(loss_steps.W.T)), Tensor(loss_steps.Y[0]))
        for parameter in loss.get_parameters():
            np.testing.assert_allclose(two[f"{name} update {parameter.name}"], parameter.asnumpy(), rtol=1e-5)


RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 96}
accumulate: 2
augment: [crop]
optimizer: {name: sgd, lr: 0.02}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: first, epochs: 2, loss: eqlv2}
  - {name: second, epochs: 2, loss: softmax_eql}
  - {name: third, epochs: 2, loss: {name: seql, lambda_: 0.1}}
  - {name: fourth, epochs: 2, loss: dive, teacher: second, start: fresh}
"""
STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE) / "checkpoints"


@pytest.mark.slow
def test_killed_and_resumed_in_the_middle_of_an_epoch_of_every_stage(untouched, tmp_path):
    kills = [2 * (STEPS + 3)] + 3 * [2 * 2 * STEPS]  # micro-batches
    stages = []

    def stopped(run):
        stages.append(checkpoints.read(run / "checkpoints" / "last.ckpt")[1].stage)

    kills = (("step", steps) for steps in kills)
    found = kill_and_resume(tmp_path, RECIPE, *kills, between=stopped) / "checkpoints"
    assert stages == [0, 1, 2, 3]
    for path in sorted(untouched.glob("stage-*.ckpt")):
        a, b = parameters(found / path.name), parameters(path)
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{path.name}: {key}")
    first = parameters(untouched / "stage-1-first.ckpt")
    assert first["eqlv2.positive"].max() > 0
    last = parameters(untouched / "stage-4-fourth.ckpt")
    teacher = {key: value for key, value in last.items() if key.startswith("teacher.")}
    second = parameters(untouched / "stage-2-second.ckpt")
    assert teacher
    for key, value in teacher.items():
        np.testing.assert_array_equal(value, second[key.removeprefix("teacher.")], err_msg=key)


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"start": "fresh"}, False),
        ({"loss": Component("eqlv2", {"mu": 0.5})}, False),
        ({"reset": ("classifier",)}, False),
    ],
)
def test_a_memory_goes_on_with_the_same_loss_on_the_same_network(change, kept):
    def stage(**settings):
        plain = {"loss": Component("eqlv2", {}), "start": "last", "schedule": Component("constant", {"span": "stage"})}
        plain |= {"reset": (), "objective": Component("classification", {}), "contrast": Component("none", {})}
        return SimpleNamespace(stage=SimpleNamespace(**(plain | settings)))

    steps = []
    for _ in range(2):
        network = loss_steps.Network()
        objective = Classification(network, LOSSES.get("eqlv2")(class_counts=loss_steps.COUNTS))
        steps.append(TrainStep(objective, sgd(network.trainable_params(), [0.1])))
    before, after = steps
    before.objective.loss.update(Tensor(np.zeros((4, 4), np.float32)), Tensor(np.arange(4, dtype=np.int32)))
    hand_over(before, after, stage(), stage(**change))
    for name in ("positive", "negative", "ratio"):
        same = np.array_equal(*(getattr(step.objective.loss, name).asnumpy() for step in steps))
        assert same == kept
