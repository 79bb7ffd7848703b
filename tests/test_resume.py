"""Kill a real run at every kind of moment, resume it, and compare every parameter with a run that was left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

HERE = Path(__file__).parent
RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}, validation: {share: 0.2}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 80}
augment: [crop]
optimizer: {name: sgd, lr: 0.05}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: one, epochs: 3, schedule: {name: multistep, milestones: [2], span: run}}
  - {name: two, epochs: 3, sampler: class_balanced}  # 81 images: the last batch is short, which compiles another graph
"""

pytestmark = pytest.mark.slow


def run(folder, moment="none", count=0, *arguments):
    command = [
        sys.executable,
        HERE / "killable.py",
        moment,
        str(count),
        "--",
        "--config",
        folder / "tiny.yaml",
        "--runs",
        folder / "runs",
    ]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    return subprocess.run(
        [*command, "--device", "cpu", *arguments], capture_output=True, text=True, env=environment, cwd=folder
    )


def parameters(path):
    loaded = ms.load_checkpoint(str(path))
    return {name: value.asnumpy() for name, value in loaded.items() if hasattr(value, "asnumpy")}


def assert_same_run(found, expected):
    for name in ("last", "best", "stage-1-one", "stage-2-two"):
        a, b = (parameters(run / "checkpoints" / f"{name}.ckpt") for run in (found, expected))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    volatile = ("train_seconds", "eval_seconds")
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k not in volatile}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (found, expected)
    ]
    assert lines[0] == lines[1]
    assert (found / "result.json").read_text() == (expected / "result.json").read_text()


def left_alone(tmp_path_factory, text):
    """The folder of a run of this recipe that nothing happened to."""
    folder = tmp_path_factory.mktemp("untouched")
    (folder / "tiny.yaml").write_text(text)
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "tiny-s0"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE)


def kill_and_resume(folder, text, *kills, between=None):
    """The folder of a run that was killed at each of these moments in turn, resumed after each, and went through at last.

    Counts are those of a process: steps, or writes, since it began. A chain of kills asks more of a resume than one kill does,
    since a small fault adds up, and every process less costs a compilation less. `between` gets the folder after every kill.
    """
    (folder / "tiny.yaml").write_text(text)
    found = folder / "runs" / "tiny-s0"
    for number, (moment, count) in enumerate(kills):
        killed = run(folder, moment, count, *(["--resume"] if number else []))
        assert killed.returncode == -signal.SIGKILL, (moment, count, killed.stdout + killed.stderr)
        assert not number or f"resumed from {found}" in killed.stdout
        assert not (found / "result.json").exists()
        if between is not None:
            between(found)
    resumed = run(folder, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert f"resumed from {found}" in resumed.stdout
    return found


@pytest.mark.parametrize(
    "kills",
    [
        # in the first epoch, in the middle of an epoch of stage 1 (step 8), and of stage 2 (step 19)
        [("step", 2), ("step", 6), ("step", 11)],
        [("before", 4), ("during", 5), ("after", 4), ("renamed", 5)],  # a write goes with every step
        [("best", 2)],
    ],
)
def test_killed_and_resumed_equals_untouched(untouched, tmp_path, kills):
    assert_same_run(kill_and_resume(tmp_path, RECIPE, *kills), untouched)


@pytest.fixture(scope="module")
def cut_short(tmp_path_factory):
    """The folder around a run that was killed after eight steps; to be copied."""
    folder = tmp_path_factory.mktemp("cut_short")
    (folder / "tiny.yaml").write_text(RECIPE)
    assert run(folder, "step", 8).returncode == -signal.SIGKILL
    return folder


def test_one_and_two_threads_give_the_same_weights(untouched, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    done = run(tmp_path, "none", 0, "--set", "workers=1")
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path / "runs" / "tiny-s0", untouched)


def test_sigterm_saves_and_says_how_to_go_on(untouched, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("every_minutes: 0.00001", "every_minutes: null"))
    command = [
        sys.executable,
        HERE.parent / "train.py",
        "--config",
        tmp_path / "tiny.yaml",
        "--runs",
        tmp_path / "runs",
    ]
    with subprocess.Popen(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path
    ) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/3"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "Continue with: --resume" in rest
    found = tmp_path / "runs" / "tiny-s0"
    done = subprocess.run(
        [sys.executable, HERE.parent / "train.py", "--resume", found], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert_same_run(found, untouched)


def test_a_truncated_checkpoint_is_passed_over_with_a_warning(untouched, cut_short, tmp_path):
    shutil.copytree(cut_short, tmp_path, dirs_exist_ok=True)
    last = tmp_path / "runs" / "tiny-s0" / "checkpoints" / "last.ckpt"
    os.truncate(last, last.stat().st_size - 1000)
    resumed = run(tmp_path, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "last.ckpt is damaged" in resumed.stderr
    assert "last-1.ckpt" in resumed.stdout
    assert_same_run(tmp_path / "runs" / "tiny-s0", untouched)
    assert (last.parent / ".damaged-last.ckpt").is_file()


def test_another_recipe_is_refused_with_the_keys_that_differ(cut_short, tmp_path):
    shutil.copytree(cut_short, tmp_path, dirs_exist_ok=True)
    refused = run(tmp_path, "none", 0, "--resume", "--set", "stages.one.optimizer.lr=0.07")
    assert refused.returncode == 2
    assert "stages.0.optimizer.lr: 0.05 -> 0.07" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_finished_run_is_left_alone_and_a_new_one_gets_a_sibling(untouched, tmp_path):
    folder = untouched.parent.parent
    before = (untouched / "result.json").stat().st_mtime_ns
    done = run(folder, "none", 0, "--resume")
    assert done.returncode == 0
    assert "is finished already" in done.stdout
    other = run(folder, "none", 0, "--resume", "--set", "stages.one.optimizer.lr=0.07")
    assert other.returncode == 2  # it is not what was asked for
    assert "stages.0.optimizer.lr: 0.05 -> 0.07" in other.stderr
    sibling = run(folder, "step", 1)
    assert sibling.returncode == -signal.SIGKILL
    assert (untouched.parent / "tiny-s0-2").is_dir()
    assert (untouched / "result.json").stat().st_mtime_ns == before


def test_eval_recomputes_the_same_numbers(untouched):
    for checkpoint in ("last", "best"):
        command = [sys.executable, HERE.parent / "eval.py", "--run", untouched, "--checkpoint", checkpoint]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "identical to result.json" in done.stdout
    missing = subprocess.run([*command[:-1], "stage-9"], capture_output=True, text=True)
    assert missing.returncode == 2
    assert "there are: best, last" in missing.stderr


def test_the_run_folder_is_complete(untouched):
    names = {p.name for p in untouched.iterdir()}
    assert {
        "recipe.yaml",
        "environment.json",
        "split.json",
        "metrics.jsonl",
        "result.json",
        "logits.npz",
        "report.md",
    } <= names
    assert len(list((untouched / "figures").glob("*.png"))) == 4
    split = json.loads((untouched / "split.json").read_text())
    assert sum(split["counts"]["train"]) == split["images"]["train"]
    assert min(split["counts"]["train"]) >= 1
    assert not list((untouched / "checkpoints").glob(".*"))  # no temporary file is left
    for checkpoint in ("last-1.ckpt", "last.ckpt"):
        assert (untouched / "checkpoints" / checkpoint).is_file()
    assert not (untouched / "checkpoints" / "last-2.ckpt").exists()


def test_a_stale_temporary_file_is_never_published(tmp_path):
    from mindspore import nn

    from ms_longtail.training import checkpoints

    cell = nn.Dense(2, 2)
    checkpoints.write_temporary(tmp_path / ".last.tmp.ckpt", cell, checkpoints.Position(draw=1))
    checkpoints.write_last(tmp_path, cell, checkpoints.Position(draw=2), keep=2)
    assert checkpoints.read(tmp_path / "last.ckpt")[1].draw == 2
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
    (tmp_path / ".best.tmp.ckpt").write_bytes(b"half of one")
    checkpoints.write(tmp_path / "best.ckpt", cell, checkpoints.Position(draw=3))
    assert checkpoints.read(tmp_path / "best.ckpt")[1].draw == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.ckpt", "last.ckpt"]


def test_a_damaged_checkpoint_does_not_take_the_place_of_the_whole_one(tmp_path):
    """After a resume from last-1.ckpt the next save moves last.ckpt there: it must not be the damaged one."""
    from mindspore import nn

    from ms_longtail.training import checkpoints

    cell = nn.Dense(2, 2)
    for draw in (1, 2):
        checkpoints.write_last(tmp_path, cell, checkpoints.Position(draw=draw), keep=2)
    (tmp_path / "last.ckpt").write_bytes(b"half of one")
    assert checkpoints.newest(tmp_path)[2].draw == 1  # whoever only reads changes nothing
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.ckpt", "last.ckpt"]
    assert checkpoints.newest(tmp_path, set_aside=True)[2].draw == 1
    checkpoints.write_last(tmp_path, cell, checkpoints.Position(draw=3), keep=2)
    assert [checkpoints.read(tmp_path / name)[1].draw for name in ("last.ckpt", "last-1.ckpt")] == [3, 1]
    assert (tmp_path / ".damaged-last.ckpt").read_bytes() == b"half of one"


def test_a_disk_that_fails_says_nothing_of_the_file(tmp_path, monkeypatch):
    from mindspore import nn

    from ms_longtail.training import checkpoints

    for draw in (1, 2):
        checkpoints.write_last(tmp_path, nn.Dense(2, 2), checkpoints.Position(draw=draw), keep=2)

    def failing(*_, **__):
        try:
            raise OSError(24, "Too many open files")
        except OSError as error:
            raise ValueError("Failed to read the checkpoint file") from error

    monkeypatch.setattr(checkpoints.ms, "load_checkpoint", failing)
    with pytest.raises(OSError, match="Too many open files"):
        checkpoints.newest(tmp_path, set_aside=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.ckpt", "last.ckpt"]


def test_the_best_epoch_is_kept_with_the_note_of_it(tmp_path):
    """Or a resume from an older checkpoint would name another epoch than the one whose weights best.ckpt holds."""
    from ms_longtail.training import checkpoints

    (tmp_path / "tiny.yaml").write_text(RECIPE)
    seldom = ("--set", "checkpoint.every_minutes=null", "checkpoint.every_epochs=5", "stages.one.epochs=6")
    assert run(tmp_path, "step", 8, *seldom).returncode == -signal.SIGKILL  # in the second epoch; the first is a record
    folder = tmp_path / "runs" / "tiny-s0" / "checkpoints"
    last, best = (checkpoints.read(folder / f"{name}.ckpt")[1] for name in ("last", "best"))
    assert last.epoch == best.epoch == 1
    assert last.best == best.best


def test_resume_refuses_other_images(cut_short, tmp_path):
    shutil.copytree(cut_short, tmp_path, dirs_exist_ok=True)
    split = tmp_path / "runs" / "tiny-s0" / "split.json"
    split.write_text(split.read_text().replace('"train_sha256": "', '"train_sha256": "0'))
    refused = run(tmp_path, "none", 0, "--resume")
    assert refused.returncode == 2
    assert "the images found now are not those of" in refused.stderr


def test_resume_takes_the_unfinished_run_of_this_very_recipe(cut_short, tmp_path):
    shutil.copytree(cut_short, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, "step", 1, "--set", "optimizer.lr=0.07").returncode == -signal.SIGKILL  # tiny-s0-2
    resumed = run(tmp_path, "step", 1, "--resume")
    assert f"resumed from {tmp_path}/runs/tiny-s0/checkpoints" in resumed.stdout
