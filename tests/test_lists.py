"""List files: paths in one block, every line against a slow reading of it, faults with file and line."""

import logging
import pickle
import random
import re

import numpy as np
import pytest

from ms_longtail.data.image_list import image_list
from ms_longtail.data.image_set import ImageSet
from ms_longtail.data.list_file import read_list
from ms_longtail.data.paths import Paths
from ms_longtail.errors import DataError

NAMES = ["a/1.jpg", "ä/二.jpg", "", "a/1.jpg", "b b,c.png", "ä/二.jpg", "a/1.jpg"]


def write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


# ---- paths


def test_paths_are_a_sequence_of_strings():
    paths, strings = Paths.of(NAMES, "top/"), ["top/" + name for name in NAMES]
    assert list(paths) == strings
    assert [paths[i] for i in range(-7, 7)] == strings + strings
    assert len(paths) == 7
    assert list(paths[1:6:2]) == strings[1:6:2]
    assert list(reversed(paths)) == strings[::-1]
    assert paths.index("top/b b,c.png") == 4
    assert "top/a/1.jpg" in paths
    assert paths.count("top/a/1.jpg") == 3
    assert "a/1.jpg" not in paths
    assert list(pickle.loads(pickle.dumps(paths))) == strings
    for index in (7, -8):
        with pytest.raises(IndexError):
            paths[index]
    for empty in (Paths.of([]), paths.take([]), paths[:0]):
        assert list(empty) == []
        assert len(empty.hashes()) == len(empty.repeats()[0]) == 0


def test_a_part_of_the_paths_shares_their_block():
    paths = Paths.of(NAMES)
    part = paths.take(np.array([4, 0, 4]))
    assert list(part) == [NAMES[4], NAMES[0], NAMES[4]]
    assert part.blob is paths.blob
    assert list(part.take(np.array([1]))) == [NAMES[0]]
    mask = np.array([True, False, False, False, True, False, False])
    assert list(paths.take(mask)) == [NAMES[0], NAMES[4]]
    other = Paths.of(["z"])
    joined = Paths.joined([part, other, paths])
    assert list(joined) == [*part, "z", *NAMES]
    assert len(joined.blob) == len(paths.blob) + 1
    with pytest.raises(ValueError, match="prefixes"):
        Paths.joined([paths, Paths.of(["z"], "top/")])


def test_repeats():
    later, earlier = Paths.of(NAMES).repeats()
    assert later.tolist() == [3, 5, 6]
    assert earlier.tolist() == [0, 1, 0]
    assert len(Paths.of(["a", "b", "ab", ""]).repeats()[0]) == 0


def test_equal_hashes_of_different_paths_are_no_repeat(monkeypatch):
    monkeypatch.setattr(Paths, "hashes", lambda self: np.zeros(len(self), np.int64))
    assert len(Paths.of(["a", "b", "c"]).repeats()[0]) == 0


def test_a_subset_of_a_set_makes_no_list():
    images = ImageSet(np.arange(7, dtype=np.int32), tuple("abcdefg"), files=Paths.of(NAMES), origin=str)
    part = images.subset(np.array([6, 4])).subset(np.array([1]))
    assert isinstance(part.files, Paths)
    assert part.name(0) == "b b,c.png (4)"


# ---- lines


def slow(line):
    """(path, label) of a line, or None: one number at the end, blanks or one comma before it, the rest is the path."""
    line = line.strip(" \t\v\f")
    number = re.search(r"[0-9]*$", line).group()
    rest = line[: len(line) - len(number)]
    path = rest.rstrip(" \t\v\f")
    path = path.removesuffix(",").rstrip(" \t\v\f")
    if not number or len(number) > 9 or int(number) >= 1_000_000 or path == rest or not path:
        return None
    return path, int(number)


@pytest.mark.parametrize("seed", range(2))
def test_every_line_is_read_as_by_a_slow_reader(tmp_path, seed):
    rng, right = random.Random(seed), 0
    pieces = ["a", "é", "/", ".", ",", " ", "  ", "\t", "0", "7", "12", "x.jq", "-", "999999", "1000000", "\x0b"]
    lines = ["".join(rng.choices(pieces, k=rng.randrange(1, 6))) for _ in range(400)]
    lines = [line + rng.choice(["", " 3", ",41 ", " ,5"]) for line in lines]
    for number, line in enumerate(lines):
        path, expected = write(tmp_path / "one.txt", f"{number}.png 0\n{line}\n"), slow(line)
        if expected is None:
            with pytest.raises(DataError, match=re.escape(f"{path}, line 2: {line[:80]!r}")):
                read_list(path)
        else:
            files, labels = read_list(path)
            assert (files[1], labels[1]) == expected
            right += 1
    assert 100 < right < 300
    good = {line for line in lines if slow(line)}
    once = {slow(line)[0]: line for line in good}.values()
    for end in ("\n", "\r\n", "\r"):
        files, labels = read_list(write(tmp_path / "all.txt", "\ufeff" + end.join(once)), prefix="top/")
        assert list(zip(files, labels.tolist(), strict=True)) == [(f"top/{p}", y) for p, y in map(slow, once)]


def fails(path, match):
    with pytest.raises(DataError, match=match) as caught:
        read_list(path, "data.train_list")
    return str(caught.value)


def test_the_first_wrong_line_and_how_many_more(tmp_path):
    path = write(tmp_path / "l.txt", "a.jpg 0\nb.jpg\nc.jpg 1\n\n1 d.jpg\n")
    assert "line 2: 'b.jpg' is not" in fails(path, r"\(and 2 more like it\)")
    assert "more" not in fails(write(tmp_path / "l.txt", "a.jpg 0\nb.jpg\n"), r"line 2: 'b\.jpg'")


def test_a_line_with_two_numbers_is_no_path_with_a_blank(tmp_path):
    path = write(tmp_path / "l.txt", "a.jpg 0\nb.JPEG 3 17\nc.png,3,17\n")
    assert "line 2: two numbers behind the path, 'b.JPEG 3'" in fails(path, r"\(and 1 more like it\)")
    files, _ = read_list(write(tmp_path / "l.txt", "photo 12 0\nb.jpg/7 1\nc.jpg7 1\n"))  # odd names, but names
    assert list(files) == ["photo 12", "b.jpg/7", "c.jpg7"]


def test_a_list_cut_short(tmp_path):
    path = write(tmp_path / "l.txt", "train/a.jpg 0\ntrain/b.jpg 1\ntrain_val")
    assert fails(path, "line 3: 'train_val'").endswith("has no end: is the file complete?")
    assert len(read_list(write(tmp_path / "l.txt", "train/a.jpg 0\ntrain/b.jpg 1"))[0]) == 2


def test_a_path_that_is_there_twice(tmp_path):
    lines = ["a.jpg 4", "b.jpg 0", "c.jpg 1", "b.jpg, 0", "a.jpg 3", "a.jpg 4"]
    same = fails(write(tmp_path / "l.txt", "\n".join(lines)), r"l\.txt, line 4: 'b\.jpg' is in line 2 already")
    assert "with the same label 0 (and 2 more like it)" in same
    del lines[3]
    other = fails(write(tmp_path / "l.txt", "\n".join(lines)), r"l\.txt, line 4: 'a\.jpg' is in line 1 already")
    assert "with another label, 4, and 3 here (and 1 more like it)" in other


@pytest.mark.parametrize("tail", ["b.jpg\0 1\n", "caf\xe9.jpg 1\n"])
def test_bytes_that_are_no_text_are_named_by_line(tmp_path, tail):
    fails(write(tmp_path / "l.txt", b"a.jpg 0\n" + tail.encode("latin1")), r"l\.txt is not a text file \(line 2: ")


# ---- sets


@pytest.fixture
def load(tmp_path):
    """A function (texts of lists) -> Splits."""

    def run(train, test="t.png 0\n", validation=None, names=None):
        given = {"train_list": train, "test_list": test, "validation_list": validation, "names_file": names}
        paths = {key: write(tmp_path / f"{key}.txt", text) for key, text in given.items() if text is not None}
        return image_list(root=str(tmp_path), **paths)

    return run


def test_gaps_between_labels(load):
    with pytest.raises(DataError) as caught:
        load("a 0\nb 7\nc 2\nd 7\n")
    assert re.search(r"train_list\.txt: no line has the label 1; 5 label\(s\) in all", str(caught.value))
    assert "the largest label is 7 (line 2); labels count from 0 without a gap" in str(caught.value)
    with pytest.raises(DataError, match=r"no line has the label 0; 1 label\(s\).* largest label is 2 \(line 2\)"):
        load("a 1\nb 2\n", "t 1\n")
    with pytest.raises(DataError, match=r"label 2 \('cat'\); 2 label\(s\).*is 1 \(line 2\); .*names_file\.txt names 4"):
        load("a 0\nb 1\n", names="ant\nbee\ncat\ndog\n")
    assert load("a 0\nb 1\n", names="ant\nbee\n").train.class_names == ("ant", "bee")


def test_labels_that_only_another_list_has(load):
    with pytest.raises(DataError, match=r"test_list\.txt, line 2: label 2 has no image in .*\(and 2 more like it\)"):
        load("a 0\nb 1\n", "t 1\nu 2\nv 2\nw 3\n")


def test_names_that_are_no_text(load):
    with pytest.raises(DataError, match=r"data\.names_file: .*names_file\.txt is not a text file \(line 2"):
        load("a 0\nb 1\n", names=b"ant\nb\xe9e\n")


def test_shared_images_are_one_line_in_the_log(load, caplog):
    with caplog.at_level(logging.WARNING):
        load("a 0\nb 1\nc 1\n", "d 0\nc 1\nb 1\n", "e 0\na 0\n")
        assert len(caplog.messages) == 1
        assert "1 image(s) of train are in validation too" in caplog.text
        assert re.search(
            r"2 image\(s\) of train are in test too, the first: .*/b \(.*train_list\.txt, line 2\)", caplog.text
        )
        assert caplog.text.rstrip().endswith("test_list.txt, line 3")
        caplog.clear()
        load("a 0\nb 1\n", "d 0\n", "e 0\n")
        assert not caplog.messages
