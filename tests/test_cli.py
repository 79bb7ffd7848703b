"""The command line end to end, on somebody's own folder and with the mistakes that people make."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from ms_longtail import recipe as recipes
from ms_longtail.cli import main
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder, environment, to_resume
from ms_longtail.run.own_folder import lengths

ROOT = Path(__file__).parent.parent
TINY = [
    "--set",
    "stages.represent.epochs=1",
    "stages.rebalance.epochs=1",
    "batch=16",
    "model=resnet8_cifar",
    "--device",
    "cpu",
]


def train(folder, *arguments):
    command = [sys.executable, ROOT / "train.py", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )


@pytest.fixture
def zoo(tmp_path):
    """Three classes of coloured noise, 30, 12 and 4 images, in one folder to be split."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "zoo"
    for label, (name, count) in enumerate([("ant", 30), ("bee", 12), ("cat", 4)]):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 90, (30, 34, 3)).astype(np.uint8)
            image[..., label] += 120
            cv2.imwrite(str(folder / name / f"{number}.png"), image)
    return folder


@pytest.mark.slow
def test_own_folder_without_a_recipe(zoo, tmp_path):
    (zoo / "ant" / "notes.txt").write_text("not an image")
    done = train(tmp_path, "--data", zoo, *TINY)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "zoo-s0"
    report = (run / "report.md").read_text()
    for name in ("ant", "bee", "cat"):
        assert f"| {name} |" in report
    assert "best on validation" in report
    assert (run / "checkpoints" / "best.ckpt").is_file()


@pytest.mark.parametrize(
    ("images", "batch", "expected"),
    [
        (50_000, 128, (128, [20, 5])),
        (2_048, 128, (128, [20, 5])),
        (2_047, 128, (64, [20, 5])),
        (2_047, 64, (64, [20, 5])),  # never above the recipe's own
        (1_024, 128, (64, [20, 5])),
        (512, 128, (32, [40, 10])),
        (100, 128, (16, [205, 52])),
        (64, 128, (16, [320, 80])),
        (3, 128, (16, [320, 80])),
    ],
)
def test_few_images_get_small_batches_and_more_epochs(images, batch, expected):
    assert lengths(images, batch, [20, 5]) == expected


def test_an_own_folder_with_small_classes_alone_has_no_validation_part(tmp_path, capsys):
    for name in ("ant", "bee"):
        for part, count in (("train", 4), ("test", 2)):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(count):
                cv2.imwrite(str(tmp_path / part / name / f"{number}.png"), np.zeros((9, 9, 3), np.uint8))
    assert main(["train", "--data", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "no class has enough images to give one to a validation part" in printed
    assert "share: 0.0" in printed


@pytest.mark.slow
def test_a_corrupt_image_ends_with_its_name_or_is_skipped_and_counted(zoo, tmp_path):
    bad = zoo / "ant" / "3.png"
    bad.write_bytes(b"rubbish")
    raised = train(tmp_path, "--data", zoo, *TINY)
    assert raised.returncode == 2
    assert str(bad) in raised.stderr
    assert "Traceback" not in raised.stderr
    shutil.rmtree(tmp_path / "runs")
    skipped = train(tmp_path, "--data", zoo, *TINY, "data.on_error=skip", "data.max_error_share=0.1")
    assert skipped.returncode == 2  # settings belong behind --set
    skipped = train(tmp_path, "--data", zoo, *TINY, "--set", "data.on_error=skip", "data.max_error_share=0.1")
    assert skipped.returncode == 0, skipped.stderr
    assert str(bad) in (tmp_path / "runs" / "zoo-s0" / "unreadable.json").read_text() + skipped.stderr


@pytest.mark.slow
def test_a_loss_that_explodes_stops_with_step_lr_and_losses(tmp_path):
    done = train(tmp_path, "--device", "cpu", "--set", "optimizer.lr=1e30", "max_bad_steps=3", "schedule=constant")
    assert done.returncode == 1, done.stderr
    for part in ("3 steps in a row were not finite", "lr 1e+30", "last losses"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "the folder nowhere does not exist"),
        (["--config", "nowhere.yaml"], "cannot read this file"),
        (["--resume", "nowhere"], "nowhere is not a run folder"),
        (["--set", "data.imbalance.n_max=500"], "data.imbalance.n_max = 500: the largest class has 133 images"),
        (["--set", "data.imbalance.factor=500"], "the smallest class would have no image"),
        (["--set", "data.validation.group=x", "data.validation.share=0.1"], "digits_lt has no file names"),
        (["--device", "gpu", "--dry-run", "--config", "x", "--data", "y"], "not allowed with"),
    ],
)
def test_mistakes_end_with_status_2_and_leave_nothing(tmp_path, arguments, message):
    done = train(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_dry_run_prints_recipe_and_plan_and_writes_nothing(tmp_path):
    done = train(tmp_path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "sampler: {name: class_balanced" in done.stdout
    assert "45 x 10" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_quiet_prints_nothing(zoo, tmp_path):
    done = train(tmp_path, "--data", zoo, "--quiet", *TINY)
    assert done.returncode == 0
    assert done.stdout + done.stderr == ""


def stand_in(folder, recipe):
    """The folder of a finished run of this recipe, without a training."""
    home = RunFolder(folder)
    home.create(recipe, load_data(recipe).description, environment("cpu", 1))
    home.result.write_text("{}")
    return home


def test_a_finished_run_of_another_recipe_is_not_what_was_asked_for(tmp_path, capsys):
    default = recipes.load(ROOT / "configs" / "digits_lt" / "default.yaml")
    other = recipes.load(ROOT / "configs" / "digits_lt" / "default.yaml", ["stages.represent.epochs=1"])
    words = ["train", "--runs", str(tmp_path), "--resume"]
    home = stand_in(tmp_path / "digits_lt-s0", other)
    assert main(words) == 2
    assert "stages.0.epochs: 1 -> " in capsys.readouterr().err
    assert main([*words, str(home.path)]) == 0  # its own recipe
    shutil.rmtree(home.path)
    home = stand_in(tmp_path / "digits_lt-s0", default)
    assert main(words) == 0
    split = home.path / "split.json"
    split.write_text(split.read_text().replace('"train_sha256": "', '"train_sha256": "0'))
    capsys.readouterr()
    assert main(words) == 2
    assert "the images found now are not those of" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "stages: [", "- a list", "data: {}\nmodel: {name: resnet8_cifar}\nstages:\n"])
def test_a_damaged_recipe_in_a_run_folder(tmp_path, capsys, caplog, text):
    default = recipes.load(ROOT / "configs" / "digits_lt" / "default.yaml")
    first = stand_in(tmp_path / "digits_lt-s0", default)
    broken = stand_in(tmp_path / "digits_lt-s0-2", default)
    (broken.path / "recipe.yaml").write_text(text)
    assert main(["eval", "--run", str(broken.path)]) == 2
    assert f"error: {broken.path / 'recipe.yaml'} is damaged: " in capsys.readouterr().err
    assert main(["train", "--runs", str(tmp_path), "--resume"]) == 2  # it may be what is meant
    told = capsys.readouterr().err
    assert "is damaged" in told
    assert "this may be the run to go on with" in told
    first.result.unlink()
    assert to_resume(tmp_path, default).path == first.path
    assert "is damaged" in caplog.text
    assert "passed over" in caplog.text
