"""The verb pack: killed anywhere and started again, in the wrong folder, from broken images, and what it says."""

import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
from mindspore.mindrecord import FileWriter
from packing import ROOT, command, content, pack, source, write_folder, write_lists, write_recipe

from ms_longtail.data import shard_writers
from ms_longtail.data.packed import packed
from ms_longtail.errors import DataError, UserError
from ms_longtail.run import pack_source


class Killed(BaseException):
    """Nobody catches it; what the code leaves is what a kill would leave."""


class Fuse:
    """Ends the work at the `left`-th of the calls that it is put around: before, or after them in turn."""

    def __init__(self, monkeypatch, left):
        self.left, self.calls = left, 0
        monkeypatch.setattr(os, "replace", self.around(os.replace))
        monkeypatch.setattr(os, "fsync", self.around(os.fsync))
        monkeypatch.setattr(shard_writers.TarWriter, "add", self.around(shard_writers.TarWriter.add, every=7))
        monkeypatch.setattr(FileWriter, "write_raw_data", self.around(FileWriter.write_raw_data))
        monkeypatch.setattr(FileWriter, "commit", self.around(FileWriter.commit))

    def around(self, function, every=1):
        seen = [0]

        def wrapper(*arguments, **keywords):
            seen[0] += 1
            if seen[0] % every:
                return function(*arguments, **keywords)
            self.calls += 1
            if self.calls == self.left and self.left % 2:
                raise Killed
            result = function(*arguments, **keywords)
            if self.calls == self.left:
                raise Killed
            return result

        return wrapper


def killed_at(moment, *arguments, **keywords):
    """Pack until that moment."""
    with pytest.MonkeyPatch.context() as burning:
        Fuse(burning, moment)
        with pytest.raises(Killed):
            pack(*arguments, **keywords)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Without power cuts nobody sees whether a file is on the disk or on its way there; small pages are compared sooner."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(shard_writers, "PAGE", 1 << 17)


@pytest.mark.parametrize(("format", "step"), [("tar", 1), ("mindrecord", 9)])
def test_killed_anywhere_and_started_again_the_bytes_are_the_same(tmp_path, monkeypatch, format, step):
    recipe, splits = source(tmp_path, "folder")
    settings = {"format": format, "shard_mb": 0.03 if format == "tar" else 0.05}
    pack(recipe, splits, tmp_path / "whole", **settings)
    expected = content(tmp_path / "whole")
    assert len([name for name in expected if name.startswith("train-")]) > 2
    with monkeypatch.context() as counting:
        fuse = Fuse(counting, -1)
        pack(recipe, splits, tmp_path / "counted", **settings)
    assert fuse.calls > 20
    for moment in range(1, fuse.calls + 1, step):
        to = tmp_path / f"at{moment}"
        killed_at(moment, recipe, splits, to, **settings)
        pack(recipe, splits, to, **settings, workers=1 + moment % 3)
        assert content(to) == expected, moment


def test_killed_again_and_again_it_gets_there(tmp_path, monkeypatch):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "whole")
    kills = 0
    for _ in range(100):
        with monkeypatch.context() as burning:
            Fuse(burning, 12)  # each start writes no more than a shard or two
            try:
                pack(recipe, splits, tmp_path / "new")
                break
            except Killed:
                kills += 1
    assert kills > 2
    assert content(tmp_path / "new") == content(tmp_path / "whole")


KILL = """
import os, signal, sys
from mindspore.mindrecord import FileWriter
from ms_longtail.cli import main
from ms_longtail.data import shard_writers
shard_writers.PAGE = 1 << 17
commit, left = FileWriter.commit, [2]
def at_the_second(self):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return commit(self)
FileWriter.commit = at_the_second
sys.exit(main(sys.argv[1:]))
"""


def test_a_process_that_is_killed(tmp_path):
    write_folder(tmp_path / "source")
    recipe = write_recipe(tmp_path, {"name": "image_folder", "root": str(tmp_path / "source")})
    words = ["pack", "--config", recipe, "--format", "mindrecord", "--shard-mb", "0.05", "--to"]
    dead = subprocess.run(
        [sys.executable, "-c", KILL, *map(str, words), tmp_path / "new"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert dead.returncode == -signal.SIGKILL
    assert (tmp_path / "new" / "train-00000.mindrecord").is_file()
    assert not (tmp_path / "new" / "packed.json").exists()
    with pytest.raises(DataError, match="in part only"):
        packed(root=str(tmp_path / "new"))
    first = (tmp_path / "new" / "train-00000.mindrecord").stat().st_mtime_ns
    assert command(*words, tmp_path / "new") == 0
    assert (tmp_path / "new" / "train-00000.mindrecord").stat().st_mtime_ns == first  # not written again
    assert command(*words, tmp_path / "whole") == 0
    assert content(tmp_path / "new") == content(tmp_path / "whole")


def test_other_settings_or_another_source_are_refused_and_nothing_changes(tmp_path, capsys):
    write_folder(tmp_path / "source")
    data = {"name": "image_folder", "root": str(tmp_path / "source")}
    recipe = write_recipe(tmp_path, data)
    new = tmp_path / "new"
    assert command("pack", "--config", recipe, "--to", new, "--shard-mb", 0.05) == 0
    assert "images/s" in capsys.readouterr().out
    before = content(new)
    write_lists(tmp_path / "lists")
    lists = {key: f"{tmp_path}/lists/{part}.txt" for key, part in (("train_list", "train"), ("test_list", "test"))}
    other = write_recipe(tmp_path, {"name": "image_list", "root": str(tmp_path / "lists"), **lists}, name="other.yaml")
    for words, named in [
        (["--config", recipe, "--shard-mb", 0.1], "shard_mb: 0.05 there, 0.1 now"),
        (["--config", recipe, "--shard-mb", 0.05, "--size", 20], "size: None there, 20 now"),
        (["--config", recipe, "--shard-mb", 0.05, "--format", "mindrecord"], "format: tar there, mindrecord now"),
        (["--config", other, "--shard-mb", 0.05], "image_folder"),
    ]:
        assert command("pack", "--to", new, *words) == 2
        assert named in capsys.readouterr().err
        assert content(new) == before
    assert command("pack", "--config", recipe, "--to", new, "--shard-mb", 0.05) == 0
    assert "packed already" in capsys.readouterr().out
    # Neither the subset nor the carved part has a say.
    words = ["--set", "data.imbalance.profile=exp", "data.imbalance.factor=2", "data.validation.share=0.3"]
    assert command("pack", "--config", recipe, "--to", new, "--shard-mb", 0.05, *words) == 0
    assert content(new) == before


def test_it_writes_into_its_folder_only_and_never_over_what_is_there(tmp_path, capsys):
    write_folder(tmp_path / "source")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    before = content(tmp_path)
    assert command("pack", "--data", tmp_path / "source", "--to", tmp_path / "mine") == 2
    assert "not empty" in capsys.readouterr().err
    assert command("pack", "--data", tmp_path / "source", "--to", tmp_path / "mine" / "thesis.txt") == 2
    assert command("pack", "--data", tmp_path / "source", "--to", tmp_path / "source" / "new") == 2
    assert "among the class folders" in capsys.readouterr().err
    assert command("pack", "--to", tmp_path / "new") == 2
    assert "--config RECIPE or --data FOLDER" in capsys.readouterr().err
    assert content(tmp_path) == before
    assert command("pack", "--data", tmp_path / "source", "--to", tmp_path / "deep" / "er", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    after = content(tmp_path)
    assert {name for name in after if name not in before} == {
        f"deep/er/{name}"
        for name in ("packed.json", "train-00000.tar", "test-00000.tar", "train.index.npz", "test.index.npz")
    }


def test_two_at_once(tmp_path):
    recipe, splits = source(tmp_path, "folder")

    def again(*arguments, **keywords):
        with pytest.raises(UserError, match="another process"):
            pack(recipe, splits, tmp_path / "new")
        return original(*arguments, **keywords)

    original = pack_source.prepare
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack_source, "prepare", again)
        pack(recipe, splits, tmp_path / "new")


# ---- images that cannot be read


def test_a_broken_image_stops_and_mended_it_goes_on(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "whole")
    broken = tmp_path / "source" / "train" / "bee" / "1_0.jpg"
    good = broken.read_bytes()
    broken.write_bytes(good[:-20])
    with pytest.raises(DataError, match=r"bee/1_0\.jpg: the JPEG is cut short.*give the same command again"):
        pack(recipe, splits, tmp_path / "new")
    broken.write_bytes(good)
    pack(recipe, splits, tmp_path / "new")
    assert content(tmp_path / "new") == content(tmp_path / "whole")


def test_broken_images_are_left_out_and_listed(tmp_path, monkeypatch):
    recipe, splits = source(tmp_path, "folder")
    names = [os.path.relpath(file, tmp_path / "source") for file in splits.train.files]
    gone = [0, 3, 4, len(names) - 1]  # the first and the last, and two neighbours
    for number in gone:
        (tmp_path / "source" / names[number]).write_bytes(b"\x89PNG\r\n rubbish")
    with pytest.raises(DataError, match=r"2 of 17 images of train.*max_error_share 0.1"):
        pack(recipe, splits, tmp_path / "few", skip=True, most=0.1)
    described = pack(recipe, splits, tmp_path / "new", skip=True)
    assert [entry["image"] for entry in described["parts"]["train"]["left_out"]] == [names[n] for n in gone]
    assert described["parts"]["train"]["images"] == len(names) - 4
    assert described["parts"]["test"]["left_out"] == []
    images = packed(root=str(tmp_path / "new")).train
    left = [n for n in range(len(names)) if n not in gone]
    assert images.file_names("") == [names[n] for n in left]
    for number, before in enumerate(left):
        np.testing.assert_array_equal(images.read(number), splits.train.read(before))
    with monkeypatch.context() as counting:
        fuse = Fuse(counting, -1)
        pack(recipe, splits, tmp_path / "counted", skip=True)
    for moment in range(1, fuse.calls + 1, 8):
        to = tmp_path / f"at{moment}"
        killed_at(moment, recipe, splits, to, skip=True)
        pack(recipe, splits, to, skip=True)
        assert content(to) == content(tmp_path / "new"), moment


def test_begun_with_skip_it_does_not_end_with_raise(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    (tmp_path / "source" / "train" / "ant" / "0_0.jpg").write_bytes(b"")
    killed_at(16, recipe, splits, tmp_path / "new", skip=True)
    assert list((tmp_path / "new").glob("train-*"))
    with pytest.raises(DataError, match=r"ant/0_0\.jpg: the file is empty"):
        pack(recipe, splits, tmp_path / "new", skip=False)


# ---- the check


@pytest.mark.parametrize("format", ["tar", "mindrecord"])
def test_check_names_the_image_and_the_shard(tmp_path, capsys, format):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "new", format)
    assert command("pack", "--to", tmp_path / "new", "--check") == 0
    assert "checked: 22 images" in capsys.readouterr().out
    images = packed(root=str(tmp_path / "new")).train
    place = int(images.blobs.index.offset[2])
    shard = images.blobs.files.paths[images.blobs.index.shard[2]]
    with open(shard, "r+b") as file:
        file.seek(place)
        file.write(b"?")
    assert command("pack", "--to", tmp_path / "new", "--check") == 2
    said = capsys.readouterr().err
    assert "1 of 22 images" in said
    assert images.blobs.name(2) in said
    assert shard in said
    assert command("pack", "--to", tmp_path / "nowhere", "--check") == 2


def test_what_was_written_wrong_is_never_called_finished(tmp_path):
    """A disk that lies: one byte of a finished shard changes before the check."""
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "whole")
    killed_at(16, recipe, splits, tmp_path / "new")
    shard = tmp_path / "new" / "train-00000.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:600] + bytes([data[600] ^ 4]) + data[601:])
    with pytest.raises(DataError, match=r"remove their shards and pack again(.|\n)*train-00000\.tar"):
        pack(recipe, splits, tmp_path / "new")
    assert not (tmp_path / "new" / "packed.json").exists()
    shard.unlink()
    pack(recipe, splits, tmp_path / "new")
    assert content(tmp_path / "new") == content(tmp_path / "whole")


def test_a_packed_set_can_be_packed_again(tmp_path):
    recipe, splits = source(tmp_path, "folder")
    pack(recipe, splits, tmp_path / "one", "mindrecord")
    data = {"name": "packed", "root": str(tmp_path / "one")}
    assert (
        command("pack", "--config", write_recipe(tmp_path, data, "two.yaml"), "--to", tmp_path / "two", "--quiet") == 0
    )
    pack(recipe, splits, tmp_path / "three", shard_mb=256.0)
    assert content(tmp_path / "two")["train-00000.tar"] == content(tmp_path / "three")["train-00000.tar"]
    described = json.loads((tmp_path / "two" / "packed.json").read_text())
    assert described["plan"]["source"]["data"] == "packed"


def test_an_image_larger_than_a_page_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writers, "PAGE", 1 << 15)
    recipe, splits = source(tmp_path, "folder")
    rng = np.random.default_rng(0)
    cv2.imwrite(str(tmp_path / "source/train/ant/0_1.png"), rng.integers(0, 256, (120, 120, 3)).astype(np.uint8))
    with pytest.raises(DataError, match=r"ant/0_1\.png has 4\d+ bytes.*--format tar"):
        pack(recipe, splits, tmp_path / "new", "mindrecord")
