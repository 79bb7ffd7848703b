"""Moving average, SAM, dropout, L1, dynamic loss scale and early stopping in whole runs: killed, resumed, handed on."""

import json
from pathlib import Path

import numpy as np
import pytest
from test_resume import assert_same_run, kill_and_resume, left_alone, parameters

from ms_longtail import recipe
from ms_longtail.cli import main
from ms_longtail.run import dataset, plan

CONFIGS = Path(__file__).parent.parent / "configs"

RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}, validation: {share: 0.2}}
model: {name: resnet8_cifar, dropout: 0.3}
batch: 16
sampler: {name: instance, num_samples: 80}
ema: 0.9
sam: 0.05
l1: 1.0e-4
loss_scale: dynamic
augment: [random_erasing, lighting, rotation, crop]
optimizer: {name: adabound, lr: 0.01}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: one, epochs: 2}
  - {name: two, epochs: 2, sampler: {name: class_balanced, num_samples: 80}}
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE)


def test_killed_and_resumed_equals_untouched(untouched, tmp_path):
    """In the second epoch of the first stage, then in that of the second."""
    assert_same_run(kill_and_resume(tmp_path, RECIPE, ("step", 7), ("step", 10)), untouched)


def test_what_a_run_hands_on_is_the_average(untouched):
    saved = parameters(untouched / "checkpoints" / "last.ckpt")
    averages = {name.removeprefix("ema."): value for name, value in saved.items() if name.startswith("ema.")}
    assert {"head.weight", "backbone.bn1.moving_mean"} <= set(averages)
    assert not np.array_equal(averages["head.weight"], saved["head.weight"])
    result = json.loads((untouched / "result.json").read_text())
    logits = np.load(untouched / "logits.npz")
    assert main(["eval", "--run", str(untouched)]) == 0  # reads the checkpoint, finds the same numbers
    assert result["last"]["top1"] == pytest.approx(
        (logits["logits"].argmax(axis=1) == logits["labels"]).mean() if "logits" in logits else result["last"]["top1"]
    )


def test_a_stage_ends_early_and_the_next_one_goes_on(tmp_path, capsys):
    text = RECIPE.replace("ema: 0.9\nsam: 0.05\n", "early_stopping: 2\n").replace("epochs: 2", "epochs: 9")
    text = text.replace("lr: 0.01", "lr: 1.0e-7").replace("optimizer: {name: adabound", "optimizer: {name: adam")
    (tmp_path / "early.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "early.yaml"), "--runs", str(tmp_path)]) == 0
    assert "ended early" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "tiny-s0" / "metrics.jsonl").read_text().splitlines()]
    stages = {name: [line for line in lines if line["name"] == name] for name in ("one", "two")}
    for name, found in stages.items():
        scores = [line["validation"]["balanced"] for line in found]
        best = scores.index(max(scores))
        assert len(found) == best + 3 < 9, (name, scores)  # two evaluations without a better one
        assert f"| {len(found)} of 9, ended early |" in (tmp_path / "tiny-s0" / "report.md").read_text()
        assert "test" in found[-1]


def test_the_best_epoch_of_an_averaged_run_is_not_the_last(tmp_path):
    text = RECIPE.replace("sam: 0.05\n", "").replace("epochs: 2}", "epochs: 5}", 1)
    text = text.replace("{name: adabound, lr: 0.01}", "{name: sgd, lr: 0.05}")
    text = text.replace("name: two, epochs: 2", "name: spoilt, epochs: 1, optimizer: {lr: 3.0}")
    (tmp_path / "best.yaml").write_text(text)
    assert main(["train", "--config", str(tmp_path / "best.yaml"), "--runs", str(tmp_path), "--quiet"]) == 0
    found = tmp_path / "tiny-s0"
    result = json.loads((found / "result.json").read_text())
    best, last = (parameters(found / "checkpoints" / f"{name}.ckpt") for name in ("best", "last"))
    lines = [json.loads(line) for line in (found / "metrics.jsonl").read_text().splitlines()]
    scores = [line["validation"]["balanced"] for line in lines]
    assert scores[-1] < max(scores), scores  # else this test says nothing
    assert not np.array_equal(best["ema.head.weight"], last["ema.head.weight"])
    assert result["best"]["ece"] != result["last"]["ece"]


def test_early_stopping_wants_a_validation_part(tmp_path, capsys):
    arguments = ["--set", "early_stopping=3", "--dry-run"]
    assert main(["train", *arguments]) == 2
    assert "early_stopping = 3: there is no validation part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sam=0.1", "accumulate=2"], "sam = 0.1"),
        (["sink=true", "accumulate=2"], "sink = True"),
        (["ema=1.0"], "ema = 1.0"),
        (["amp=O4"], "amp = 'O4'"),
        (["loss_scale=huge"], "loss_scale = 'huge': input should be a valid number, or must be one of 'dynamic'"),
        (["graph.jit_level=O9"], "graph.jit_level = 'O9'"),
        (["model.dropout=1.0"], "model.dropout = 1.0"),
        (["model.init=gauss"], "model.init = 'gauss'"),
        (["l1=-1"], "l1 = -1"),
    ],
)
def test_wrong_options(settings, message, capsys):
    assert main(["train", "--dry-run", "--set", *settings]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("key", ["sink", "drop_last"])
def test_an_epoch_of_whole_batches(key):
    plans, prints = {}, set()
    for value in ("false", "true"):
        wanted = recipe.load(CONFIGS / "digits_lt" / "ce.yaml", [f"{key}={value}", "batch=48", "sampler=instance"])
        (plans[value],) = plan.make_plan(wanted, dataset.load_data(wanted))
        prints.add(recipe.fingerprint(wanted))
    images = plans["false"].epoch_draws
    assert images % 48
    assert plans["true"].epoch_draws == images - images % 48
    assert plans["true"].steps_per_epoch == plans["false"].steps_per_epoch - 1
    assert len(prints) == 2


def test_an_epoch_that_is_less_than_a_batch(capsys):
    settings = ["drop_last=true", "sampler.num_samples=20"]  # batches of 32
    assert main(["train", "--dry-run", "--config", str(CONFIGS / "digits_lt" / "ce.yaml"), "--set", *settings]) == 2
    assert "an epoch of 20 images is less than one batch of 32" in capsys.readouterr().err


@pytest.mark.parametrize(("scale", "warned"), [("1", True), ("1024", False), ("dynamic", False), (None, False)])
def test_half_precision_without_a_loss_scale_is_told(scale, warned, caplog):
    settings = ["amp=O2", *([] if scale is None else [f"loss_scale={scale}"])]
    assert main(["train", "--dry-run", "--set", *settings]) == 0
    assert ("amp = O2 with loss_scale = 1" in caplog.text) == warned
