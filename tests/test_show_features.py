"""`show features` on a run that was really trained: its files, its numbers from the kept features, and its mistakes."""

import json
import shutil
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest

from ms_longtail import cli, runtime
from ms_longtail.evaluation.geometry import geometry
from ms_longtail.run import features as run_features

RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 120, factor: 20}, validation: {share: 0.2}}
model: resnet8_cifar
batch: 32
sampler: {name: instance, num_samples: 128}
optimizer: {name: sgd, lr: 0.05}
stages:
  - {name: one, epochs: 1}
  - {name: two, epochs: 1, sampler: class_balanced}
"""


def draw(*words, quiet=True):
    quiet = ["--quiet"] if quiet else []
    return cli.main(["show", "features", *map(str, words), "--device", "cpu", "--debug", *quiet])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, mode = tmp_path_factory.mktemp("features"), ms.get_context("mode")
    (folder / "tiny.yaml").write_text(RECIPE)
    words = ["train", "--config", folder / "tiny.yaml", "--runs", folder / "runs", "--device", "cpu", "--debug"]
    assert cli.main([*map(str, words), "--quiet"]) == 0
    yield folder / "runs" / "tiny-s0"
    ms.set_context(mode=mode)


@pytest.fixture(scope="module")
def shown(run):
    """The numbers of the first call, with the picture beside them."""
    assert draw("--run", run, "--out", run.parent / "first.png") == 0
    return json.loads((run.parent / "first.json").read_text())


@pytest.fixture
def copy(run, shown, tmp_path):
    """The run with its kept features, to be changed; the present folder is another, empty one."""
    shutil.copytree(run, tmp_path / "copy")
    (tmp_path / "here").mkdir()
    return tmp_path / "copy"


@pytest.fixture
def here(copy, monkeypatch):
    monkeypatch.chdir(copy.parent / "here")
    return copy.parent / "here"


def kept(run, part="test"):
    with np.load(run / "posthoc" / "last" / f"{part}.npz") as file:
        return {name: file[name] for name in file.files}


def without_nan(values):
    return [None if np.isnan(value) else value for value in values]


def counts_of(run):
    return np.array(json.loads((run / "split.json").read_text())["counts"]["train"])


def agree(found, run, part):
    """That a file of numbers holds those of the kept features."""
    outputs = kept(run, part)
    expected = geometry(outputs["features"], outputs["labels"], counts_of(run))
    assert found["weights_sha256"] == str(outputs["weights"])
    assert found["dimensions"] == outputs["features"].shape[1]
    assert found["groups"] == expected["groups"]
    assert found["simplex"] == expected["simplex"]
    assert [row["alignment"] for row in found["classes"]] == without_nan(expected["alignment"])
    assert found["cosines"] == [without_nan(row) for row in expected["cosines"]]


def test_the_numbers_are_those_of_the_kept_features(run, shown):
    agree(shown, run, "test")
    assert (shown["picture"], shown["checkpoint"], shown["part"]) == ("features", "last", "test")
    assert shown["run"] == str(run)
    assert shown["simplex"] == -1 / 9
    assert cv2.imread(str(run.parent / "first.png")).shape[1] > 1000
    assert [row["train_images"] for row in shown["classes"]] == counts_of(run).tolist()
    assert {row["group"] for row in shown["classes"]} == {"medium", "few"}
    for c, row in enumerate(shown["classes"]):
        others = {name: value for name, value in enumerate(shown["cosines"][c]) if name != c}
        assert row["nearest"] == {"name": str(max(others, key=others.get)), "cosine": max(others.values())}


def test_kept_features_are_the_networks(run, shown):
    """Logits of a linear head are those of the features: what is measured is what the classifier sees."""
    outputs = kept(run)
    head = ms.load_checkpoint(str(run / "checkpoints" / "last.ckpt"))
    expected = outputs["features"] @ head["head.weight"].asnumpy().T + head["head.bias"].asnumpy()
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-4)


def test_a_second_call_reads_what_is_kept_and_says_the_same(copy, shown, here, monkeypatch, capsys):
    monkeypatch.setattr(run_features.Outputs, "_compute", None)
    Path("features.json").write_text(json.dumps(shown | {"simplex": 7}))  # its own file may be written anew
    assert draw("--run", copy, quiet=False) == 0
    out = capsys.readouterr().out
    assert "features of test were there" in out
    assert "cosine of a regular simplex: -0.111" in out
    assert f"{shown['groups']['few']['alignment']:.3f}" in out
    found = json.loads((here / "features.json").read_text())
    assert {**found, "run": shown["run"]} == shown
    assert sorted(path.name for path in here.iterdir()) == ["features.json", "features.png"]


@pytest.mark.parametrize("part", ["train", "validation"])
def test_other_parts_and_checkpoints(copy, here, part):
    shutil.copy(copy / "checkpoints" / "stage-1-one.ckpt", copy / "checkpoints" / "last.ckpt")
    (copy / "result.json").unlink()  # unfinished: training goes on
    assert draw("--run", copy, "--part", part, "--checkpoint", "last.ckpt", "--out", "other.PNG") == 0
    found = json.loads((here / "other.json").read_text())
    assert (found["part"], found["checkpoint"]) == (part, "last")
    agree(found, copy, part)
    images = json.loads((copy / "split.json").read_text())["counts"][part]
    assert [row["images"] for row in found["classes"]] == images


def test_other_weights_are_other_numbers(copy, shown, here):
    assert draw("--run", copy, "--checkpoint", "stage-1-one") == 0
    found = json.loads((here / "features.json").read_text())
    assert found["checkpoint"] == "stage-1-one"
    assert found["weights_sha256"] != shown["weights_sha256"]
    assert found["groups"] != shown["groups"]
    assert (copy / "posthoc" / "stage-1-one" / "test.npz").is_file()


def test_features_that_are_not_finite_are_refused(copy, here, capsys):
    outputs = kept(copy)
    outputs["features"][5, 1] = np.inf
    np.savez(copy / "posthoc" / "last" / "test.npz", **outputs)
    assert draw("--run", copy) == 2
    assert "the network has diverged" in capsys.readouterr().err
    assert not list(here.iterdir())


def spoil(copy, what):
    """Change the copied run, and the present folder, so that nothing can be shown."""
    split = json.loads((copy / "split.json").read_text())
    if what == "no checkpoint":
        shutil.rmtree(copy / "checkpoints")
    elif what == "no split":
        (copy / "split.json").unlink()
    elif what == "no validation":
        del split["counts"]["validation"]
    elif what == "one class":
        split["counts"]["test"] = [0, 50] + 8 * [0]
    elif what == "taken":
        Path("features.json").write_text('{"top1": 0.9}')
    elif what == "folder":
        Path("features.png").mkdir()
    if what != "no split":
        (copy / "split.json").write_text(json.dumps(split))


@pytest.mark.parametrize(
    ("what", "words", "message"),
    [
        ("no checkpoint", [], "copy has no checkpoint yet; let it train for an epoch first"),
        ("no split", [], "copy is not a whole run folder"),
        ("no validation", ["--part", "validation"], "copy has none; choose from test, train"),
        ("one class", [], "only 1 class has images in test"),
        ("taken", [], "the numbers would go to features.json, which holds something else"),
        ("folder", [], "features.png cannot be written"),
        ("", ["--checkpoint", "stage-9"], "stage-9.ckpt does not exist; there are: best, last"),
        ("", ["--out", "features.jpg"], "pictures are written as PNG"),
        ("", ["--out", "nowhere/features.png"], "the folder nowhere does not exist"),
        ("", ["--run", "nowhere"], "nowhere is not a run folder"),
    ],
)
def test_mistakes_end_with_status_2_before_any_work(copy, here, monkeypatch, capsys, what, words, message):
    spoil(copy, what)
    before = [path.name for path in here.iterdir()]
    monkeypatch.setattr(runtime, "start", None)  # no work
    assert draw("--run", copy, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in here.iterdir()] == before


def test_a_folder_where_nothing_can_be_written(copy, here, monkeypatch, capsys):
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert draw("--run", copy) == 2
    assert "features.png cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--run", "x", "--part", "all"], ["--config", "x.yaml"]])
def test_words_that_do_not_fit(words):
    with pytest.raises(SystemExit) as stop:
        draw(*words)
    assert stop.value.code == 2


def test_a_group_of_workers_is_refused(copy, here, monkeypatch, capsys):
    monkeypatch.setattr(runtime, "in_group", lambda: True)
    assert draw("--run", copy) == 2
    assert "start it without msrun" in capsys.readouterr().err
