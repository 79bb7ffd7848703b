"""The verb `posthoc` on runs that were really trained: every row of its table from what it keeps, and mistakes."""

import gc
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_longtail import cli
from ms_longtail.evaluation import evaluate
from ms_longtail.evaluation.retrain import RETRAINED, train
from ms_longtail.training import checkpoints

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
METHODS = ["plain", "tau_norm", "logit_adjustment", "ncm", "crt", "lws", "disalign"]
PARTS = ("train", "validation", "test")
RECIPE = f"""
name: NAME
base: {ROOT}/configs/_base_/digits_lt.yaml
data: {{validation: {{share: 0.2}}}}
sampler: {{num_samples: 160}}
optimizer: {{lr: 0.05}}
stages:
"""
BOTH = "  - {name: represent, epochs: 4}\n  - {name: rebalance, epochs: 1, sampler: {name: class_balanced}}\n"
SHORT = "  - {name: only, epochs: 1, sampler: {num_samples: 64}}\n"


@pytest.fixture(scope="module", autouse=True)
def pynative():
    """A few steps are soonest done without compiling; posthoc then has to give the same bits as training did."""
    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


def trained(folder, name, stages, *settings):
    """The folder of a finished run."""
    (folder / f"{name}.yaml").write_text(RECIPE.replace("NAME", name) + stages)
    words = ["train", "--config", folder / f"{name}.yaml", "--runs", folder / "runs", "--device", "cpu", "--debug"]
    assert cli.main([*map(str, words), "--quiet", *(["--set", *settings] if settings else [])]) == 0
    return folder / "runs" / f"{name}-s0"


def posthoc(*words, mode="--debug"):
    return cli.main(["posthoc", "--device", "cpu", *([mode] if mode else []), *map(str, words)])


def results(folder):
    """Method -> its result, as a run keeps them; of the newest call, since nothing is overwritten."""
    newest = max(folder.glob("posthoc*.json"), key=lambda path: path.stat().st_mtime_ns)
    content = json.loads(newest.read_text())
    return {result["method"]: result for result in content["results"]}


def timeless(found):
    return {method: {k: v for k, v in result.items() if k != "seconds"} for method, result in found.items()}


def kept(folder, part):
    with np.load(folder / f"{part}.npz") as file:
        return file["features"], file["logits"], file["labels"]


def weights(checkpoint):
    """W and b of a checkpoint's classifier, in float64."""
    loaded = ms.load_checkpoint(str(checkpoint))
    return tuple(loaded[f"head.{name}"].asnumpy().astype(np.float64) for name in ("weight", "bias"))


def cells(document):
    """Method -> column -> text of a table in Markdown."""
    lines = [line for line in document.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]}


def balanced(logits, labels):
    """Mean over the classes that have an image, by a loop."""
    shares = [
        np.mean([int(np.argmax(z)) == c for z, y in zip(logits, labels, strict=True) if y == c]) for c in set(labels)
    ]
    return float(np.mean(shares))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("posthoc")


@pytest.fixture(scope="module")
def run(home):
    return trained(home, "two", BOTH)


@pytest.fixture(scope="module")
def said(run):
    """What the first call printed, made as a person makes it."""
    words = ["--run", run, "--methods", "all", "--device", "cpu", "--debug"]
    command = [sys.executable, "-m", "ms_longtail", "posthoc", *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=run.parent, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def table(run, said):
    """Method -> result of that call."""
    return results(run / "posthoc" / "last")


@pytest.fixture(scope="module")
def other(home):
    """A second run, hardly trained."""
    return trained(home, "other", SHORT, "seed=0", "optimizer.lr=0.02")


@pytest.fixture(scope="module")
def sibling(run, home):
    """The first run's recipe with another seed."""
    trained(home, "two", BOTH, "seed=1")
    return run.with_name("two-s1")


@pytest.fixture(scope="module")
def bare(home):
    """A run without a validation part."""
    return trained(home, "bare", SHORT, "data.validation.share=0")


@pytest.fixture(scope="module")
def cosine(home):
    return trained(home, "cosine", SHORT, "model={name: resnet8_cifar, head: cosine}")


@pytest.fixture
def copy(run, said, tmp_path):
    """The first run with its features in another place, for what changes them."""
    return Path(shutil.copytree(run, tmp_path / "copy"))


# ---- what is written


def test_features_results_table_and_picture_are_written(run, said, table):
    folder = run / "posthoc" / "last"
    files = {"train.npz", "validation.npz", "test.npz", "posthoc.json", "posthoc.md", "tau.png"}
    assert {path.name for path in folder.iterdir()} == files
    computed = re.search(r"features of ([\w, ]+) computed", said)
    assert sorted(computed.group(1).split(", ")) == sorted(PARTS)
    assert list(table) == METHODS
    picture = cv2.imread(str(folder / "tau.png"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    document = (folder / "posthoc.md").read_text()
    rows = cells(document)
    assert list(rows) == METHODS
    for method, result in table.items():
        assert rows[method]["setting"] == result["setting"]
        for key, title in (("top1", "top-1"), ("balanced", "balanced"), ("few", "few"), ("ece", "ECE")):
            value = result["scores"][key]
            assert rows[method][title] == ("n/a" if value is None else f"{100 * value:.2f}")
        assert rows[method]["validation, balanced"] == f"{100 * result['validation']:.2f}"
    assert f"posthoc --run {run} --methods all" in document  # the command that makes it again


def test_the_plain_row_is_the_last_row_of_the_run(run, table):
    assert table["plain"]["scores"] == json.loads((run / "result.json").read_text())["last"]


def test_what_is_kept_is_what_the_network_says(run, table):
    images = json.loads((run / "split.json").read_text())["images"]
    w, b = weights(run / "checkpoints" / "last.ckpt")
    for part in PARTS:
        features, logits, labels = kept(run / "posthoc" / "last", part)
        assert len(features) == len(logits) == len(labels) == images[part]
        assert features.dtype == logits.dtype == np.float32
        if part == "train":  # its logits are nobody's business
            assert logits.shape[1] == 0
            continue
        np.testing.assert_allclose(features.astype(np.float64) @ w.T + b, logits, rtol=0, atol=1e-4)
        assert np.abs(logits).max() > 0.1
    with np.load(run / "logits.npz") as file:
        np.testing.assert_array_equal(file["logits"], logits)
        np.testing.assert_array_equal(file["labels"], labels)


# ---- rows against what is kept


def corrected(method, logits, tau, run):
    w, b = weights(run / "checkpoints" / "last.ckpt")
    if method == "tau_norm":
        return (logits - b) / np.linalg.norm(w, axis=1) ** tau
    counts = np.array(json.loads((run / "split.json").read_text())["counts"]["train"])
    return logits - tau * np.log(counts / counts.sum())


@pytest.mark.parametrize("method", ["tau_norm", "logit_adjustment"])
def test_a_strength_is_chosen_on_the_validation_part_alone(run, table, method):
    result, folder = table[method], run / "posthoc" / "last"
    taus = [tau for tau, _ in result["curve"]]
    assert taus == pytest.approx(np.arange(21) / 10)
    _, logits, labels = kept(folder, "validation")
    values = [balanced(corrected(method, logits, tau, run), labels) for tau in taus]
    assert [value for _, value in result["curve"]] == pytest.approx(values, abs=1e-9)
    best = next(tau for tau, value in result["curve"] if value == max(v for _, v in result["curve"]))
    assert result["setting"] == f"tau {best:g}, chosen on validation"
    assert result["validation"] == dict(result["curve"])[best]
    _, logits, labels = kept(folder, "test")
    assert result["scores"]["balanced"] == pytest.approx(balanced(corrected(method, logits, best, run), labels))
    assert len(set(values)) > 1  # the choice is one


def test_the_nearest_class_mean_is_that_of_the_training_images(run, table):
    features, _, labels = kept(run / "posthoc" / "last", "train")
    features = features.astype(np.float64)
    mean = features.mean(axis=0)

    def unit(f):
        return (f - mean) / np.linalg.norm(f - mean, axis=1, keepdims=True)

    means = np.array([unit(features[labels == c]).mean(axis=0) for c in range(10)])
    for part, value in (("test", "scores"), ("validation", "validation")):
        f, _, truth = kept(run / "posthoc" / "last", part)
        distance = np.linalg.norm(unit(f.astype(np.float64))[:, None] - means, axis=2)
        found = table["ncm"][value]
        assert (found["balanced"] if part == "test" else found) == pytest.approx(balanced(-distance, truth))
    assert table["ncm"]["scores"]["ece"] is None


@pytest.mark.parametrize("method", RETRAINED)
def test_trained_methods_see_the_training_images_alone(run, table, method):
    features, _, labels = kept(run / "posthoc" / "last", "train")
    w, b = weights(run / "checkpoints" / "last.ckpt")
    classifier = train(RETRAINED[method](w, b), features, labels, epochs=30, rho=1.2, seed=0)
    f, _, truth = kept(run / "posthoc" / "last", "test")
    counts = np.bincount(labels, minlength=10)
    expected = evaluate(classifier.logits(f.astype(np.float64)), truth, counts)
    for key in ("top1", "top5", "medium", "few", "balanced", "ece", "per_class"):
        assert table[method]["scores"][key] == pytest.approx(expected[key], abs=1e-5)
    text = "30 epochs, lr 0.1" + (", rho 1.2" if method == "disalign" else "")
    assert table[method]["setting"] == text


def test_settings_of_the_trained_methods_are_taken(copy, table):
    words = ["--methods", "crt,disalign", "--epochs", "3", "--lr", "0.02", "--rho", "0.5", "--seed", "7"]
    assert posthoc("--run", copy, *words) == 0
    found = results(copy / "posthoc" / "last")
    assert list(found) == ["plain", "crt", "disalign"]
    assert found["crt"]["setting"] == "3 epochs, lr 0.02"
    assert found["disalign"]["setting"] == "3 epochs, lr 0.02, rho 0.5"
    features, _, labels = kept(copy / "posthoc" / "last", "train")
    f, _, truth = kept(copy / "posthoc" / "last", "test")
    w, b = weights(copy / "checkpoints" / "last.ckpt")
    for method in ("crt", "disalign"):
        classifier = train(RETRAINED[method](w, b, 7), features, labels, epochs=3, lr=0.02, rho=0.5, seed=7)
        value = balanced(classifier.logits(f.astype(np.float64)), truth)
        assert found[method]["scores"]["balanced"] == pytest.approx(value)


@pytest.mark.parametrize("keep", [False, True])
def test_a_strength_that_is_given_is_not_searched(copy, tmp_path, keep):
    (copy / "posthoc" / "last" / "tau.png").unlink()
    out = tmp_path / "new" / "folder"
    words = ["--methods", "tau_norm", "--tau", "1", "--out", out, *(["--keep-bias"] if keep else [])]
    assert posthoc("--run", copy, *words) == 0
    found = results(copy / "posthoc" / "last")["tau_norm"]
    assert found["setting"] == "tau 1"
    assert found["curve"] == []
    w, b = weights(copy / "checkpoints" / "last.ckpt")
    features, _, labels = kept(copy / "posthoc" / "last", "test")
    expected = features.astype(np.float64) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T + (b if keep else 0)
    assert found["scores"]["balanced"] == pytest.approx(balanced(expected, labels))
    assert [path.name for path in out.iterdir()] == ["posthoc.md"]
    assert f"bias {'kept' if keep else 'dropped'}" in (out / "posthoc.md").read_text()


# ---- what is kept is used again, as long as it is of these weights


def test_a_second_call_finds_the_features_and_gives_the_same_numbers(copy, table, capsys):
    folder = copy / "posthoc" / "last"
    before = {part: (folder / f"{part}.npz").stat().st_mtime_ns for part in PARTS}
    assert posthoc("--run", copy) == 0
    out = capsys.readouterr().out
    assert "features were there" in out
    assert "computed" not in out
    assert timeless(results(folder)) == timeless(table)
    assert {part: (folder / f"{part}.npz").stat().st_mtime_ns for part in PARTS} == before


def test_features_of_other_weights_are_computed_again(copy, table, capsys):
    folder = copy / "posthoc" / "last"
    with np.load(folder / "train.npz") as file:
        content = {name: file[name] for name in file.files}
    assert str(content["weights"]) == json.loads((folder / "posthoc.json").read_text())["weights_sha256"]
    np.savez(folder / "train.npz", **content | {"weights": "0" * 64, "features": 0 * content["features"]})
    assert posthoc("--run", copy) == 0
    assert "features of train computed" in capsys.readouterr().out
    assert timeless(results(folder)) == timeless(table)
    np.testing.assert_array_equal(kept(folder, "train")[0], content["features"])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_that_is_not_whole_is_computed_again(copy, table, capsys, share):
    path = copy / "posthoc" / "last" / "validation.npz"
    whole = kept(path.parent, "validation")
    os.truncate(path, int(share * path.stat().st_size))
    assert posthoc("--run", copy, "--methods", "plain", "logit_adjustment") == 0
    gc.collect()  # a file that was left open would be told of now
    assert "features of validation computed" in capsys.readouterr().out
    for found, expected in zip(kept(path.parent, "validation"), whole, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_each_checkpoint_has_a_place_of_its_own(copy, table, capsys):
    assert posthoc("--run", copy, "--checkpoint", "stage-1-represent", "--methods", "plain", "ncm") == 0
    assert "features of test, validation, train computed" in capsys.readouterr().out
    found = results(copy / "posthoc" / "stage-1-represent")
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    stage = [line for line in lines if line["stage"] == 1][-1]
    assert found["plain"]["scores"]["top1"] == stage["test"]["top1"]
    assert found["plain"]["scores"]["top1"] != table["plain"]["scores"]["top1"]
    assert "checkpoint `stage-1-represent`" in (copy / "posthoc" / "stage-1-represent" / "posthoc.md").read_text()
    # The same weights under the name `last`: what is kept there is no longer theirs.
    shutil.copy(copy / "checkpoints" / "stage-1-represent.ckpt", copy / "checkpoints" / "last.ckpt")
    assert posthoc("--run", copy, "--methods", "plain", "ncm") == 0
    assert "features of test, validation, train computed" in capsys.readouterr().out
    assert timeless(results(copy / "posthoc" / "last")) == timeless(found)


def test_graph_mode_says_the_same(run, copy, table):
    shutil.rmtree(copy / "posthoc")
    assert posthoc("--run", copy, "--methods", "plain", mode=None) == 0
    for a, b in zip(*(kept(folder / "posthoc" / "last", "test") for folder in (run, copy)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    assert not (copy / "posthoc" / "last" / "train.npz").exists()  # no method asked for the training images


# ---- several runs


def test_two_runs_make_one_table_with_mean_and_spread(copy, sibling, tmp_path, capsys):
    out = tmp_path / "table"
    assert posthoc("--run", copy, sibling, copy, "--methods", "tau_norm", "ncm", "--out", out) == 0
    assert capsys.readouterr().out.count("kept in") == 2  # a run that is named twice is one run
    both = [results(run / "posthoc" / "last") for run in (copy, sibling)]
    rows = cells((out / "posthoc.md").read_text())
    assert list(rows) == ["plain", "tau_norm", "ncm"]
    for method, row in rows.items():
        assert row["n"] == "2"
        numbers = {
            title: [r[method]["scores"][key] for r in both] for key, title in (("top1", "top-1"), ("few", "few"))
        }
        numbers["validation, balanced"] = [r[method]["validation"] for r in both]
        for title, values in numbers.items():
            spread = statistics.stdev(values)
            assert row[title] == f"{100 * statistics.mean(values):.2f} ± {100 * spread:.2f}"
            assert spread > 0
        settings = dict.fromkeys(r[method]["setting"] for r in both)
        assert row["setting"] == " / ".join(settings)
    assert {path.name for path in out.iterdir()} == {"posthoc.md", "tau.png"}


# ---- runs that cannot take every method


def test_without_a_validation_part_a_strength_is_asked_for(bare, copy, capsys):
    shutil.rmtree(copy / "posthoc")
    for words in ([bare], [bare, "--methods", "logit_adjustment"], [copy, bare, "--methods", "all"]):
        assert posthoc("--run", *words) == 2
        message = capsys.readouterr().err
        assert "data.validation.share" in message
        assert "--tau" in message
        assert str(bare) in message
        assert not (bare / "posthoc").exists()
        assert not (copy / "posthoc").exists()  # nothing is begun before all is known to be possible


def test_without_a_validation_part_but_with_a_strength(bare):
    assert posthoc("--run", bare, "--tau", "1") == 0
    found = results(bare / "posthoc" / "last")
    assert list(found) == METHODS
    assert {result["validation"] for result in found.values()} == {None}
    assert found["tau_norm"]["setting"] == found["logit_adjustment"]["setting"] == "tau 1"
    _, logits, labels = kept(bare / "posthoc" / "last", "test")
    expected = balanced(corrected("tau_norm", logits, 1, bare), labels)
    assert found["tau_norm"]["scores"]["balanced"] == pytest.approx(expected)
    assert {path.name for path in (bare / "posthoc" / "last").iterdir()} == {
        "train.npz",
        "test.npz",
        "posthoc.json",
        "posthoc.md",
    }
    assert cells((bare / "posthoc" / "last" / "posthoc.md").read_text())["ncm"]["validation, balanced"] == "n/a"


def test_without_a_validation_part_ncm_needs_nothing_more(bare):
    assert posthoc("--run", bare, "--methods", "ncm") == 0
    assert list(results(bare / "posthoc" / "last")) == ["plain", "ncm"]


@pytest.mark.parametrize("method", ["tau_norm", *RETRAINED])
def test_a_cosine_head_refuses_what_is_defined_for_a_linear_one(cosine, capsys, method):
    shutil.rmtree(cosine / "posthoc", ignore_errors=True)
    assert posthoc("--run", cosine, "--methods", method) == 2
    message = capsys.readouterr().err
    assert f"{method} needs a linear classifier" in message
    assert "model.head: cosine" in message
    assert not (cosine / "posthoc").exists()


def test_all_leaves_out_what_a_cosine_head_cannot_take(cosine):
    assert posthoc("--run", cosine) == 0
    found = results(cosine / "posthoc" / "last")
    assert list(found) == ["plain", "logit_adjustment", "ncm"]
    assert found["plain"]["scores"] == json.loads((cosine / "result.json").read_text())["last"]


def test_one_table_is_of_one_recipe(cosine, other, tmp_path, capsys):
    assert posthoc("--run", other, cosine, "--out", tmp_path / "table") == 2
    assert "one table is of one recipe" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


def test_settings_that_nothing_takes_are_refused(other, capsys):
    for words in (["--tau", "1"], ["--keep-bias"], ["--lr", "0.1"]):
        assert posthoc("--run", other, "--methods", "ncm", *words) == 2
        assert words[0] in capsys.readouterr().err


def test_the_scales_of_an_lws_head_belong_to_its_weights(home):
    run = trained(home, "scaled", SHORT, "model={name: resnet8_cifar, head: lws}")
    path = run / "checkpoints" / "last.ckpt"
    parameters, position = checkpoints.read(path)
    scale = parameters["head.calibration.scale"]
    assert np.ptp(scale.asnumpy()) > 0  # they were trained with the rest, but for a few steps only
    scale.set_data(Tensor(np.linspace(0.2, 3, 10), ms.float32))
    checkpoints.write(path, SimpleNamespace(get_parameters=parameters.values), position)
    assert posthoc("--run", run, "--tau", "1.5", "--methods", "tau_norm", "lws") == 0
    raw, offset = weights(path)
    scale = scale.asnumpy().astype(np.float64)
    w, b = raw * scale[:, None], offset * scale
    features, logits, labels = kept(run / "posthoc" / "last", "test")
    features = features.astype(np.float64)
    np.testing.assert_allclose(features @ w.T + b, logits, rtol=0, atol=1e-4)
    found = results(run / "posthoc" / "last")
    expected = features @ (w / np.linalg.norm(w, axis=1, keepdims=True) ** 1.5).T
    assert found["tau_norm"]["scores"]["balanced"] == pytest.approx(balanced(expected, labels))
    unscaled = features @ (raw / np.linalg.norm(raw, axis=1, keepdims=True) ** 1.5).T
    assert balanced(expected, labels) != balanced(unscaled, labels)
    f, _, truth = kept(run / "posthoc" / "last", "train")
    classifier = train(RETRAINED["lws"](w, b), f, truth, epochs=30)
    value = balanced(classifier.logits(features), labels)
    assert found["lws"]["scores"]["balanced"] == pytest.approx(value)


# ---- mistakes


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "tau_nrom"], "--methods tau_nrom: not known (did you mean 'tau_norm'?)"),
        (["--methods", "ncm,ctr"], "--methods ctr: not known (did you mean 'crt'?)"),
        (["--checkpoint", "stage-9"], "stage-9.ckpt does not exist; there are: best, last"),
        (["--epochs", "0"], "--epochs 0"),
    ],
)
def test_mistakes_end_with_status_2_before_any_work(copy, capsys, words, message):
    shutil.rmtree(copy / "posthoc")
    assert posthoc("--run", copy, *words) == 2
    assert message in capsys.readouterr().err
    assert not (copy / "posthoc").exists()


def test_a_run_that_is_not_there(copy, tmp_path, capsys):
    shutil.rmtree(copy / "posthoc")
    assert posthoc("--run", copy, tmp_path / "nowhere") == 2
    assert "nowhere is not a run folder" in capsys.readouterr().err
    assert not (copy / "posthoc").exists()
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("words", [["--tau", "11"], ["--tau", "x"], ["--epochs", "-1"], ["--rho", "nan"]])
def test_numbers_out_of_bounds(words):
    with pytest.raises(SystemExit) as stop:
        posthoc("--run", "somewhere", *words)
    assert stop.value.code == 2


def test_other_images_than_the_runs_are_refused(copy, capsys):
    shutil.rmtree(copy / "posthoc")
    split = copy / "split.json"
    split.write_text(split.read_text().replace('"train_sha256": "', '"train_sha256": "0'))
    assert posthoc("--run", copy) == 2
    assert "the images found now are not those of" in capsys.readouterr().err
    assert not (copy / "posthoc").exists()
