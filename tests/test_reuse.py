"""Two runs that agree up to a stage: the second takes the first's stages, and ends with the very same weights."""

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn

from ms_longtail import recipe as recipes
from ms_longtail.console import Console
from ms_longtail.run import dataset, folder, reuse
from ms_longtail.run.plan import make_plan
from ms_longtail.training import checkpoints
from ms_longtail.training.checkpoints import Position

HERE = Path(__file__).parent
CONTENT = {
    "name": "a",
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}},
    "model": "resnet8_cifar",
    "batch": 16,
    "sampler": {"name": "instance", "num_samples": 96},
    "augment": ["crop"],
    "optimizer": {"name": "sgd", "lr": 0.05},
    "schedule": {"name": "cosine", "span": "run"},
    "stages": [
        {"name": "one", "epochs": 2},
        {"name": "two", "epochs": 1, "sampler": "class_balanced"},
        {"name": "three", "epochs": 1, "sampler": "square_root"},
    ],
}


def resolved(change=lambda content: None):
    """(recipe, data, plan) of the content with a change."""
    content = copy.deepcopy(CONTENT)
    change(content)
    recipe = recipes.from_map(content)
    data = dataset.load_data(recipe)
    return recipe, data, make_plan(recipe, data)


def agreeing(change):
    """How many first stages still agree."""
    ours, theirs = (
        reuse.marks(recipe, plan, data.description) for recipe, data, plan in (resolved(), resolved(change))
    )
    return next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))


def put(*path, value):
    def change(content):
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda content: None, 3),
        (put("name", value="other"), 3),
        (put("description", value="words"), 3),
        (put("workers", value=1), 3),
        (put("checkpoint", value={"keep": 5}), 3),
        (put("seed", value=1), 0),
        (put("batch", value=32), 0),
        (put("clip_norm", value=1.0), 0),
        (put("evaluate_every", value=2), 0),
        (put("model", value={"name": "resnet8_cifar", "head": "cosine"}), 0),
        (put("data", "imbalance", "factor", value=6), 0),
        (put("data", "imbalance", "seed", value=1), 0),
        (put("data", "validation", value={"share": 0.2}), 0),
        (put("optimizer", "lr", value=0.06), 0),
        (put("stages", 0, "name", value="first"), 0),
        (put("stages", 1, "loss", value="focal"), 1),
        (put("stages", 1, "augment", value=[]), 1),
        (put("stages", 2, "sampler", value="class_balanced"), 2),
        (put("stages", 2, "epochs", value=2), 0),  # one cosine over the whole run
        (lambda content: content["stages"].pop(), 0),
    ],
)
def test_all_that_decides_the_weights_is_compared(change, stages):
    assert agreeing(change) == stages


def test_a_stage_that_knows_the_runs_length_agrees_only_with_equal_length():
    def constant(content, **sampler):
        content["schedule"] = "constant"
        content["stages"][0]["sampler"] = {"name": "progressive", **sampler}

    def longer(content):
        content["stages"][2]["epochs"] = 3

    for span, expected in (("stage", 2), ("run", 0)):
        both = []
        for change in (lambda content: None, longer):

            def changed(content, change=change, span=span):
                constant(content, span=span)
                change(content)

            recipe, data, plan = resolved(changed)
            both.append(reuse.marks(recipe, plan, data.description))
        assert [a == b for a, b in zip(*both, strict=True)].count(True) == expected


# ---- run folders made by hand


class Weights(nn.Cell):
    def __init__(self, value):
        super().__init__()
        self.weight = Parameter(Tensor(np.full((2, 3), value, np.float32)), name="weight")
        self.count = Parameter(Tensor(int(value), ms.int32), name="count")


def made_by_hand(parent, change=lambda content: None, *, stages=3, best=None, **facts):
    """A run folder as if the first `stages` stages were trained: stage k's checkpoint is full of ks."""
    recipe, data, plan = resolved(change)
    home = folder.new_run(parent, recipe)
    home.create(recipe, data.description, folder.environment("cpu", 1, data_root="/somewhere") | facts)
    draw = 0
    for stage in plan[:stages]:
        for epoch in range(1, stage.stage.epochs + 1):
            draw += stage.epoch_draws
            line = {"stage": stage.number + 1, "epoch": epoch, "draw": draw, "unreadable_images": 0}
            home.append_metrics(line)
        position = Position(stage.number, stage.stage.epochs, 0, draw, best, recipes.fingerprint(recipe))
        checkpoints.write(home.checkpoints / f"{stage.label}.ckpt", Weights(stage.number + 1), position)
        checkpoints.write_last(home.checkpoints, Weights(stage.number + 1), position, 2)
    return home


OTHER_END = put("stages", 2, "loss", value="focal")


def beginning(tmp_path, change=OTHER_END, stages=0, parent="there"):
    """(whether something was taken over, the folder, its newest checkpoint) of a new run."""
    recipe, data, plan = resolved(change)
    home = made_by_hand(tmp_path / "here", change, stages=stages)
    parent = None if parent is None else tmp_path / parent
    taken = reuse.begin(parent, recipe, data, plan, home, Console(quiet=True))
    return taken, home, checkpoints.newest(home.checkpoints)


def test_the_longest_beginning_is_taken(tmp_path):
    made_by_hand(tmp_path / "there", put("stages", 1, "loss", value="focal"))  # one stage agrees
    other = made_by_hand(tmp_path / "there", put("name", value="two_agree"))
    taken, home, (_, parameters, position) = beginning(tmp_path)
    assert taken
    np.testing.assert_array_equal(parameters["weight"].asnumpy(), np.full((2, 3), 2))
    assert parameters["count"].shape == ()
    recipe, _, plan = resolved(OTHER_END)
    assert (position.stage, position.epoch, position.step, position.draw) == (1, 1, 0, plan[2].first_draw)
    assert position.fingerprint == recipes.fingerprint(recipe)
    assert {p.stem for p in home.checkpoints.iterdir()} == {"last", "stage-1-one", "stage-2-two"}
    assert home.read_metrics() == other.read_metrics()[:3]
    assert reuse.stages_taken(home) == ["one", "two"]
    assert str(other.path) in reuse.note(home)


def test_a_damaged_stage_is_taken_from_another_run(tmp_path):
    first = made_by_hand(tmp_path / "there", put("name", value="a1"))
    second = made_by_hand(tmp_path / "there", put("name", value="a2"))
    os.truncate(first.checkpoints / "stage-2-two.ckpt", 100)
    _, home, _ = beginning(tmp_path)
    assert reuse.stages_taken(home) == ["one", "two"]
    assert str(second.path) in reuse.note(home)


def test_stages_of_several_workers_are_not_taken(tmp_path):
    run = made_by_hand(tmp_path / "there", stages=1)
    position = checkpoints.read(run.checkpoints / "stage-1-one.ckpt")[1]
    position.ranks = 2
    checkpoints.write(run.checkpoints / "stage-1-one.ckpt", Weights(1), position)
    assert not beginning(tmp_path)[0]


def test_the_last_stage_is_always_trained(tmp_path):
    made_by_hand(tmp_path / "there")
    assert beginning(tmp_path, lambda content: None)[2][2].stage == 1


def test_a_run_with_a_checkpoint_of_its_own_is_left_alone(tmp_path):
    made_by_hand(tmp_path / "there")
    taken, home, (_, parameters, _) = beginning(tmp_path, stages=1)
    assert not taken
    assert parameters["count"].asnumpy() == 1
    assert not reuse.stages_taken(home)


@pytest.mark.parametrize(
    "facts", [{"processor": "other"}, {"device": "gpu"}, {"mode": "PyNative"}, {"source": "x"}, {"data_root": "/x"}]
)
def test_another_machine_is_not_taken_from(tmp_path, facts):
    made_by_hand(tmp_path / "there", **facts)
    assert not beginning(tmp_path)[0]


@pytest.mark.parametrize(
    ("damage", "stages"),
    [
        (lambda run: os.truncate(run.checkpoints / "stage-2-two.ckpt", 100), 1),
        (lambda run: (run.checkpoints / "stage-1-one.ckpt").unlink(), 0),
        (lambda run: os.truncate(run.checkpoints / "stage-3-three.ckpt", 100), 2),
        (lambda run: run.keep_metrics_until(run.read_metrics()[1]["draw"]), 1),
        (lambda run: run.metrics.unlink(), 0),
        (lambda run: run.write_unreadable({3: "of a later stage"}), 0),
        (lambda run: (run.path / "recipe.yaml").write_text("name: [1"), 0),
        (lambda run: (run.path / "environment.json").unlink(), 0),
        (lambda run: folder.write_json(run.path / "split.json", {"train_sha256": "0"}), 0),
    ],
)
def test_only_what_is_whole_is_taken(tmp_path, damage, stages):
    damage(made_by_hand(tmp_path / "there"))
    taken, home, _ = beginning(tmp_path)
    assert len(reuse.stages_taken(home)) == stages
    assert taken == bool(stages)


def test_one_flipped_bit_is_noticed(tmp_path):
    path = made_by_hand(tmp_path / "there", stages=1).checkpoints / "stage-1-one.ckpt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.chmod(0o600)
    path.write_bytes(content)
    assert not beginning(tmp_path)[0]


def test_a_checkpoint_of_another_recipe_is_not_taken(tmp_path):
    run = made_by_hand(tmp_path / "there", stages=1)
    position = checkpoints.read(run.checkpoints / "stage-1-one.ckpt")[1]
    position.fingerprint = "0" * 64
    checkpoints.write(run.checkpoints / "stage-1-one.ckpt", Weights(1), position)
    assert not beginning(tmp_path)[0]


def test_the_best_weights_come_along_if_they_are_there_still(tmp_path):
    best = {"value": 0.5, "stage": 1, "epoch": 2}
    run = made_by_hand(tmp_path / "there", best=best)
    assert not beginning(tmp_path)[0]  # there is no best.ckpt
    position = Position(0, 2, 0, resolved()[2][1].first_draw, best, "x")
    checkpoints.write(run.checkpoints / "best.ckpt", Weights(7), position)
    taken, home, (_, _, position) = beginning(tmp_path)
    assert taken
    assert position.best == best
    assert checkpoints.read(home.checkpoints / "best.ckpt")[0]["count"].asnumpy() == 7
    later = Position(2, 1, 0, 10**6, {"value": 0.6, "stage": 3, "epoch": 1}, "x")
    checkpoints.write(run.checkpoints / "best.ckpt", Weights(8), later)
    assert not beginning(tmp_path)[0]


def test_a_kill_before_the_end_leaves_a_run_that_has_not_begun(tmp_path, monkeypatch):
    made_by_hand(tmp_path / "there")

    def killed(path, cell, position):
        if path.stem == "last":
            raise KeyboardInterrupt
        checkpoints.write(path, cell, position)

    monkeypatch.setattr(reuse, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        beginning(tmp_path)
    monkeypatch.undo()
    recipe, data, plan = resolved(OTHER_END)
    home = folder.to_resume(tmp_path / "here", recipe)
    assert checkpoints.newest(home.checkpoints) is None
    assert not reuse.begin(None, recipe, data, plan, home, Console(quiet=True))
    assert not reuse.stages_taken(home)
    assert reuse.begin(tmp_path / "there", recipe, data, plan, home, Console(quiet=True))
    assert len(home.read_metrics()) == 3


# ---- real runs


def run(place, name, runs, *arguments, moment="none", count=0):
    command = [sys.executable, HERE / "killable.py", moment, str(count), "--", "--config", place / f"{name}.yaml"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(
        [*command, "--runs", place / runs, "--device", "cpu", *arguments],
        capture_output=True, text=True, env=environment, cwd=place,
    )  # fmt: skip
    assert done.returncode == (0 if moment == "none" else -signal.SIGKILL), done.stderr
    return done.stdout


def parameters(path):
    return {k: v.asnumpy() for k, v in ms.load_checkpoint(str(path)).items() if hasattr(v, "asnumpy")}


def lines(path):
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith("_seconds")}
        for line in (path / "metrics.jsonl").read_text().splitlines()
    ]


def assert_same_run(found, expected):
    names = {path.name for path in (expected / "checkpoints").glob("*.ckpt")}
    assert {path.name for path in (found / "checkpoints").glob("*.ckpt")} == names
    for name in names:
        a, b = (parameters(path / "checkpoints" / name) for path in (found, expected))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    assert lines(found) == lines(expected)
    assert (found / "result.json").read_text() == (expected / "result.json").read_text()


VARIANTS = {
    # Momentum and the loss's memory go on from stage to stage.
    "one schedule": ({"loss": "eqlv2"}, {}),
    "fresh": ({"optimizer": {"name": "adam", "lr": 0.01}, "schedule": "constant"}, {"start": "fresh"}),
    "teacher": ({"data": {**CONTENT["data"], "validation": {"share": 0.2}}}, {"loss": "kd", "teacher": "one"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_takes_stages_over_equals_one_that_does_not(tmp_path, variant):
    top, last = VARIANTS[variant]
    for name, stage in (
        ("a", {"name": "two", "sampler": {"name": "reversed", "num_samples": 96}}),
        ("b", {"name": "three", **last}),
    ):
        content = CONTENT | top | {"name": name, "stages": [CONTENT["stages"][0], {"epochs": 1, **stage}]}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(content))
    steps = 2 * resolved(lambda content: content.update(top))[2][0].steps_per_epoch
    if variant == "one schedule":
        run(tmp_path, "a", "runs")
    else:
        run(tmp_path, "a", "runs", moment="step", count=steps)  # it ends with the stage that is taken over
    run(tmp_path, "b", "alone")
    said = run(tmp_path, "b", "runs", "--reuse", tmp_path / "runs")
    assert "Stage one was not trained again" in said
    assert "epoch 1/2" not in said
    found = tmp_path / "runs" / "b-s0"
    assert_same_run(found, tmp_path / "alone" / "b-s0")
    assert "Stage one was not trained again" in (found / "report.md").read_text()
    if variant == "one schedule":
        run(tmp_path, "b", "runs", "--reuse", tmp_path / "runs", moment="step", count=3)
        again = tmp_path / "runs" / "b-s0-2"
        assert json.loads((again / "reused.json").read_text())["stages"] == ["one"]
        assert "resumed from" in run(tmp_path, "b", "runs", "--resume", again)
        assert_same_run(again, tmp_path / "alone" / "b-s0")


def test_reuse_needs_a_folder(tmp_path):
    command = [sys.executable, HERE.parent / "train.py", "--reuse", "nowhere", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2
    assert "--reuse nowhere: this folder does not exist" in done.stderr
    assert not list(tmp_path.iterdir())
