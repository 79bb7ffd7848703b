"""Images that a list names and the disk does not have: found by listing folders, told before training starts."""

import json
import logging
import os
import random
import threading

import numpy as np
import pytest
import yaml
from PIL import Image

from ms_longtail import recipe as recipes
from ms_longtail.cli import main
from ms_longtail.data import Paths, missing
from ms_longtail.data.missing import FEW
from ms_longtail.errors import DataError, UserError
from ms_longtail.run.dataset import load_data
from ms_longtail.run.jobs import make_jobs
from ms_longtail.run.missing import require_images

MODEL = {"model": "resnet8_cifar", "stages": [{"name": "train", "epochs": 1}]}


@pytest.fixture
def tree(tmp_path):
    """Paths of all kinds, most of them there."""
    rng, paths = random.Random(0), []
    for folder in ("", "a", "a/deep/er", "b c", "ä", "few", "nowhere", "file"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        for number in range(FEW if folder == "few" else 40):
            path = tmp_path / folder / f"{number}.jpg"
            if rng.random() < 0.8:
                path.write_text("")
            paths.append(str(path))
    for path in (tmp_path / "nowhere").iterdir():
        path.unlink()
    (tmp_path / "nowhere").rmdir()
    for path in (tmp_path / "file").iterdir():
        path.unlink()
    (tmp_path / "file").rmdir()
    (tmp_path / "file").write_text("not a folder")
    for folder in ("a", "few"):
        for number, make in enumerate((os.mkdir, lambda p: os.symlink("gone", p), lambda p: os.symlink(__file__, p))):
            path = str(tmp_path / folder / f"{number}.jpg")
            if os.path.lexists(path):
                os.unlink(path)
            make(path)
    paths += [f"{tmp_path}/a/../a/5.jpg", f"{tmp_path}/a//5.jpg", f"{tmp_path}/a/", paths[3], paths[3]]
    rng.shuffle(paths)
    return paths


@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize("kind", [list, Paths.of])
def test_the_same_are_missing_as_when_each_is_asked_for(tree, kind, threads):
    expected = [i for i, path in enumerate(tree) if not os.path.isfile(path)]
    assert 20 < len(expected) < len(tree) - 100
    assert missing(kind(tree), threads=threads).tolist() == expected
    assert missing(kind([])).tolist() == []


def test_every_folder_is_listed_once_and_few_files_are_asked_for(tmp_path, monkeypatch):
    paths = []
    for folder in range(70):
        (tmp_path / str(folder)).mkdir()
        paths += [f"{tmp_path}/{folder}/{n}" for n in range(20)]
    for path in paths[1:]:
        open(path, "w").close()
    random.Random(0).shuffle(paths)
    listed, asked, lock = [], [], threading.Lock()
    scandir, isfile = os.scandir, os.path.isfile

    def watch(kept, function):
        def watched(path):
            with lock:
                kept.append(path)
            return function(path)

        return watched

    monkeypatch.setattr(os, "scandir", watch(listed, scandir))
    monkeypatch.setattr(os.path, "isfile", watch(asked, isfile))
    assert [paths[i] for i in missing(paths)] == [f"{tmp_path}/0/0"]
    assert sorted(listed) == sorted({os.path.dirname(p) + "/" for p in paths})
    assert asked == [f"{tmp_path}/0/0"]


def test_a_folder_that_may_not_be_listed_is_asked_file_by_file(tree, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", path)

    expected = [i for i, path in enumerate(tree) if not os.path.isfile(path)]
    monkeypatch.setattr(os, "scandir", forbidden)
    assert missing(tree).tolist() == expected


def test_paths_of_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"{n}.jpg" for n in range(6)]
    for name in names[1:]:
        (tmp_path / name).write_text("")
    assert missing(names).tolist() == [0]
    assert missing(names[:2]).tolist() == [0]


# ---- before training


@pytest.fixture
def config(tmp_path):
    """A function (settings of data) -> a recipe file of 40 + 8 images in a list; `gone` names those that are not there."""

    def make(gone=(), **changed):
        for part, count in (("train", 40), ("test", 8)):
            (tmp_path / part).mkdir(exist_ok=True)
            names = [f"{part}/{n}.png" for n in range(count)]
            (tmp_path / f"{part}.txt").write_text("".join(f"{f} {n % 4}\n" for n, f in enumerate(names)))
            for name in names:
                (tmp_path / name).unlink(missing_ok=True)
                if name not in gone:
                    Image.new("RGB", (8, 8)).save(tmp_path / name)
        lists = {f"{part}_list": str(tmp_path / f"{part}.txt") for part in ("train", "test")}
        data = {"name": "image_list", "root": str(tmp_path), "size": 32} | lists | changed
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(MODEL | {"data": data}))
        return path

    return make


def look(path):
    recipe = recipes.load(path)
    require_images(recipe, load_data(recipe))


def test_a_missing_image_is_told_with_its_line_and_how_many(config, tmp_path, caplog):
    look(config())
    with pytest.raises(DataError) as caught:
        look(config(gone={"train/7.png", "train/30.png", "test/1.png"}))
    assert str(caught.value) == (
        f"train: 2 of 40 images do not exist, the first: {tmp_path}/train/7.png ({tmp_path}/train.txt, line 8); with the other "
        f"parts 3; is data.root right? It is {str(tmp_path)!r}"
    )
    with pytest.raises(
        DataError, match=r"^test: 1 of 8 images do not exist, the first: .*test\.txt, line 2\); is data"
    ):
        look(config(gone={"test/1.png"}))
    assert not caplog.messages


@pytest.mark.parametrize("group", [None, r"^train/(\d+)\.png$"])
def test_a_part_carved_out_of_train_is_looked_at(config, group):
    path = config(gone={"train/7.png"}, validation={"share": 0.5, "group": group})
    with pytest.raises(DataError, match=r"^(train|validation): 1 of 20 .*7\.png \(.*train\.txt, line 8\)"):
        look(path)


def test_skip_warns_up_to_its_share(config, caplog):
    gone = {"train/7.png", "train/30.png"}
    with caplog.at_level(logging.WARNING):
        look(config(gone=gone, on_error="skip", max_error_share=0.05))
    (line,) = caplog.messages
    assert line.startswith("train: 2 of 40 images do not exist, the first: ")
    with pytest.raises(DataError, match=r"more than data\.max_error_share 0\.049; is data\.root right"):
        look(config(gone=gone, on_error="skip", max_error_share=0.049))
    with pytest.raises(DataError, match=r"To train without them: data\.on_error: skip"):
        look(config(gone=gone, max_error_share=0.05))


def test_skip_does_not_empty_a_class(config):
    gone = {f"train/{n}.png" for n in range(2, 40, 4)}
    with pytest.raises(DataError, match=r"1 class\(es\) have no image left, the first: '2' \(label 2\)"):
        look(config(gone=gone, on_error="skip", max_error_share=0.5))


def test_a_wrong_root_is_told_by_a_dry_run_and_a_gallery(config, tmp_path, monkeypatch, capfd):
    path = config(root=str(tmp_path / "wrong"))
    (tmp_path / "wrong").mkdir()
    monkeypatch.chdir(tmp_path / "wrong")
    assert main(["train", "--config", str(path), "--dry-run"]) == 2
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert "train: 40 of 40 images do not exist, the first: " in error
    assert f"is data.root right? It is {str(tmp_path / 'wrong')!r}" in error
    assert main(["train", "--config", str(path), "--quiet"]) == 2
    assert "40 of 40" in capfd.readouterr().err
    assert not list((tmp_path / "wrong").iterdir())
    with pytest.raises(UserError, match="40 of 40 images do not exist"):
        make_jobs({"recipe": path}, [0], [])
    assert main(["train", "--config", str(config()), "--dry-run", "--quiet"]) == 0


def test_json_names_the_annotation(config, tmp_path):
    config(gone={"train/5.png"})
    for part, count in (("train", 40), ("test", 8)):
        images = [{"id": n, "file_name": f"{part}/{n}.png"} for n in range(count)]
        annotations = [{"image_id": n, "category_id": n % 4} for n in range(count)]
        content = {"images": images, "annotations": annotations, "categories": [{"id": c} for c in range(4)]}
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    data = {f"{part}_json": str(tmp_path / f"{part}.json") for part in ("train", "test")}
    path = tmp_path / "json.yaml"
    path.write_text(yaml.safe_dump(MODEL | {"data": {"name": "inaturalist", "root": str(tmp_path)} | data}))
    with pytest.raises(DataError, match=r"the first: .*train/5\.png \(.*train\.json, annotation 5\)"):
        look(path)


def test_sets_that_were_found_on_disk_are_not_looked_at(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for name in "ab":
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / part / name / "1.png")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(MODEL | {"data": {"name": "image_folder", "root": str(tmp_path)}}))
    recipe = recipes.load(path)
    data = load_data(recipe)
    monkeypatch.setattr(os, "scandir", None)
    require_images(recipe, data)
