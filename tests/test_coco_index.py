"""The index of COCO-style JSON: the same content first and later, made again whenever it must be, and every fault of an entry."""

import json
import logging
import os
import random
import re

import numpy as np
import pytest

from ms_longtail.data import cache, coco_index
from ms_longtail.data.inaturalist import inaturalist
from ms_longtail.errors import DataError

CATEGORIES = [{"id": 90, "name": "wren"}, {"id": 7, "name": "oak"}, {"id": 30}]
TRAIN = [("p/1.jpg", 90), ("p/ä.jpg", 7), ("q/3.jpg", 30), ("q/4.jpg", 7)]
TEST = [("t/1.jpg", 30), ("t/2.jpg", 90)]


def coco(pairs, **changed):
    """Content of (file, category) pairs; images are listed backwards."""
    images = [{"id": 50 + 3 * i, "file_name": file} for i, (file, _) in enumerate(pairs)]
    annotations = [{"id": i, "image_id": 50 + 3 * i, "category_id": c} for i, (_, c) in enumerate(pairs)]
    return {"images": images[::-1], "annotations": annotations, "categories": CATEGORIES} | changed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder of the test's own."""
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def nature(tmp_path, folder):
    """A function (train, test content) -> Splits; a part that is None stays as it was written before."""

    def load(train=None, test=None):
        for key, content, first in (("train", train, TRAIN), ("test", test, TEST)):
            path = tmp_path / f"{key}.json"
            if content is not None or not path.exists():
                path.write_text(json.dumps(content or coco(first)))
        return inaturalist(
            root=str(tmp_path), train_json=str(tmp_path / "train.json"), test_json=str(tmp_path / "test.json")
        )

    return load


@pytest.fixture
def makes(monkeypatch):
    """The JSON files that were parsed."""
    made, original = [], coco_index._make
    monkeypatch.setattr(coco_index, "_make", lambda data, path: made.append(path) or original(data, path))
    return made


def content(splits):
    parts = splits.parts().values()
    return [(list(p.files), p.labels.tolist(), p.class_names, p.labels.dtype, p.name(len(p) - 1)) for p in parts]


def test_an_index_is_made_once_and_says_the_same(nature, makes, folder, tmp_path):
    first = content(nature())
    assert [files for files, *_ in first] == [[f"{tmp_path}/{f}" for f, _ in part] for part in (TRAIN, TEST)]
    assert [labels for _, labels, *_ in first] == [[2, 0, 1, 0], [1, 2]]
    assert first[0][2] == ("oak", "30", "wren")
    assert first[0][4] == f"{tmp_path}/q/4.jpg ({tmp_path}/train.json, annotation 3)"
    assert len(makes) == 2
    assert content(nature()) == first
    assert len(makes) == 2
    assert sorted(p.suffix for p in folder.iterdir()) == [".npz", ".npz"]


def test_a_changed_file_is_read_again_however_soon(nature, makes):
    for number in range(5):  # same path, same length, written at once
        splits = nature(train=coco([(f"p/{number}.jpg", 90), ("b.jpg", 7), ("c.jpg", 30)]))
        assert splits.train.files[0].endswith(f"p/{number}.jpg")
    assert len(makes) == 6


def test_a_time_set_back_is_another_file(nature, makes, tmp_path):
    nature()
    os.utime(tmp_path / "train.json", ns=(0, 1))
    nature()
    assert len(makes) == 3


def test_a_damaged_index_is_made_again(nature, makes, folder):
    first, rng = content(nature()), random.Random(0)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        damages = [b"", b"no archive", whole[:-30], whole[: len(whole) // 2], bytes(len(whole)), whole + whole]
        for _ in range(60):
            place = rng.randrange(len(whole))
            damages.append(whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :])
        made = len(makes)
        for damage in damages:
            file.write_bytes(damage)
            assert content(nature()) == first
        assert len(makes) - made > 30  # bits that mean nothing may change unnoticed
    np.savez(file, version=np.array(coco_index.VERSION), other=np.arange(3))
    assert content(nature()) == first


def test_an_index_of_another_format_is_made_again(nature, makes, monkeypatch):
    first = content(nature())
    monkeypatch.setattr(coco_index, "VERSION", coco_index.VERSION + 1)
    assert content(nature()) == first
    assert content(nature()) == first
    assert len(makes) == 4


def test_an_index_never_runs_code(nature, makes, folder):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(folder / "ran"),)

    first = content(nature())
    file = min(folder.iterdir())
    np.savez(file, version=np.array([Trap()], object))
    assert content(nature()) == first
    assert not (folder / "ran").exists()


def test_a_cache_that_cannot_be_written_costs_one_line(nature, makes, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        first = content(nature())
    assert len(caplog.messages) == 1
    assert re.search(r"no index was kept.*file/cache: Not a directory", caplog.text)
    assert content(nature()) == first
    assert len(makes) == 4


def test_a_write_that_fails_leaves_nothing_behind(nature, folder, monkeypatch, caplog):
    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(nature().train) == 4
    assert list(folder.iterdir()) == []
    assert "No space left" in caplog.text


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("MSLT_CACHE")
    assert cache.cache_folder() == tmp_path / "shared" / "ms_longtail"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "ms_longtail"
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # a user number without a name, as containers have
    with pytest.raises(OSError, match="no home folder"):
        cache.cache_folder()


# ---- faults


def entry(pairs, part, place, **changed):
    """Content with one entry changed; a value of None takes the key away."""
    whole = json.loads(json.dumps(coco(pairs)))
    whole[part][place] = {k: v for k, v in (whole[part][place] | changed).items() if v is not None}
    return whole


FAULTS = {
    "an image annotated twice": (
        entry(TRAIN, "annotations", 2, image_id=50),
        r"annotation 2: image 50 \(p/1\.jpg\) has annotation 0 already; an image belongs to one class",
    ),
    "a file of two images": (
        coco([("a", 90), ("b", 7), ("c", 30), ("b", 30), ("a", 90)]),
        r"annotation 3: 'b' is in annotation 1 already, with another category, 7, and 30 here \(and 1 more like it\)",
    ),
    "an unknown image": (entry(TRAIN, "annotations", 1, image_id=4), "annotation 1: no image has the id 4"),
    "an unknown category": (
        coco([*TRAIN, ("r.jpg", 31), ("s.jpg", 32)]),
        r"annotation 4: no training category has the id 31 \(and 1 more like it\)",
    ),
    "categories without an image": (
        coco(TRAIN[:1]),
        r"the category 7 \(oak\) has no image \(and 1 more like it\)",
    ),
    "an image's id twice": (entry(TRAIN, "images", 3, id=53), "image 3: image 2 has the id 53 already"),
    "a category's id twice": (coco(TRAIN, categories=[*CATEGORIES, {"id": 7}]), "category 3: an earlier .* id 7"),
    "a category without id": (coco(TRAIN, categories=[*CATEGORIES, {"name": "x"}]), "category 3: .* has no 'id'"),
    "an annotation without image": (entry(TRAIN, "annotations", 3, image_id=None), "annotation 3: .* no 'image_id'"),
    "an annotation without category": (entry(TRAIN, "annotations", 3, category_id=None), "annotation 3: .* no 'categ"),
    "an image without a file": (entry(TRAIN, "images", 2, file_name=None), "image 2: .* has no 'file_name'"),
    "a file with byte 0": (entry(TRAIN, "images", 2, file_name="a\0b"), "image 2: .* has no 'file_name' that a file"),
    "half a character": (entry(TRAIN, "images", 2, file_name="\ud800"), "image 2: .* has no 'file_name' that a file"),
    "a file that is a number": (entry(TRAIN, "images", 2, file_name=3), "image 2: .* has no 'file_name'"),
    "an id that is a list": (entry(TRAIN, "annotations", 1, category_id=[7]), r"annotation 1: category_id is '\[7\]'"),
    "an id that is a fraction": (entry(TRAIN, "images", 1, id=7.5), "image 1: id is '7.5', not a whole number"),
    "images in a map": (coco(TRAIN, images={"1": "a.jpg"}), "'images' is no list"),
    "no annotation": (coco([]), "no annotation$"),
}


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_names_its_entry_every_time(nature, fault):
    train, match = FAULTS[fault]
    for _ in range(2):  # an index of a faulty file must not hide the fault
        with pytest.raises(DataError, match=rf"train\.json(, |: )(the )?.*{match.removeprefix('the ')}"):
            nature(train=train)
        train = None


def test_lists_without_end(nature, tmp_path):
    nature()
    (tmp_path / "train.json").write_text("[" * 200_000)
    with pytest.raises(DataError, match=r"train\.json"):
        nature()


def test_words_and_numbers_as_ids(nature):
    categories = [{"id": "b"}, {"id": 2}, {"id": "a"}, {"id": "2"}]
    train = coco([("1", "b"), ("2", 2), ("3", "a"), ("4", "2")], categories=categories)
    for _ in range(2):
        splits = nature(train=train, test=coco([("5", "2"), ("6", 2)]))
        assert splits.train.labels.tolist() == [3, 0, 2, 1]
        assert splits.test.labels.tolist() == [1, 0]


def test_shared_images_are_told(nature, caplog):
    with caplog.at_level(logging.WARNING):
        nature(test=coco([("t/1.jpg", 30), ("q/3.jpg", 30)]))
    assert len(caplog.messages) == 1
    assert re.search(
        r"1 image\(s\) of train are in test too, .*train\.json, annotation 2\) and .*annotation 1$", caplog.text.strip()
    )
