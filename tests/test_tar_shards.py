"""Tar files made by others: both ways to say the label, the cache, and members that nobody should trust."""

import gzip
import logging
import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from packing import command, content, pack, png, source, write_recipe, write_tar

from ms_longtail import recipe as recipes
from ms_longtail.data import cache
from ms_longtail.data.tar_scan import scan
from ms_longtail.data.tar_shards import find_shards, tar_shards
from ms_longtail.errors import DataError
from ms_longtail.run.dataset import load_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def labelled(first, labels, extension=".png"):
    """Members as WebDataset writes them."""
    return [
        member
        for number, label in enumerate(labels, first)
        for member in ((f"{number:06d}{extension}", png(number)), (f"{number:06d}.cls", str(label).encode()))
    ]


def pixels(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def load(root, **settings):
    return tar_shards(root=str(root), **{"train_shards": "train*.tar", "test_shards": "test*.tar"} | settings)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_labels_beside_the_images(tmp_path, format):
    write_tar(tmp_path / "train-0.tar", labelled(0, [2, 0, 1]), format)
    write_tar(tmp_path / "train-1.tar", [("notes.json", b"{}"), *labelled(3, [0, 0])], format)
    write_tar(tmp_path / "test.tar", labelled(5, [1]), format)
    write_tar(tmp_path / "val.tar", labelled(6, [2, 0]), format)
    splits = load(tmp_path, validation_shards="val.tar")
    assert splits.train.labels.tolist() == [2, 0, 1, 0, 0]
    assert splits.validation.labels.tolist() == [2, 0]
    assert splits.train.class_names == ("0", "1", "2")
    for number in range(5):
        np.testing.assert_array_equal(splits.train.read(number), pixels(png(number)))
    np.testing.assert_array_equal(splits.test.read(0), pixels(png(5)))
    assert splits.train.name(3) == f"000003.png ({tmp_path}/train-1.tar)"


def test_labels_are_the_folders(tmp_path):
    long = "x" * 120  # GNU and PAX say such names in members of their own
    write_tar(
        tmp_path / "train.tar",
        [("./all/dog/1.png", png(1)), (f"./all/cat/{long}.png", png(2)), ("all/cat/3.PNG", png(3))],
    )
    write_tar(tmp_path / "test.tar", [("else/where/dog/9.png", png(9))])
    splits = load(tmp_path)
    assert splits.train.class_names == ("cat", "dog")
    assert splits.train.labels.tolist() == [1, 0, 0]
    assert splits.test.labels.tolist() == [1]
    assert splits.train.file_names("") == ["all/dog/1.png", f"all/cat/{long}.png", "all/cat/3.PNG"]
    np.testing.assert_array_equal(splits.train.read(1), pixels(png(2)))


def test_what_gnu_tar_packs(tmp_path):
    """A folder entry, hidden files and files that are no images are passed over."""
    for name in ("cat/1.png", "cat/._1.png", "dog/2.png", "dog/readme.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(len(name)))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        tar.add(tmp_path / "photos", ".")
    splits = load(tmp_path, train_shards="all.tar", test_shards="all.tar")
    assert sorted(splits.train.file_names("")) == ["cat/1.png", "dog/2.png"]


def test_names_with_dots(tmp_path):
    members = [("d/a.v1.png", png(1)), ("d/a.v1.cls", b"1\n"), ("d/b.left.png", png(2)), ("d/b.cls", b" 0 ")]
    write_tar(tmp_path / "train.tar", members)
    assert scan(str(tmp_path / "train.tar")).labels == [1, 0]


def test_our_own_shards_are_readable_as_others_are(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", shard_mb=0.02)
    again = load(tmp_path / "new", train_shards="train-{00000..00001}.tar", test_shards="train-00001.tar")
    count = len(again.train)
    assert count > len(again.test) > 0
    np.testing.assert_array_equal(again.train.labels, splits.train.labels[:count])
    np.testing.assert_array_equal(again.test.labels, splits.train.labels[count - len(again.test) : count])
    for number in range(count):
        np.testing.assert_array_equal(again.train.read(number), splits.train.read(number))


def test_they_can_be_packed_and_trained_from(tmp_path):
    write_tar(tmp_path / "train.tar", labelled(0, [0, 1, 0, 1, 0, 0]))
    write_tar(tmp_path / "test.tar", labelled(6, [0, 1]))
    data = {"name": "tar_shards", "root": str(tmp_path), "train_shards": "train.tar", "test_shards": "test.tar"}
    recipe = write_recipe(tmp_path, data | {"validation": {"share": 0.5, "group": r"(\d+)\.png"}})
    assert load_data(recipes.load(recipe)).description["images"] == {"train": 3, "validation": 3, "test": 2}
    assert command("pack", "--config", recipe, "--to", tmp_path / "new", "--quiet") == 0
    # The packed twin names the set alone: what is said of the images (here: no imbalance, half for validation) stays.
    twin = tmp_path / "twin.yaml"
    twin.write_text(yaml.safe_dump({"base": recipe.name, "data": {"name": "packed", "root": str(tmp_path / "new")}}))
    one, two = (load_data(recipes.load(file)) for file in (recipe, twin))
    assert {**one.description, "data": ""} == {**two.description, "data": ""}


# ---- patterns


def test_patterns(tmp_path):
    for name in ("a-0.tar", "a-1.tar", "a-2.tar", "b-09.tar", "b-10.tar", "[x].tar"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"")
    (tmp_path / "in" / "a-3.tar").mkdir()

    def names(pattern):
        return [Path(path).name for path in find_shards(str(tmp_path), pattern, "key")]

    assert names("in/a-*.tar") == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert names("in/a-{1..2}.tar") == ["a-1.tar", "a-2.tar"]
    assert names("in/b-{09..10}.tar") == ["b-09.tar", "b-10.tar"]
    assert names("*/[ab]-?.tar") == ["a-0.tar", "a-1.tar", "a-2.tar"]
    assert names("in/a-0.tar") == ["a-0.tar"]
    assert names(f"{tmp_path}/in/a-*.tar") == ["a-0.tar", "a-1.tar", "a-2.tar"]
    for pattern, message in [
        ("in/a-{1..5}.tar", r"key: no file .*a-3\.tar"),
        ("in/c-*.tar", "key: no file"),
        ("in/a-{5..1}.tar", "no range"),
        ("in/a-{0..999999999}.tar", "no range"),
        ("in/{0..9999}{0..9999}.tar", "no range"),
    ]:
        with pytest.raises(DataError, match=message):
            names(pattern)


# ---- members that nobody should trust, and files that are not whole


def link(kind):
    member = tarfile.TarInfo("cat/2.png")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


BAD = {
    "absolute": ([("/etc/cron.d/1.png", b"x")], "'/etc/cron.d/1.png' has a name that leads out"),
    "upwards": ([("../../1.png", b"x")], r"'\.\./\.\./1\.png' has a name that leads out"),
    "upwards within": ([("cat/../../../1.png", b"x")], "leads out"),
    "upwards and hidden": ([("../.profile", b"x")], "leads out"),
    "symbolic link": ([link(tarfile.SYMTYPE)], "'cat/2.png' is a link"),
    "hard link": ([link(tarfile.LNKTYPE)], "'cat/2.png' is a link"),
    "device": ([link(tarfile.CHRTYPE)], "'cat/2.png' is no plain file"),
    "pipe": ([link(tarfile.FIFOTYPE)], "'cat/2.png' is no plain file"),
    "twice": ([("cat/1.png", png(1)), ("./cat/1.png", png(2))], "'cat/1.png' is there twice"),
    "no folder": ([("cat/1.png", png(1)), ("2.png", png(2))], r"the image '2\.png' has no label"),
    "no label": ([*labelled(0, [1]), ("7.png", png(1))], r"the image '7\.png' has no label: no member '7\.cls'"),
    "label elsewhere": ([("a/1.png", png(1)), ("b/1.cls", b"1")], r"'a/1\.png' has no label"),
    "no image": ([*labelled(0, [1]), ("8.cls", b"1")], r"the label '8\.cls' has no image"),
    "word": ([("1.png", png(1)), ("1.cls", b"cat")], r"the label '1\.cls' is b'cat', not a whole number"),
    "negative": ([("1.png", png(1)), ("1.cls", b"-1")], "not a whole number"),
    "empty": ([("1.png", png(1)), ("1.cls", b"")], "not a whole number"),
    "fraction": ([("1.png", png(1)), ("1.cls", b"1.0")], "not a whole number"),
    "huge": ([("1.png", png(1)), ("1.cls", b"9" * 9)], "not a whole number from 0 to 999999"),
    "long": ([("1.png", png(1)), ("1.cls", b" " * 70 + b"1")], "not a whole number"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_bad_members_are_named_and_nothing_is_written(tmp_path, own_cache, case):
    members, message = BAD[case]
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "test.tar", labelled(0, [1]) if "cls" in str(members) else [("cat/1.png", png(1))])
    before = content(tmp_path)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert "train.tar" in str(caught.value)
    assert content(tmp_path) == before
    assert not own_cache.exists() or not list(own_cache.iterdir())


def test_a_sparse_member_is_refused(tmp_path):
    member = tarfile.TarInfo("cat/1.png")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"00000001000\0"  # its real size, in place of none
    header[148:156] = b"        "
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (tmp_path / "train.tar").write_bytes(bytes(header) + bytes(1024))
    with pytest.raises(DataError, match="no plain file"):
        scan(str(tmp_path / "train.tar"))


def test_a_file_cut_anywhere_is_found(tmp_path):
    path = write_tar(tmp_path / "whole.tar", labelled(0, [1, 0]), tarfile.USTAR_FORMAT)
    data = path.read_bytes()
    assert scan(str(path)).labels == [1, 0]
    with tarfile.open(path) as tar:
        end = max(member.offset_data + 512 for member in tar.getmembers())
    for length in [*range(0, end, 100), end - 1, end, end + 511]:
        path.write_bytes(data[:length])
        with pytest.raises(DataError, match=r"whole\.tar"):
            scan(str(path))
    path.write_bytes(data[: end + 512])
    assert scan(str(path)).labels == [1, 0]


def test_a_changed_header_is_found(tmp_path):
    """tarfile takes a header that it cannot read for the end, and the rest would be missing silently."""
    path = write_tar(tmp_path / "a.tar", labelled(0, [1, 0, 1]), tarfile.USTAR_FORMAT)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar.getmembers()]
    for place in headers:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataError, match=r"damaged|not a tar"):
            scan(str(path))


def test_other_files(tmp_path):
    plain = write_tar(tmp_path / "plain.tar", labelled(0, [1])).read_bytes()
    for data, message in [
        (gzip.compress(plain), "compressed with gzip"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\xfd7zXZ\0", "compressed with xz"),
        (b"\x28\xb5\x2f\xfdabcd", "compressed with zstd"),
        (b"", "not a tar"),
        (png(1), "not a tar"),
        (np.random.default_rng(0).bytes(5000), "not a tar"),
    ]:
        (tmp_path / "x.tar").write_bytes(data)
        with pytest.raises(DataError, match=message):
            scan(str(tmp_path / "x.tar"))
    write_tar(tmp_path / "train.tar", [("cat/readme.txt", b"")])
    write_tar(tmp_path / "test.tar", [])
    with pytest.raises(DataError, match="no image in"):
        load(tmp_path)
    with pytest.raises(DataError, match="cannot read the shard"):
        scan(str(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        load(tmp_path / "nowhere")


def test_parts_that_do_not_fit_together(tmp_path):
    write_tar(tmp_path / "train-0.tar", labelled(0, [0, 2, 2]))
    write_tar(tmp_path / "test.tar", labelled(3, [1]))
    with pytest.raises(DataError, match=r"test\.tar: the image '000003\.png' has the label 1, of which train has none"):
        load(tmp_path)
    write_tar(tmp_path / "test.tar", [("cat/1.png", png(1))])
    with pytest.raises(DataError, match=r"test\.tar: the image 'cat/1\.png' has no label: .*train-0\.tar has"):
        load(tmp_path)
    write_tar(tmp_path / "train-0.tar", [("dog/1.png", png(1))])
    with pytest.raises(DataError, match=r"'cat/1\.png' lies in a class folder that train does not have"):
        load(tmp_path)


def test_an_image_that_is_none_is_found_when_it_is_read(tmp_path):
    write_tar(tmp_path / "train.tar", [("1.png", b"rubbish"), ("1.cls", b"0"), ("2.png", b""), ("2.cls", b"0")])
    write_tar(tmp_path / "test.tar", labelled(0, [0]))
    images = load(tmp_path).train
    for number, name in enumerate(("1.png", "2.png")):
        with pytest.raises(DataError, match=rf"{name} \(.*train\.tar\)"):
            images.read(number)


# ---- the cache


def counted(monkeypatch):
    seen = []

    def wrapper(path):
        seen.append(os.path.basename(path))
        return scan(path)

    monkeypatch.setattr("ms_longtail.data.tar_shards.scan", wrapper)
    return seen


def test_headers_are_read_once_and_again_when_a_shard_changes(tmp_path, own_cache, monkeypatch):
    write_tar(tmp_path / "train.tar", labelled(0, [0, 1]))
    write_tar(tmp_path / "test.tar", labelled(2, [1]))
    seen = counted(monkeypatch)
    first = load(tmp_path)
    assert seen == ["train.tar", "test.tar"]
    second = load(tmp_path)
    assert len(seen) == 2
    for one, two in zip(first.parts().values(), second.parts().values(), strict=True):
        np.testing.assert_array_equal(one.labels, two.labels)
        np.testing.assert_array_equal(one.read(0), two.read(0))
        assert one.class_names == two.class_names
        assert one.file_names("") == two.file_names("")
    assert [path.name[:4] for path in own_cache.iterdir()] == ["tar-"]
    facts = (tmp_path / "train.tar").stat()
    write_tar(tmp_path / "train.tar", labelled(0, [1, 0]))  # as long as before
    os.utime(tmp_path / "train.tar", ns=(facts.st_atime_ns, facts.st_mtime_ns + 1))
    assert load(tmp_path).train.labels.tolist() == [1, 0]
    assert len(seen) == 4
    for path in own_cache.iterdir():
        os.truncate(path, path.stat().st_size // 2)
    assert load(tmp_path).train.labels.tolist() == [1, 0]
    assert len(seen) == 6
    load(tmp_path)
    assert len(seen) == 6


def test_without_a_cache_it_goes_on(tmp_path, monkeypatch, caplog):
    write_tar(tmp_path / "train.tar", labelled(0, [0, 1]))
    write_tar(tmp_path / "test.tar", labelled(2, [1]))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "file" / "below"))
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path).train.labels.tolist() == [0, 1]
    assert [("MSLT_CACHE" in record.message) for record in caplog.records].count(True) == 1


def test_where_the_cache_is(tmp_path, monkeypatch):
    assert cache.cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("MSLT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder() == tmp_path / "xdg" / "ms_longtail"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "ms_longtail"
