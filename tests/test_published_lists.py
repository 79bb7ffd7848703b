"""The published lists themselves, and lists and JSON of iNaturalist 2018's full size."""

import json
import tracemalloc

import numpy as np
import pytest

from ms_longtail.data.image_list import image_list
from ms_longtail.data.inaturalist import inaturalist
from ms_longtail.data.list_file import read_list
from ms_longtail.errors import DataError

IMAGES, CLASSES = 437_513, 8_142
MEMORY = 200_000_000  # bytes


@pytest.fixture
def splits(real_images):
    if not (real_images / "splits").is_dir():
        pytest.skip("the published lists are looked for in $MSLT_DATA/splits")
    return real_images / "splits"


def by_hand(path):
    """[(path, label)] of a list, line by line."""
    return [(line.rsplit(" ", 1)[0], int(line.rsplit(" ", 1)[1])) for line in path.read_text().split("\n")[:-1]]


def test_places_lt(splits, tmp_path, caplog):
    lists = [splits / "Places_LT" / f"Places_LT_{part}.txt" for part in ("train", "val")]
    loaded = image_list(root=str(tmp_path), train_list=str(lists[0]), test_list=str(lists[1]))
    counts = loaded.train.class_counts
    assert (len(loaded.train), len(counts), counts.max(), counts.min()) == (62_500, 365, 4_980, 5)
    assert counts.max() / counts.min() == 996
    assert loaded.test.class_counts.tolist() == [20] * 365
    for part, path in zip((loaded.train, loaded.test), lists, strict=True):
        expected = [(f"{tmp_path}/{file}", label) for file, label in by_hand(path)]
        assert list(zip(part.files, part.labels.tolist(), strict=True)) == expected
    assert loaded.train.name(61_999).endswith("Places_LT_train.txt, line 62000)")
    assert not caplog.messages  # no image is in both


@pytest.mark.parametrize(
    ("name", "images", "classes", "largest"),
    [
        ("ImageNet_LT/ImageNet_LT_val.txt", 20_000, 1_000, 20),
        ("ImageNet_LT/ImageNet_LT_forward50.txt", 12_058, 1_000, 50),
        ("iNaturalist18/iNaturalist18_val.txt", 24_426, 8_142, 3),
    ],
)
def test_lists_of_other_parts(splits, name, images, classes, largest):
    files, labels = read_list(str(splits / name))
    assert list(zip(files, labels.tolist(), strict=True)) == by_hand(splits / name)
    counts = np.bincount(labels)
    assert (len(files), len(counts), counts.max(), counts.min() > 0) == (images, classes, largest, True)


def test_a_list_cut_off_in_its_last_line(splits, tmp_path):
    folder = splits / "iNaturalist18"
    path = str(folder / "iNaturalist18_train_truncated.txt")
    with pytest.raises(DataError) as caught:
        image_list(root=str(tmp_path), train_list=path, test_list=str(folder / "iNaturalist18_val.txt"))
    assert str(caught.value).startswith(f"{path}, line 6584: 'train_val' is not \"path label\"")
    assert "is the file complete?" in str(caught.value)


def test_a_whole_last_line_leaves_the_gaps_to_be_told(splits, tmp_path):
    folder = splits / "iNaturalist18"
    lines = (folder / "iNaturalist18_train_truncated.txt").read_text().splitlines()[:-1]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    labels = [int(line.split()[1]) for line in lines]
    gap = min(set(range(CLASSES)) - set(labels))
    (tmp_path / "test.txt").write_text("t.jpg 8139\n")
    with pytest.raises(DataError) as caught:
        image_list(root=str(tmp_path), train_list=str(tmp_path / "train.txt"), test_list=str(tmp_path / "test.txt"))
    assert f"no line has the label {gap}; {8140 - len(set(labels))} label(s)" in str(caught.value)
    assert f"the largest label is 8139 (line {labels.index(8139) + 1})" in str(caught.value)


def test_json_with_the_published_categories(splits, tmp_path):
    """The images of the validation list, described in JSON as the competition does."""
    folder = splits / "iNaturalist18"
    categories = json.loads((folder / "categories.json").read_text())
    pairs = by_hand(folder / "iNaturalist18_val.txt")
    for part, mine in (("train", pairs), ("test", pairs[:5])):
        images = [{"id": 1000 + n, "file_name": f"{part}/{file}"} for n, (file, _) in enumerate(mine)]
        annotations = [{"id": n, "image_id": 1000 + n, "category_id": c} for n, (_, c) in enumerate(mine)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (tmp_path / f"{part}.json").write_text(json.dumps(content))
    paths = {f"{part}_json": str(tmp_path / f"{part}.json") for part in ("train", "test")}
    for _ in range(2):  # parsed, then from the index
        loaded = inaturalist(root=str(tmp_path), **paths)
        assert loaded.train.labels.tolist() == [label for _, label in pairs]
        assert list(loaded.test.files) == [f"{tmp_path}/test/{file}" for file, _ in pairs[:5]]
        assert loaded.train.class_names == tuple(c["name"] for c in sorted(categories, key=lambda c: c["id"]))
    with pytest.raises(DataError, match=r"categories\.json: no map of images"):
        inaturalist(root=str(tmp_path), **(paths | {"train_json": str(folder / "categories.json")}))


# ---- full size


def full_labels():
    """437,513 labels in a random order; 8,142 classes of 1,000 images down to 2."""
    counts = np.maximum(2, 1000 * 500.0 ** -(np.linspace(0, 1, CLASSES) ** 0.35)).astype(int)
    missing = IMAGES - counts.sum()
    middle = slice(1000, 7000)  # neither the largest nor the smallest
    counts[middle] += missing // 6000
    counts[1000 : 1000 + missing % 6000] += 1
    assert (counts.sum(), counts.max(), counts.min(), len(counts)) == (IMAGES, 1000, 2, CLASSES)
    return np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), counts))


def file_name(number, label):
    return f"train_val2018/Plantae/{label}/{number * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128:032x}.jpg"


def measured(load):
    """(what it returns, bytes at the worst moment, bytes that stay)."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        result = load()
        now, peak = tracemalloc.get_traced_memory()
        return result, peak - before, now - before
    finally:
        tracemalloc.stop()


def check(loaded, top, labels, place):
    assert len(loaded.train) == IMAGES
    np.testing.assert_array_equal(loaded.train.labels, labels)
    assert loaded.train.class_counts.min() == 2
    for i in [*range(0, IMAGES, 9973), IMAGES - 1]:
        assert loaded.train.files[i] == f"{top}/{file_name(i, labels[i])}"
    assert loaded.train.name(400_000).endswith(place)
    part, _, stays = measured(lambda: loaded.train.subset(np.arange(IMAGES - 1, -1, -1)))
    assert part.files[0] == f"{top}/{file_name(IMAGES - 1, labels[-1])}"
    assert stays < 20_000_000


def test_a_list_of_full_size(tmp_path):
    labels = full_labels()
    lines = (f"{file_name(i, c)} {c}\n" for i, c in enumerate(labels.tolist()))
    (tmp_path / "train.txt").write_text("".join(lines))
    (tmp_path / "test.txt").write_text("".join(f"t/{c}.jpg {c}\n" for c in range(CLASSES)))
    lists = {f"{part}_list": str(tmp_path / f"{part}.txt") for part in ("train", "test")}
    loaded, peak, _ = measured(lambda: image_list(root=str(tmp_path), **lists))
    assert peak < MEMORY
    check(loaded, tmp_path, labels, "train.txt, line 400001)")


def test_json_of_full_size(tmp_path):
    labels = full_labels()
    for part, size in (("train", IMAGES), ("test", 10)):
        images = ",".join(
            f'{{"id":{i},"file_name":"{part if part == "test" else ""}{file_name(i, c)}"}}'.replace('"test', '"test/')
            for i, c in enumerate(labels[:size].tolist())
        )
        annotations = ",".join(f'{{"image_id":{i},"category_id":{c}}}' for i, c in enumerate(labels[:size].tolist()))
        categories = json.dumps([{"id": c, "name": f"species {c}"} for c in range(CLASSES)])
        text = f'{{"images":[{images}],"annotations":[{annotations}],"categories":{categories}}}'
        (tmp_path / f"{part}.json").write_text(text)
    del images, annotations, text
    paths = {f"{part}_json": str(tmp_path / f"{part}.json") for part in ("train", "test")}
    inaturalist(root=str(tmp_path), **paths)
    loaded, peak, _ = measured(lambda: inaturalist(root=str(tmp_path), **paths))
    assert peak < MEMORY
    check(loaded, tmp_path, labels, "train.json, annotation 400000)")
