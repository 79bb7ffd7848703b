"""`inspect` on folders in which everything was planted, its rules, and its numbers against brute force."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from test_near_duplicates import jpeg, scene

from ms_longtail import recipe as recipes
from ms_longtail.cli import main
from ms_longtail.data.image_folder import image_folder
from ms_longtail.evaluation.inspection import class_facts, gini, size_facts
from ms_longtail.run.advice import RECIPES, Facts, advise, command
from ms_longtail.run.inspection import facts_of
from ms_longtail.run.own_folder import DRAWS
from ms_longtail.run.survey import survey

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("seed", range(5))
def test_gini_against_all_pairs(seed):
    counts = np.random.default_rng(seed).integers(0, 500, 37)
    brute = sum(abs(int(a) - int(b)) for a in counts for b in counts) / (2 * len(counts) * counts.sum())
    assert gini(counts) == pytest.approx(brute, abs=1e-12)
    assert gini(counts * 7) == pytest.approx(gini(counts), abs=1e-12)


def test_gini_at_its_ends():
    assert gini(np.full(8, 3)) == 0
    assert gini(np.array([0, 0, 0, 5])) == pytest.approx(0.75)
    assert gini(np.zeros(4)) == 0
    assert gini(np.array([6])) == 0


def test_class_facts_by_training_images():
    facts = class_facts(np.array([4, 0, 6, 9]), np.array([101, 100, 20, 19]))
    assert facts["groups"] == {
        "many": {"classes": 1, "images": 4},
        "medium": {"classes": 1, "images": 6},
        "few": {"classes": 1, "images": 9},
    }
    assert (facts["images"], facts["classes"], facts["smallest"], facts["median"]) == (19, 3, 4, 6.0)
    assert facts["imbalance_factor"] == 2.25
    assert facts["empty_classes"] == [1]
    assert class_facts(np.zeros(3, int), np.ones(3, int))["imbalance_factor"] is None


def test_size_facts_at_the_bounds():
    height, width = np.array([16, 15, 10, 10]), np.array([16, 90, 40, 41])
    no = np.zeros(4, bool)
    facts = size_facts(height, width, no, no)
    assert facts["tiny"] == {"images": 3, "share": 0.75}
    assert facts["elongated"] == {"images": 2, "share": 0.5}
    assert facts["width"] == [16.0, 40.5, 90.0]
    assert size_facts(*(values[:0] for values in (height, width, no, no)))["shorter"] is None


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])


@pytest.fixture
def planted(tmp_path):
    """12 + 5 + 3 different training pictures and 4 + 2 test pictures, and what is said in the test below."""
    top = tmp_path / "zoo $1"
    number = 0
    for part, sizes in {"train": {"ant": 12, "bee": 5, "cat": 3}, "test": {"ant": 4, "bee": 2}}.items():
        for name, count in sizes.items():
            for k in range(count):
                write(top / part / name / f"{k:02}.png", scene(number, 80, 90))
                number += 1
    (top / "test" / "cat").mkdir()
    write(top / "test/ant/same.bmp", scene(0, 80, 90))  # train/ant/00.png in another file
    write(top / "test/bee/near.png", cv2.resize(jpeg(scene(12, 80, 90), 60), (120, 110)))  # train/bee/00.png
    write(top / "train/bee/conflict.png", scene(3, 80, 90))  # train/ant/03.png
    write(top / "train/cat/near.png", (scene(4, 80, 90) * 0.7).astype(np.uint8))  # train/ant/04.png
    for name, value in (("a", 50), ("b", 50), ("c", 60)):
        write(top / f"train/ant/flat_{name}.png", np.full((40, 40, 3), value, np.uint8))
    write(top / "train/ant/long.png", scene(99, 12, 90))
    (top / "train/ant/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 rubbish")
    (top / "train/bee/empty.png").write_bytes(b"")
    exif = b"\xff\xe1\x00\x20Exif\x00\x00II*\x00" + b"\xff" * 20  # a tag table that points nowhere
    encoded = cv2.imencode(".jpg", scene(50, 80, 90))[1].tobytes()
    (top / "test/bee/exif.jpg").write_bytes(encoded[:2] + exif + encoded[2:])
    return top


def names(entries, top):
    return [str(Path(entry["file"]).relative_to(top)) for entry in entries]


def test_planted_faults_are_found_and_nothing_else(planted, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["inspect", str(planted), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    facts = json.loads((out / "inspection.json").read_text())
    assert sorted(p.name for p in out.iterdir()) == ["class_sizes.png", "inspection.json", "near_duplicates.png"]
    assert all(cv2.imread(str(path)) is not None for path in out.glob("*.png"))
    train, test = facts["parts"]["train"], facts["parts"]["test"]
    assert train["counts"] == [17, 7, 4]
    assert train["imbalance_factor"] == 4.25
    assert test["empty_classes"] == [2]
    assert [Path(f["message"].split(": ")[0].split("image ")[1]).name for f in facts["unreadable"]] == [
        "broken.jpg",
        "empty.png",
    ]
    assert facts["images"]["train"]["unreadable"] == 2
    assert facts["images"]["train"]["flat"]["images"] == 3
    assert facts["images"]["train"]["grey"]["images"] == 3
    assert facts["images"]["train"]["tiny"]["images"] == facts["images"]["train"]["elongated"]["images"] == 1
    assert facts["images"]["test"]["unreadable"] == 0

    exact, near = facts["duplicates"]["exact"], facts["duplicates"]["near"]
    assert sorted(sorted(names(g["images"], planted)) for g in exact["list"]) == [
        ["test/ant/same.bmp", "train/ant/00.png"],
        ["train/ant/03.png", "train/bee/conflict.png"],
        ["train/ant/flat_a.png", "train/ant/flat_b.png"],
    ]
    assert (exact["groups"], exact["images"], exact["pairs"], exact["largest"]) == (3, 6, 3, 2)
    assert (near["groups"], near["images"], near["pairs"]) == (5, 10, 2)
    leak = facts["leakage"]["test"]
    assert (leak["exact"], leak["near"]) == (1, 2)
    assert leak["near_share"] == pytest.approx(2 / 9)
    assert [names([pair["image"], pair["other"]], planted) for pair in leak["list"]] == [
        ["test/ant/same.bmp", "train/ant/00.png"],
        ["test/bee/near.png", "train/bee/00.png"],
    ]
    assert [pair["same_pixels"] for pair in leak["list"]] == [True, False]
    conflicts = facts["conflicts"]
    assert (conflicts["exact"], conflicts["near"]) == (2, 4)
    assert [sorted(names([pair["image"], pair["other"]], planted)) for pair in conflicts["list"]] == [
        ["train/ant/03.png", "train/bee/conflict.png"],
        ["train/ant/04.png", "train/cat/near.png"],
    ]
    assert [advice["what"] for advice in facts["advice"]][:4] == [
        "mend first: label conflicts",
        "mend first: leakage",
        "mend first: unreadable images",
        "begin with",
    ]
    for piece in ("no test image of 1 class", "broken.jpg", "same.bmp", "conflict.png", "configs/caltech101/ce.yaml"):
        assert piece in printed

    # The command that is named is one that can be typed, for a folder with such a name too.
    words = shlex.split(next(a["command"] for a in facts["advice"] if a["command"]))
    recipe = recipes.load(ROOT / words[3], words[5:])
    assert Path(recipe.data.root) / recipe.data_settings["folder"] == planted
    assert recipe.data.on_error == "skip"


def test_with_no_bits_equal_hashes_only(planted, tmp_path):
    assert main(["inspect", str(planted), "--out", str(tmp_path / "out"), "--near", "0", "--quiet"]) == 0
    facts = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert facts["duplicates"]["exact"]["groups"] == 3
    assert all(pair["bits"] == 0 for pair in facts["leakage"]["test"]["list"])


def test_threads_change_nothing(planted, monkeypatch):
    monkeypatch.setattr("ms_longtail.run.survey.CHUNK", 3)
    splits, reports, progress = image_folder(root=str(planted)), [], []
    for workers in (1, 5):
        seen = survey(splits, workers=workers, progress=lambda done, rate: progress.append(done))
        reports.append(facts_of(splits, seen, bits=6)[0])
        reports[-1].pop("search")
    assert reports[0] == reports[1]
    assert progress.count(len(splits.train) + len(splits.test)) == 2


def test_a_recipe_in_memory_with_its_subset_and_validation_part(tmp_path, capsys):
    config = str(ROOT / "configs" / "digits_lt" / "ce.yaml")
    words = ["inspect", "--config", config, "--set", "data.validation.share=0.25", "data.imbalance.factor=10"]
    assert main([*words, "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    facts = json.loads((tmp_path / "out" / "inspection.json").read_text())
    whole = np.add(facts["parts"]["train"]["counts"], facts["parts"]["validation"]["counts"])
    assert whole.max() / whole.min() == pytest.approx(10, rel=0.1)
    assert set(facts["leakage"]) == {"validation", "test"}
    line = next(advice["command"] for advice in facts["advice"] if advice["command"])
    assert "data.imbalance.factor=10" in line
    assert "data.validation.share=0.25" in line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "the folder nowhere does not exist"),
        ([], "give a folder of class folders, or --config RECIPE"),
        (["x", "--config", "y"], "and not both"),
        (["x", "--set", "seed=1"], "--set changes a recipe"),
        (["--config", "nowhere.yaml"], "cannot read this file"),
        (["x", "--near", "13"], "not a whole number from 0 to 12"),
        (["x", "--workers", "0"], "not a whole number from 1"),
        (["x", "--out", "file"], "cannot write there"),
        (["x", "--out", "full"], "inspection.json there already"),
    ],
)
def test_mistakes_end_with_status_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("full").mkdir()
    Path("full/inspection.json").write_text("{}")
    try:
        status = main(["inspect", *words])
    except SystemExit as end:
        status = end.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert Path("full/inspection.json").read_text() == "{}"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


def test_from_the_shell_without_a_traceback(planted, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-m", "ms_longtail", "inspect", planted],
        capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "begin with" in done.stdout
    assert sorted(tmp_path.rglob("*")) == before  # without --out nothing is written


BASE = Facts("image_folder", images=9000, classes=40, imbalance_factor=60, smallest=8, few=0.3, side=32)


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        ({}, "gtsrb_lt/bag_of_tricks.yaml", "gtsrb_lt/ce.yaml"),
        ({"imbalance_factor": 9.9}, "gtsrb_lt/ce.yaml", "gtsrb_lt/ce.yaml"),
        ({"imbalance_factor": 10}, "gtsrb_lt/bag_of_tricks.yaml", "gtsrb_lt/ce.yaml"),
        ({"side": 48}, "gtsrb_lt/bag_of_tricks.yaml", "gtsrb_lt/ce.yaml"),
        ({"side": 49}, "caltech101/bag_of_tricks.yaml", "caltech101/ce.yaml"),
        ({"few": 0.5}, "gtsrb_lt/ce.yaml", "gtsrb_lt/bag_of_tricks.yaml"),
        ({"few": 0.5, "classes": 20}, "gtsrb_lt/bag_of_tricks.yaml", "gtsrb_lt/ce.yaml"),
        ({"images": 200_000, "side": 300}, "caltech101/ce.yaml", "caltech101/bag_of_tricks.yaml"),
        ({"kind": "cifar10_lt", "classes": 10}, "cifar10_lt/tricks/bag_of_tricks.yaml", "cifar10_lt/losses/balanced_softmax.yaml"),
        ({"kind": "cifar100_lt", "few": 0.6}, "cifar100_lt/losses/balanced_softmax.yaml", "cifar100_lt/systems/crt.yaml"),
        ({"kind": "image_list", "images": 115_846}, "imagenet_lt/balanced_softmax.yaml", "imagenet_lt/crt.yaml"),
        ({"kind": "inaturalist", "images": 437_513}, "inaturalist18/balanced_softmax.yaml", "inaturalist18/bag_of_tricks.yaml"),
        ({"kind": "inaturalist", "imbalance_factor": 5}, "inaturalist18/ce.yaml", "inaturalist18/balanced_softmax.yaml"),
    ],
)  # fmt: skip
def test_the_recipe_to_begin_with(change, first, second):
    found = [a for a in advise(Facts(**{**vars(BASE), **change})) if a.recipe]
    assert found[0].recipe == f"configs/{first}"
    assert (found[1].recipe if len(found) > 1 else None) == (second and f"configs/{second}")
    assert "loss=balanced_softmax" in found[0].settings + found[-1].settings or "ce.yaml" not in found[-1].recipe
    assert len({(a.recipe, a.settings) for a in found}) == len(found)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"conflicts": 2}, "mend first: label conflicts"),
        ({"leaks": 1}, "mend first: leakage"),
        ({"near_leaks": 0.02}, "mend first: leakage"),
        ({"unreadable": 1}, "mend first: unreadable images"),
        ({"smallest": 4}, "very small classes"),
        ({"untested": 3}, "classes without a test image"),
        ({"imbalance_factor": 10}, "class weights"),
    ],
)
def test_what_is_said_only_where_it_is_so(change, what):
    calm = Facts(**{**vars(BASE), "imbalance_factor": 5})
    assert what in [a.what for a in advise(Facts(**{**vars(calm), **change}))]
    assert what not in [a.what for a in advise(calm)]


def test_unknown_data_sets_get_words_but_no_recipe():
    assert not [a for a in advise(Facts(**{**vars(BASE), "kind": "of their own"})) if a.recipe]


@pytest.mark.parametrize("kind", RECIPES)
@pytest.mark.parametrize("factor", [5.0, 60.0])
@pytest.mark.parametrize("images", [4000, 300_000])
def test_every_command_is_a_whole_recipe(kind, factor, images):
    name, side = ("image_folder", {"small": 30, "photos": 200}[kind]) if kind in ("small", "photos") else (kind, 200)
    facts = Facts(
        **{**vars(BASE), "kind": name, "side": side, "imbalance_factor": factor, "images": images, "unreadable": 1}
    )
    data = {"root": "/some where/else", "imbalance": {"profile": "none"}}
    for advice in advise(facts):
        line = command(advice, data, ROOT / "configs", "mine")
        assert (line is None) == (advice.recipe is None)
        if line is None:
            continue
        words = shlex.split(line)
        recipe = recipes.load(ROOT / words[3], words[5:])
        assert (recipe.data.root, recipe.data.imbalance.profile, recipe.name) == ("/some where/else", "none", "mine")


@pytest.mark.parametrize("kind", ["small", "photos"])
def test_the_command_for_a_small_folder_trains_long_enough(kind):
    """As many images in all as `train.py --data` draws, and the learning rate of its batch."""
    facts = Facts(**{**vars(BASE), "side": {"small": 30, "photos": 200}[kind], "images": 250})
    for advice in (a for a in advise(facts) if a.recipe):
        words = shlex.split(command(advice, {"validation": {"share": 0.1}}, ROOT / "configs", "mine", 250))
        recipe = recipes.load(ROOT / words[3], words[5:])
        whole = recipes.load(ROOT / words[3])
        assert DRAWS <= 250 * sum(stage.epochs for stage in recipe.stages) < 1.1 * DRAWS
        assert recipe.batch == 16
        assert {s.optimizer.settings["reference_batch"] for s in recipe.stages} == {whole.batch}
        assert whole.batch > 16
        assert recipe.data.validation.share == 0.1
        many = command(advice, {}, ROOT / "configs", "mine", 50_000)
        assert "epochs" not in many
        assert "batch=" not in many


def test_a_packed_set_is_named_as_such(tmp_path, capsys):
    (tmp_path / "packed.json").write_text("{}")
    assert main(["inspect", str(tmp_path)]) == 2
    assert "a packed set" in capsys.readouterr().err


def test_leaks_are_told_as_they_are():
    calm = vars(BASE) | {"imbalance_factor": 5}
    both = advise(Facts(**calm | {"leaks": 2, "near_leaks": 0.03}))[0].why
    assert both.startswith("2 held-out images are in train too, and 3.0 % of one held-out part are near-duplicates")
    assert advise(Facts(**calm | {"near_leaks": 0.036}))[0].why.startswith(
        "3.6 % of one held-out part are near-duplicates"
    )


def test_real_pictures(real_images, tmp_path):
    """Traffic signs: frames of a recording are near-duplicates, and few signs of other classes are taken for them."""
    top = real_images / "gtsrb"
    if not top.is_dir():
        pytest.skip(f"{top} is not there")
    for name in ("14", "33"):
        for part in ("train", "test"):
            (tmp_path / "few" / part).mkdir(parents=True, exist_ok=True)
            (tmp_path / "few" / part / name).symlink_to(top / part / name)
    assert main(["inspect", str(tmp_path / "few"), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    facts = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert facts["leakage"]["test"]["exact"] == 3
    assert facts["duplicates"]["near"]["pairs"] > 50
    assert facts["conflicts"]["near"] <= 2
