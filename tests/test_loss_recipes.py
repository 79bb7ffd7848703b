"""The losses through recipes: every file resolves and builds, some train for real, and the examples run."""

import doctest
import importlib
import json
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import ms_longtail
from ms_longtail import losses, recipe
from ms_longtail.cli import main
from ms_longtail.registry import LOSSES

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
DIGITS = sorted((CONFIGS / "digits_lt" / "losses").glob("*.yaml"))


@pytest.mark.parametrize("data", ["cifar10_lt", "cifar100_lt"])
def test_every_loss_has_a_recipe_that_states_only_its_difference(data):
    files = {path.stem: path for path in (CONFIGS / data / "losses").glob("*.yaml")}
    assert set(files) == set(LOSSES) | {"ldam_drw"}
    for name, path in files.items():
        used = {stage.loss.name for stage in recipe.load(path).stages}
        assert name.removesuffix("_drw") in used, path
        assert recipe.load(path).name == f"{data}_{name}"
        assert "base: ../ce.yaml" in path.read_text()


def write_stand_in(folder, classes):
    """Files in CIFAR's binary form with 100 grey images a class."""
    fine = classes == 100
    place = folder / ("cifar-100-binary" if fine else "cifar-10-batches-bin")
    place.mkdir()
    labels = np.arange(100 * classes, dtype=np.uint8) % classes
    records = np.full((len(labels), 3073 + fine), 128, np.uint8)
    records[:, int(fine)] = labels
    train = ["train"] if fine else [f"data_batch_{i}" for i in range(1, 6)]
    for name, part in zip(train, np.array_split(records, len(train)), strict=True):
        (place / f"{name}.bin").write_bytes(part.tobytes())
    (place / ("test.bin" if fine else "test_batch.bin")).write_bytes(records[:classes].tobytes())
    names = "\n".join(f"class {c}" for c in range(classes))
    (place / ("fine_label_names.txt" if fine else "batches.meta.txt")).write_text(names + "\n")


@pytest.mark.parametrize("data", ["cifar10_lt", "cifar100_lt", "digits_lt"])
def test_dry_run_of_every_recipe(data, tmp_path, monkeypatch, capsys):
    """On a small stand-in for the CIFAR files: 100 images a class, so that the rarest class has one."""
    if data != "digits_lt":
        write_stand_in(tmp_path, classes=10 if data == "cifar10_lt" else 100)
    monkeypatch.setenv("MSLT_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for path in sorted((CONFIGS / data / "losses").glob("*.yaml")):
        assert main(["train", "--config", str(path), "--dry-run", "--quiet"]) == 0, (path, capsys.readouterr().err)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize("path", DIGITS, ids=lambda p: p.stem)
def test_training_with_it(path, tmp_path, capsys):
    stages = recipe.load(path).stages
    short = [f"stages.{stage.name}.epochs=4" for stage in stages]
    arguments = ["--config", str(path), "--runs", str(tmp_path), "--quiet", "--set", *short, "schedule.warmup_epochs=1"]
    assert main(["train", *arguments]) == 0, capsys.readouterr().err
    (folder,) = [p for p in tmp_path.iterdir() if p.is_dir()]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"]["name"] for line in lines] == [stage.loss.name for stage in stages for _ in range(4)]
    assert all(line["skipped_steps"] == 0 for line in lines)
    assert lines[3]["train_loss"] < lines[0]["train_loss"]
    assert json.loads((folder / "result.json").read_text())["last"]["top1"] > 0.15
    if path.stem == "crl":
        assert 0 < lines[0]["loss"]["alpha"] <= 1


def faults(overrides, capsys):
    assert main(["train", "--config", str(CONFIGS / "digits_lt" / "ce.yaml"), "--dry-run", "--set", *overrides]) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss=ldam"], "loss.name = 'ldam': is defined for the cosine head; set model.head: cosine"),
        (["loss=kd"], "stages.0.teacher = None: kd needs a teacher: the name of an earlier stage"),
        (["stages=[{name: a, epochs: 1, teacher: a}]"], "stages.0.teacher = 'a': ce takes no teacher"),
        (
            ["stages=[{name: first, epochs: 1}, {name: b, epochs: 1, loss: dive, teacher: frist}]"],
            "stages.1.teacher = 'frist': must be the name of an earlier stage (did you mean 'first'?); there are: first",
        ),
        (
            ["stages=[{name: a, epochs: 1}, {name: b, epochs: 1, start: fresh}]", "schedule.span=run"],
            "stages.1.start = 'fresh': other weights cannot go on with the optimizer's state",
        ),
        (["loss={name: label_aware_smoothing, head: 0.1, tail: 0.2}"], "tail = 0.2: must be at most head = 0.1"),
        (["loss={name: focal, gamma: -1}"], "loss.gamma = -1: input should be greater than or equal to 0"),
        (["loss={name: focal, form: tanh}"], "loss.form = 'tanh': must be one of 'sigmoid' or 'softmax'"),
        (
            ["class_weights={name: effective_number, beta: 1.0}"],
            "class_weights.beta = 1.0: input should be less than 1",
        ),
        (["class_weights=inverse"], "unknown class weighting"),
    ],
)
def test_a_loss_that_cannot_work_is_refused(overrides, message, capsys):
    assert message in faults(overrides, capsys)


def test_teacher_start_and_weights_are_not_inherited_by_mistake():
    content = recipe.read(CONFIGS / "digits_lt" / "losses" / "dive.yaml")
    content["stages"].append({"name": "more", "epochs": 1, "loss": "ce"})
    stages = recipe.from_map({**content, "name": "x"}).stages
    assert [(stage.start, stage.teacher) for stage in stages] == [("last", None), ("fresh", "teacher"), ("last", None)]
    drw = recipe.load(CONFIGS / "digits_lt" / "losses" / "ldam_drw.yaml").stages
    assert [stage.class_weights.name for stage in drw] == ["none", "effective_number"]


def test_the_docstrings_examples_run():
    ms.set_context(mode=ms.PYNATIVE_MODE)
    tried = 0
    for module in pkgutil.iter_modules(losses.__path__):
        loaded = importlib.import_module(f"ms_longtail.losses.{module.name}")
        names = {"np": np, "ms": ms, "Tensor": Tensor, **vars(loaded)}
        result = doctest.testmod(loaded, extraglobs=names, optionflags=doctest.ELLIPSIS)
        assert result.failed == 0, module.name
        tried += result.attempted
    assert tried > 40
    result = doctest.testmod(importlib.import_module("ms_longtail.bounds"))
    assert (result.failed, result.attempted) == (0, 2)


def test_the_readmes_own_loss_works_in_a_recipe(capsys, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [block for block in blocks if "class Poly1" in block]
    (tmp_path / "my_losses.py").write_text(code)
    try:
        config = str(CONFIGS / "digits_lt" / "ce.yaml")
        change = [f"imports={tmp_path / 'my_losses.py'}", "loss={name: poly1, epsilon: 2}"]
        change += ["class_weights=effective_number"]
        assert main(["train", "--config", config, "--dry-run", "--quiet", "--set", *change]) == 0, (
            capsys.readouterr().err
        )
        value = LOSSES.get("poly1")()(Tensor([[2.0, 0.0]]), Tensor([0]))
        assert float(value) == pytest.approx(0.1269 + 0.1192, abs=1e-4)  # -log p + (1 - p)
    finally:
        recipe.load(CONFIGS / "digits_lt" / "ce.yaml")  # which imports nothing
    assert "poly1" not in LOSSES


@pytest.mark.slow
def test_your_own_script():
    script = ROOT / "examples" / "your_own_script.py"
    environment = {**os.environ, "PYTHONPATH": str(Path(ms_longtail.__file__).parent.parent)}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment, check=True)
    before, after = (float(word) for word in done.stdout.split() if word.replace(".", "").isdigit())
    assert after > before + 2
