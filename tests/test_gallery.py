"""A folder of recipes over seeds: statistics, tables and picture from rows; the command line on tiny recipes."""

import argparse
import csv
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ms_longtail.console import Console
from ms_longtail.errors import UserError
from ms_longtail.evaluation import gallery as table
from ms_longtail.evaluation.gallery import Entry, Row
from ms_longtail.run import jobs as jobs_module
from ms_longtail.run.gallery import Gallery, failure, time_left
from ms_longtail.run.jobs import find_recipes, make_jobs
from ms_longtail.verbs.gallery import seeds

ROOT = Path(__file__).parent.parent
TINY = """
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 64}
optimizer: {name: sgd, lr: 0.05}
"""


def row(recipe, seed, balanced, few=0.1, **settings):
    scores = dict.fromkeys(table.SCORES, balanced) | {"few": few, "many": None}
    return Row(recipe, seed, "finished", f"runs/{recipe}-s{seed}", scores, seconds=10.0 + seed, **settings)


ENTRIES = [Entry("ce", "configs/ce.yaml", "plain | simple", 880), Entry("new", "configs/new.yaml", "", 1880)]


def test_mean_and_sample_deviation():
    values = [0.31, 0.35, 0.38, 0.29]
    mean, spread = table.mean_and_spread(values)
    assert mean == pytest.approx(np.mean(values), abs=1e-15)
    assert spread == pytest.approx(np.std(values, ddof=1), abs=1e-15)
    assert table.mean_and_spread([0.31]) == (0.31, None)
    assert table.mean_and_spread([None, None]) == (None, None)


def test_the_table_has_means_spreads_and_the_best_in_bold():
    rows = [row("ce", 0, 0.5), row("ce", 1, 0.6), row("new", 0, 0.7), row("new", 1, 0.7, reused=("one",))]
    summaries = table.summarise(ENTRIES, rows)
    assert [s.entry.recipe for s in summaries] == ["new", "ce"]  # the best on top
    environment = {
        "commit": "abc123", "device": "cpu", "ranks": 1, "processor": "P", "cores": 2, "python": "3.11",
        "packages": {"mindspore": "2.10.0", "ms-longtail": None},
    }  # fmt: skip
    text = table.markdown(title="T", summaries=summaries, rows=rows, environments=[environment], command="the command")
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("|")}
    assert "| **70.00 ± 0.00** | n/a | **70.00 ± 0.00** | **10.00 ± 0.00** |" in lines["`new`"]
    assert "| 55.00 ± 7.07 | n/a | 55.00 ± 7.07 | **10.00 ± 0.00** |" in lines["`ce`"]
    assert "| 880 | 10.5 | plain \\| simple | `configs/ce.yaml` |" in lines["`ce`"]
    for part in ("4 of 4 runs finished", "abc123", "mindspore 2.10.0", "the command", "1 of the runs took theirs"):
        assert part in text


def test_unfinished_and_failed_runs_are_in_the_table():
    rows = [row("ce", 0, 0.5), Row("ce", 1), Row("new", 0, "failed", error="boom"), Row("new", 1)]
    summaries = table.summarise(ENTRIES, rows)
    assert [(s.entry.recipe, s.n) for s in summaries] == [("ce", 1), ("new", 0)]
    text = table.markdown(title="T", summaries=summaries, rows=rows, environments=[], command="c")
    assert "1 of 4 runs finished" in text
    assert "- `new`, seed 0 (no run folder): boom" in text
    assert "| `ce` | 1 | 50.00 | 50.00 | n/a |" in text  # no spread from one seed, nothing to be better than
    assert "| `new` | 0 |  |" in text


def test_bold_compares_recipes_with_all_seeds():
    rows = [row("ce", 0, 0.5), row("ce", 1, 0.5), row("new", 0, 0.9)]
    third = Entry("third", "configs/third.yaml", "", 880)
    rows += [row("third", 0, 0.4), row("third", 1, 0.4)]
    assert ("ce", "balanced") in table._best(table.summarise([*ENTRIES, third], rows))
    assert ("new", "balanced") not in table._best(table.summarise([*ENTRIES, third], rows))


def test_csv_files_hold_the_same_numbers_and_nothing_where_there_is_none():
    rows = [row("ce", 0, 0.5), row("ce", 1, 0.6), Row("new", 0, "failed", error='a "quoted", error'), Row("new", 1)]
    lines = list(csv.DictReader(io.StringIO(table.table_csv(table.summarise(ENTRIES, rows)))))
    assert float(lines[0]["balanced_mean"]) == pytest.approx(0.55)
    assert float(lines[0]["balanced_sd"]) == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert (lines[0]["n"], lines[0]["many_mean"], lines[0]["description"]) == ("2", "", "plain | simple")
    assert (lines[1]["n"], lines[1]["balanced_mean"]) == ("0", "")
    runs = list(csv.DictReader(io.StringIO(table.runs_csv(rows))))
    assert [line["status"] for line in runs] == ["finished", "finished", "failed", "open"]
    assert runs[2]["error"] == 'a "quoted", error'


def test_the_baseline_is_found_by_name_or_file():
    entries = [
        Entry("a/ce", "x/a/ce.yaml", "", 1),
        Entry("b/ce", "x/b/ce.yaml", "", 1),
        Entry("b/y", "x/b/y.yaml", "", 1),
    ]
    assert table.find_baseline(entries, "b/ce") == "b/ce"
    assert table.find_baseline(entries, "y") == "b/y"
    assert table.find_baseline(entries, "ce") is None  # two of them
    assert table.find_baseline(entries, "z") is None


def test_texts_of_twenty_recipes_do_not_overlap_in_the_picture(tmp_path, monkeypatch):
    from ms_longtail.evaluation import gallery_plot

    entries = [Entry(f"losses/a_long_name_of_a_recipe_{i}$", "x.yaml", "", 1) for i in range(20)]
    rows = [
        row(e.recipe, seed, 0.4 + 0.01 * i + 0.02 * seed, few=0.2) for i, e in enumerate(entries) for seed in (0, 1)
    ]
    figures = []
    save = gallery_plot._save
    monkeypatch.setattr(gallery_plot, "_save", lambda figure, path: (figures.append(figure), save(figure, path)))
    gallery_plot.gallery(tmp_path / "g.png", table.summarise(entries, rows), entries[3].recipe)
    assert (tmp_path / "g.png").stat().st_size > 10_000
    axis = figures[0].axes[0]
    boxes = [label.get_window_extent() for label in axis.get_yticklabels()]
    assert len(boxes) == 20
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    assert axis.get_yticklabels()[-1].get_text() == r"losses/a_long_name_of_a_recipe_19\$"  # the best on top
    line = next(line for line in axis.lines if line.get_linestyle() == "--")
    assert line.get_xdata()[0] == pytest.approx(100 * (0.43 + 0.01))


# ---- what is to be run


def write(folder, name, text, *, base=TINY):
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(base + text)
    return path


def test_recipes_are_found_by_folder_and_named_by_place(tmp_path, monkeypatch):
    for name in ("b", "a", "sub/c", "_base_/x", "sub/_base_/y"):
        write(tmp_path / "top", name, "")
    monkeypatch.chdir(tmp_path)
    assert list(find_recipes(["top"])) == ["a", "b"]
    assert list(find_recipes(["top"], recursive=True)) == ["a", "b", "sub/c"]
    assert list(find_recipes(["top/sub", "top/a.yaml", "top"])) == ["sub/c", "a", "b"]
    assert list(find_recipes(["top/sub/c.yaml"])) == ["c"]
    with pytest.raises(UserError, match="nowhere: no such file"):
        find_recipes(["top", "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no recipe .* --recursive"):
        find_recipes(["empty"])


def test_jobs_go_seed_by_seed(tmp_path):
    for name in ("a", "b"):
        write(tmp_path, name, "description: |\n  two\n  lines\nstages: [{name: one, epochs: 2}]")
    made = make_jobs(find_recipes([str(tmp_path)]), [0, 3], ["optimizer.lr=0.07"])
    assert [(job.entry.recipe, job.recipe.seed) for job in made] == [("a", 0), ("b", 0), ("a", 3), ("b", 3)]
    assert {job.recipe.stages[0].optimizer.settings["lr"] for job in made} == {0.07}
    assert made[0].entry.description == "two lines"
    assert made[0].entry.steps == 8  # 2 epochs of 64 images


def test_the_faults_of_all_recipes_are_reported_together(tmp_path):
    write(tmp_path, "a", "stages: [{name: one, epochs: 1}]")
    write(tmp_path, "b", "stages: [{name: one, epochs: 1, loss: nonsense}]")
    write(tmp_path, "c", "stages: [{name: one, epochs: 1}]", base=TINY.replace("n_max: 24", "n_max: 5000"))
    with pytest.raises(UserError) as caught:
        make_jobs(find_recipes([str(tmp_path)]), [0], [])
    text = str(caught.value)
    for part in ("2 of 3 recipes cannot run", "b.yaml:", "'nonsense'", "c.yaml:", "n_max = 5000"):
        assert part in text
    assert "a.yaml" not in text


@pytest.mark.parametrize(
    ("text", "expected"), [("3", [0, 1, 2]), ("0,3,7", [0, 3, 7]), ("4,", [4]), ("1, 1,2", [1, 2]), ("1", [0])]
)
def test_seeds(text, expected):
    assert seeds(text) == expected


@pytest.mark.parametrize("text", ["0", "-1", "x", "", ",", "1,x", "1,,2", "1.5", "1000000"])
def test_bad_seeds(text):
    with pytest.raises(argparse.ArgumentTypeError):
        seeds(text)


def test_the_last_error_line_of_a_failed_run():
    assert (
        failure(2, "words\nerror: the lr is wrong\n  detail\n", Path("x.log"))
        == "the lr is wrong (exit status 2; x.log)"
    )
    assert failure(1, "Traceback\n  x\nKeyError: 3\n\n", Path("x.log")) == "KeyError: 3 (exit status 1; x.log)"
    assert failure(-9, "", Path("x.log")) == "no output (ended by SIGKILL; x.log)"


def test_time_left_goes_by_the_same_recipe():
    assert time_left({"a": [10.0, 20.0], "b": [100.0]}, ["a", "a", "b"]) == pytest.approx(130)
    assert time_left({"a": [10.0, 20.0]}, ["new"]) == pytest.approx(15)
    assert time_left({"a": [10.0]}, []) == 0


# ---- the running, with a stand-in for training

STAND_IN = """
import json, os, signal, sys, time
from pathlib import Path
from ms_longtail import recipe as recipes
from ms_longtail.cli import parser
from ms_longtail.run import dataset, folder
options = parser().parse_args(["train", *sys.argv[1:]])
recipe = recipes.load(options.config, options.set)
data = dataset.load_data(recipe)
home = folder.RunFolder(folder.Path(options.resume)) if options.resume else folder.new_run(Path(options.runs), recipe)
if not options.resume:
    home.create(recipe, data.description, folder.environment("cpu", 1))
with open(home.path.parent / "calls.txt", "a") as calls:
    print(home.path.name, "resume" if options.resume else "new", options.reuse is not None, file=calls)
if recipe.name == "bad":
    sys.exit("error: no luck with this one")
if recipe.name == "slow" and not options.resume:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    (home.path / "started").touch()
    time.sleep(60)
home.append_metrics({"stage": 1, "draw": 1, "train_seconds": 2.5})
scores = {key: 0.5 + 0.1 * recipe.seed for key in ("top1", "balanced", "many", "medium", "harmonic_mean")}
folder.write_json(home.result, {"last": scores | {"few": None, "worst": {"class": 0, "accuracy": 0.25}}})
"""


def gallery(tmp_path, names, **settings):
    for name in names:
        write(tmp_path / "recipes", name, "stages: [{name: one, epochs: 1}]")
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    settings = {"overrides": [], "device": "cpu", "reuse": True, "baseline": None} | settings
    return Gallery(
        make_jobs(find_recipes([str(tmp_path / "recipes")]), [0, 1], settings["overrides"]),
        runs=tmp_path / "runs", out=tmp_path / "out", title="T", command="c", console=Console(quiet=True),
        program=(sys.executable, str(tmp_path / "stand_in.py")), **settings,
    )  # fmt: skip


def calls(tmp_path):
    path = tmp_path / "runs" / "calls.txt"
    text = path.read_text().splitlines()
    path.unlink()
    return text


@pytest.fixture
def path_to_package(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_one_bad_run_does_not_end_the_gallery_and_finished_ones_are_kept(tmp_path, path_to_package):
    assert gallery(tmp_path, ["a", "bad"]).run() == 1
    assert calls(tmp_path) == ["a-s0 new True", "bad-s0 new True", "a-s1 new True", "bad-s1 new True"]
    text = (tmp_path / "out" / "gallery.md").read_text()
    assert "2 of 4 runs finished" in text
    assert "no luck with this one (exit status 1;" in text
    assert "| `a` | 2 | 55.00 ± 7.07 |" in text
    assert (tmp_path / "out" / "gallery.png").is_file()
    assert gallery(tmp_path, ["a", "bad"], reuse=False).run() == 1
    assert calls(tmp_path) == ["bad-s0 resume False", "bad-s1 resume False"]
    (tmp_path / "recipes" / "bad.yaml").unlink()
    again = gallery(tmp_path, ["a"], overrides=["optimizer.lr=0.01"])
    assert again.run() == 0  # other settings: other runs, beside the first ones
    assert calls(tmp_path)[0] == "a-s0-2 new True"
    before = (tmp_path / "out" / "runs.csv").read_text()
    again = gallery(tmp_path, ["a"], overrides=["optimizer.lr=0.01"])
    assert [line["finished"] for line in again.overview()] == ["2"]
    assert again.run() == 0
    assert not (tmp_path / "runs" / "calls.txt").exists()
    assert (tmp_path / "out" / "runs.csv").read_text() == before


@pytest.mark.slow
def test_runs_of_other_images_do_not_count(tmp_path, path_to_package):
    collection = gallery(tmp_path, ["a"])
    assert collection.run() == 0
    split = tmp_path / "runs" / "a-s0" / "split.json"
    split.write_text(split.read_text().replace('"train_sha256": "', '"train_sha256": "0'))
    assert [row.status for row in gallery(tmp_path, ["a"]).rows] == ["open", "finished"]


@pytest.mark.slow
def test_a_signal_stops_the_run_and_the_same_command_goes_on(tmp_path, path_to_package):
    gallery(tmp_path, ["a", "slow"])
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\nimport test_gallery as t\n"
        "sys.exit(t.gallery(Path(sys.argv[2]), ['a', 'slow']).run())"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(ROOT / "tests"), str(tmp_path)]) as process:
        started = tmp_path / "runs" / "slow-s0" / "started"
        for _ in range(600):
            if started.exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert "1 of 4 runs finished" in (tmp_path / "out" / "gallery.md").read_text()
    assert calls(tmp_path) == ["a-s0 new True", "slow-s0 new True"]
    with subprocess.Popen([sys.executable, "-c", code, str(ROOT / "tests"), str(tmp_path)]) as process:
        for _ in range(600):
            if (tmp_path / "runs" / "slow-s1" / "started").exists():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert calls(tmp_path) == ["slow-s0 resume True", "a-s1 new True", "slow-s1 new True"]


# ---- the command line


def command(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "ms_longtail", "gallery", *map(str, arguments)],
        capture_output=True, text=True, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.slow
def test_two_recipes_that_share_a_stage(tmp_path):
    write(tmp_path / "recipes", "ce", "stages: [{name: one, epochs: 1}, {name: same, epochs: 1}]")
    other = (
        "stages: [{name: one, epochs: 1}, {name: other, epochs: 1, sampler: {name: class_balanced, num_samples: 64}}]"
    )
    write(tmp_path / "recipes", "cb", other)
    shown = command(tmp_path, "recipes", "--seeds", "3,", "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert not (tmp_path / "runs").exists()
    done = command(tmp_path, "recipes", "--seeds", "3,", "--device", "cpu")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "[2/2] ce, seed 3: top-1" in done.stdout
    out = tmp_path / "runs" / "gallery"
    lines = list(csv.DictReader(io.StringIO((out / "runs.csv").read_text())))
    found = [(line["recipe"], line["seed"], line["reused"]) for line in lines]
    assert found == [("cb", "3", ""), ("ce", "3", "one")]
    text = (out / "gallery.md").read_text()
    assert "`python -m ms_longtail gallery recipes --seeds 3, --device cpu`" in text
    assert "2 of 2 runs finished" in text
    again = command(tmp_path, "recipes", "--seeds", "3,", "--quiet")
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["recipes", "--baseline", "x"], "--baseline x: not one recipe of this gallery; there are: a"),
        (["recipes", "--set", "seed=3"], "a gallery takes its seeds from --seeds"),
        (["recipes", "--set", "batch=0"], "1 of 1 recipes cannot run"),
        (["recipes", "--seeds", "x"], "'x': give a number of seeds"),
    ],
)
def test_mistakes_end_with_status_2_and_leave_nothing(tmp_path, arguments, message):
    write(tmp_path / "recipes", "a", "stages: [{name: one, epochs: 1}]")
    done = command(tmp_path, *arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipes"]


def test_bases_are_named_as_in_the_repository():
    assert (ROOT / "configs" / jobs_module.BASES).is_dir()
