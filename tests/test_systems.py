"""The recipes of the systems, run in short: every kind of stage trains, ends, and is evaluated as it was trained."""

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ms_longtail.cli import main
from ms_longtail.training.checkpoints import read

SYSTEMS = Path(__file__).parent.parent / "configs" / "digits_lt" / "systems"
NAMES = ["balms", "bbn", "crt", "disalign", "dive", "kd", "lws"]


def short(name, runs):
    """Train a recipe with one epoch a stage; its folder."""
    stages = sum(line.lstrip().startswith("- ") for line in (SYSTEMS / f"{name}.yaml").read_text().splitlines())
    words = [f"stages.{number}.epochs=1" for number in range(stages)]
    assert (
        main(["train", "--config", str(SYSTEMS / f"{name}.yaml"), "--runs", str(runs), "--quiet", "--set", *words]) == 0
    )
    return next(runs.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_system_trains_and_is_evaluated_as_it_was_trained(name, tmp_path, capsys):
    run = short(name, tmp_path)
    result = json.loads((run / "result.json").read_text())
    assert result["skipped_steps"] == 0
    assert 0 < result["last"]["top1"] <= 1
    assert main(["eval", "--run", str(run)]) == 0
    assert "identical to result.json" in capsys.readouterr().out
    files = sorted((run / "checkpoints").glob("stage-*.ckpt"))
    if name in ("crt", "lws", "disalign", "balms"):
        (before, _), (after, _) = read(files[0]), read(files[1])
        trained = {"crt": ("head.weight", "head.bias"), "balms": ("head.weight", "head.bias")}
        trained |= {
            "lws": ("head.calibration.scale",),
            "disalign": ("head.calibration.scale", "head.calibration.shift"),
        }
        own = [n for n in before if n in after and (n.startswith(("backbone.", "head.")))]
        changed = {n for n in own if not np.array_equal(before[n].asnumpy(), after[n].asnumpy())}
        allowed = set(trained[name]) | {n for n in own if name == "disalign" and "calibration" in n}
        assert set(trained[name]) <= changed <= allowed, (
            changed
        )  # statistics of batch normalisation are among the others
    if name in ("dive", "kd"):
        assert json.loads((run / "teachers.json").read_text())["stage-2-student"]["stage"] == "teacher"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stages.0.freeze=backbon", "the network has no such part (did you mean 'backbone'?)"),
        ("stages.0.freeze=[backbone, head]", "nothing is left to train"),
        ("stages.0.objective=bilateral", "set model.branches: 2"),
        ("stages.0.frozen_norm=batch", "nothing rests in this stage"),
        ("stages.0.reset=heads", "the network has no such part"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(change, message, tmp_path, capsys):
    more = ["stages.0.second_sampler=reversed"] if "bilateral" in change else []
    words = ["train", "--config", str(SYSTEMS / "crt.yaml"), "--runs", str(tmp_path / "runs"), "--set", change, *more]
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "module",
    [
        "data.following",
        "evaluation.posthoc",
        "evaluation.retrain",
        "models.branches",
        "models.freezing",
        "models.heads",
    ],
)
def test_the_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"ms_longtail.{module}"))
    assert result.attempted
    assert not result.failed
