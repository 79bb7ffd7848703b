"""Packed data sets: the same images as the source, readable by others, and every kind of damage named."""

import copy
import json
import os
import pickle
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore.mindrecord import FileReader
from packing import CLASSES, content, pack, source, write_recipe

from ms_longtail import recipe as recipes
from ms_longtail.data import DrawSource, blobs
from ms_longtail.data.blobs import Files
from ms_longtail.data.packed import packed
from ms_longtail.errors import DataError, RecipeError
from ms_longtail.run.build import build_augment
from ms_longtail.run.dataset import load_data, load_whole

FORMATS = ["tar", "mindrecord"]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """See test_pack.py."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def originals(splits, part):
    """The bytes of every source image, read without our code."""
    return [Path(file).read_bytes() for file in splits.parts()[part].files]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", ["folder", "list", "cifar"])
def test_the_images_labels_and_names_are_the_source_s(tmp_path, kind, format):
    recipe, splits = source(tmp_path, kind)
    described = pack(recipe, splits, tmp_path / "new", format, shard_mb=0.04)
    assert sum(len(part["shards"]) for part in described["parts"].values()) > len(described["parts"])
    pixels = {part: [images.read(i) for i in range(len(images))] for part, images in splits.parts().items()}
    shutil.rmtree(tmp_path / "source")
    again = packed(root=str(tmp_path), folder="new")
    assert list(again.parts()) == list(splits.parts())
    for part, images in again.parts().items():
        np.testing.assert_array_equal(images.labels, splits.parts()[part].labels)
        assert images.labels.dtype == np.int32
        assert images.class_names == splits.train.class_names
        np.testing.assert_array_equal(images.class_counts, described["parts"][part]["counts"])
        for number in range(len(images)):
            np.testing.assert_array_equal(images.read(number), pixels[part][number])
    if kind == "folder":
        assert set(again.train.file_names("whatever")) >= {"train/ant/0_0.jpg", "train/über cat/0_1.png"}
    chosen = np.array([5, 0, 5])
    subset = again.train.subset(chosen).subset(np.array([2, 1]))
    np.testing.assert_array_equal(subset.read(0), pixels["train"][5])
    np.testing.assert_array_equal(subset.read(1), pixels["train"][0])
    assert subset.name(1) == again.train.name(0)


def test_a_tar_is_a_webdataset_of_the_very_bytes(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    described = pack(recipe, splits, tmp_path / "new")
    expected = originals(splits, "train")
    found = {}
    for shard in described["parts"]["train"]["shards"]:
        with tarfile.open(tmp_path / "new" / shard["file"]) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    assert len(found) == 2 * len(expected)
    for number, (data, label) in enumerate(zip(expected, splits.train.labels, strict=True)):
        extension = os.path.splitext(splits.train.files[number])[1]
        assert found[f"{number:08d}{extension}"] == data
        assert found[f"{number:08d}.cls"] == str(label).encode()


def test_mindrecord_is_mindspore_s_own(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    described = pack(recipe, splits, tmp_path / "new", "mindrecord")
    files = [str(tmp_path / "new" / shard["file"]) for shard in described["parts"]["train"]["shards"]]
    assert len(files) > 1
    expected = originals(splits, "train")
    names = [os.path.relpath(file, tmp_path / "source") for file in splits.train.files]
    rows = []
    for file in files:
        reader = FileReader(file)
        rows += list(reader.get_next())
        reader.close()
    assert [bytes(row["image"]) for row in rows] == expected
    dataset = ds.MindDataset(files, ["image", "label", "name"], shuffle=False)
    seen = list(dataset.create_dict_iterator(num_epochs=1, output_numpy=True))
    assert sorted((int(row["label"]), str(row["name"])) for row in seen) == sorted(
        zip(splits.train.labels.tolist(), names, strict=True)
    )
    jpegs = {name: data for name, data in zip(names, expected, strict=True) if name.endswith(".jpg")}
    decoded = dataset.map(ds.vision.Decode(), ["image"])
    for row in decoded.create_dict_iterator(num_epochs=1, output_numpy=True):
        if str(row["name"]) in jpegs:
            image = cv2.imdecode(np.frombuffer(jpegs[str(row["name"])], np.uint8), cv2.IMREAD_COLOR_RGB)
            assert np.abs(row["image"].astype(int) - image).mean() < 3  # another JPEG decoder


@pytest.mark.parametrize("kind", ["folder", "cifar"])
def test_a_run_on_it_sees_the_same(tmp_path, kind):
    """Subset, carved part and a training batch, through all that stands between a recipe and the network."""
    settings = {"imbalance": {"profile": "exp", "factor": 2, "order": "size", "n_max": None}, "size": 32}
    if kind == "folder":
        settings["validation"] = {"share": 0.4, "group": r"(\d+)_\d\.\w+$"}
    recipe, splits = source(tmp_path, kind, **settings)
    pack(recipe, splits, tmp_path / "new", "mindrecord")
    other = recipes.load(
        write_recipe(tmp_path, {"name": "packed", "root": str(tmp_path / "new")} | settings, "packed.yaml")
    )
    first, second = ({"recipe": r} for r in (recipe, other))
    for one in (first, second):
        one["data"] = load_data(one["recipe"])
        train = one["data"].splits.train
        view = build_augment(one["recipe"].stages[0].augment, one["recipe"], train, seed=3)
        everything = np.arange(len(train))
        draws = DrawSource(train, lambda epoch, order=everything: order, len(train), image_ops=view.image)
        images, labels, _ = draws.load(everything)
        one["batch"] = images.copy(), labels
    assert {**first["data"].description, "data": ""} == {**second["data"].description, "data": ""}
    for a, b in zip(first["batch"], second["batch"], strict=True):
        np.testing.assert_array_equal(a, b)


def test_many_threads_read_what_one_reads(tmp_path, monkeypatch):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", shard_mb=0.005)
    expected = originals(splits, "train")
    order = np.random.default_rng(0).integers(0, len(expected), 500)
    for most in (blobs.MOST_OPEN, 2):  # with 2, some files are opened for every read
        monkeypatch.setattr(blobs, "MOST_OPEN", most)
        images = packed(root=str(tmp_path / "new")).train
        with ThreadPoolExecutor(8) as pool:
            for number, data in zip(order, pool.map(images.blobs.read, order), strict=True):
                assert data == expected[number]
        assert len(images.blobs.files._open) <= most + 8


def test_copies_open_files_of_their_own(tmp_path):
    (tmp_path / "a").write_bytes(b"0123456789")
    files = Files([str(tmp_path / "a")])
    assert files.read(0, 3, 4) == b"3456"
    twins = [copy.deepcopy(files), pickle.loads(pickle.dumps(files))]
    handle = next(iter(files._open.values()))
    del files
    with pytest.raises(OSError):
        os.fstat(handle)
    assert [twin.read(0, 8, 9) for twin in twins] == [b"89", b"89"]


def test_resized_images_are_small_jpegs_and_small_ones_stay(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", size=30)
    images = packed(root=str(tmp_path / "new")).train
    kept = 0
    for number, before in enumerate(originals(splits, "train")):
        height, width = splits.train.read(number).shape[:2]
        after = images.read(number)
        if min(height, width) <= 30:
            assert images.blobs.read(number) == before
            kept += 1
        else:
            assert min(after.shape[:2]) == 30
            assert abs(after.shape[1] / after.shape[0] - width / height) < 0.05
            assert images.blobs.read(number)[:2] == b"\xff\xd8"
            small = cv2.resize(splits.train.read(number), after.shape[1::-1], interpolation=cv2.INTER_AREA)
            assert np.abs(small.astype(int) - after).mean() < 40  # noise is what JPEG is worst at
    assert 0 < kept < len(images)


# ---- damage


@pytest.fixture
def small(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", shard_mb=0.01)
    return tmp_path / "new"


def change(path, function):
    described = json.loads(path.read_text())
    function(described)
    path.write_text(json.dumps(described))


DAMAGE = {
    "no packed.json": (lambda f: (f / "packed.json").unlink(), "tar_shards"),
    "half of packed.json": (lambda f: os.truncate(f / "packed.json", 300), "packed.json is damaged"),
    "another version": (lambda f: change(f / "packed.json", lambda d: d.update(version=7)), "version '7'"),
    "no parts": (lambda f: change(f / "packed.json", lambda d: d.pop("parts")), "packed.json is damaged"),
    "a list": (lambda f: (f / "packed.json").write_text("[]"), "packed.json"),
    "a shard elsewhere": (
        lambda f: change(f / "packed.json", lambda d: d["parts"]["train"]["shards"][0].update(file="../secret.tar")),
        "packed.json is damaged",
    ),
    "no index": (lambda f: (f / "test.index.npz").unlink(), "test.index.npz"),
    "half an index": (lambda f: os.truncate(f / "train.index.npz", 500), "train.index.npz is damaged"),
    "no shard": (lambda f: (f / "train-00001.tar").unlink(), "train-00001.tar is missing"),
    "a short shard": (lambda f: os.truncate(f / "test-00000.tar", 2000), "test-00000.tar has 2000 bytes"),
}


@pytest.mark.parametrize("case", sorted(DAMAGE))
def test_damage_is_found_before_training_and_named(small, case):
    damage, message = DAMAGE[case]
    damage(small)
    with pytest.raises(DataError, match=message):
        packed(root=str(small))


def test_an_index_of_another_set_is_refused_although_its_checksum_is_right(small):
    import hashlib

    (small / "train.index.npz").write_bytes((small / "test.index.npz").read_bytes())
    digest = hashlib.sha256((small / "train.index.npz").read_bytes()).hexdigest()
    change(small / "packed.json", lambda d: d["parts"]["train"].update(index_sha256=digest))
    with pytest.raises(DataError, match=r"train\.index\.npz: 5 images"):
        packed(root=str(small))


def test_folders_that_are_none_of_ours_are_told_apart(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        packed(root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"holds no packed\.json"):
        packed(root=str(tmp_path))
    (tmp_path / "a.mindrecord0").write_bytes(b"")
    with pytest.raises(DataError, match="MindRecord files but no"):
        packed(root=str(tmp_path))
    (tmp_path / ".packing").mkdir()
    with pytest.raises(DataError, match="in part only"):
        packed(root=str(tmp_path))


@pytest.mark.parametrize("format", FORMATS)
def test_changed_bytes_are_an_unreadable_image(tmp_path, format):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", format)
    images = packed(root=str(tmp_path / "new")).train
    row = 4
    place = int(images.blobs.index.offset[row] + images.blobs.index.length[row] // 2)
    path = images.blobs.files.paths[images.blobs.index.shard[row]]
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    images = packed(root=str(tmp_path / "new")).train
    for number in range(len(images)):
        if number != row:
            images.read(number)
    with pytest.raises(DataError, match=r"train/ant/.*CRC-32"):
        images.read(row)
    draws = DrawSource(
        images, lambda epoch: np.arange(len(images)), len(images), on_error="skip", max_error_share=0.5, seed=1
    )
    whole, used = draws._read(row, row)  # another ant takes its place
    assert images.labels[used] == images.labels[row]
    assert used != row
    assert whole.shape[2] == 3
    assert list(draws.faults.messages) == [row]


def test_a_shard_that_shrinks_or_goes_while_it_is_used(small):
    images = packed(root=str(small)).train
    os.truncate(small / "train-00000.tar", 700)
    with pytest.raises(DataError, match="ends before byte"):
        images.read(0)
    images = copy.deepcopy(images)
    (small / "train-00000.tar").unlink()
    with pytest.raises(DataError, match="No such file"):
        images.read(0)


def test_the_recipe_knows_it(tmp_path):
    with pytest.raises(RecipeError, match="folder"):
        recipes.load(write_recipe(tmp_path, {"name": "packed", "folder": 3}))
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new")
    loaded = load_whole(
        recipes.load(write_recipe(tmp_path, {"name": "packed", "root": str(tmp_path), "folder": "new"}))
    )
    assert loaded.train.class_names == tuple(CLASSES)
    assert ".packing" not in " ".join(content(tmp_path / "new"))
