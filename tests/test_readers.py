"""Readers of data sets, on small fakes of the official files and, where they are, on the real ones."""

import hashlib
import io
import json
import os
import pickle
import re
import struct
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace
from http.client import IncompleteRead

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from ms_longtail.data import cifar
from ms_longtail.data.cifar import CIFAR10, CIFAR100, cifar10_lt, cifar100_lt, read_pickle
from ms_longtail.data.digits import digits_lt, enlarge
from ms_longtail.data.image_folder import image_folder
from ms_longtail.data.image_list import image_list, read_list
from ms_longtail.data.inaturalist import inaturalist
from ms_longtail.errors import DataError

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NAMES100 = [f"thing_{c}" for c in range(100)]
PER_FILE = 6


# ---- CIFAR


class Python2Pickler(pickle._Pickler):
    """Writes text the way Python 2 did, which wrote the official files: byte strings that say no encoding."""

    def save_text(self, text):
        data = text if isinstance(text, bytes) else text.encode("latin1")
        short = len(data) < 256
        head = pickle.SHORT_BINSTRING + bytes([len(data)]) if short else pickle.BINSTRING + struct.pack("<i", len(data))
        self.write(head + data)
        self.memoize(text)

    dispatch = {**pickle._Pickler.dispatch, bytes: save_text, str: save_text}  # noqa: RUF012


def dumps(content, python2=False):
    if not python2:
        return pickle.dumps(content, protocol=2)
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue()


def fake(classes, files, seed=0):
    """Images (n, 32, 32, 3), fine and coarse labels of every file."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.integers(0, 256, (PER_FILE, 32, 32, 3)).astype(np.uint8),
            rng.integers(0, classes, PER_FILE),
            rng.integers(0, 20, PER_FILE),
        )
        for name in files
    }


def rows(images):
    """As stored: 1024 red values line by line, then green, then blue."""
    return np.concatenate([images[..., channel].reshape(len(images), 1024) for channel in range(3)], axis=1)


def write_python(folder, content, names, *, fine=False, python2=False):
    folder.mkdir(parents=True)
    for name, (images, labels, coarse) in content.items():
        entry = {b"batch_label": name.encode(), b"data": rows(images)}
        entry |= (
            {b"fine_labels": labels.tolist(), b"coarse_labels": coarse.tolist()}
            if fine
            else {b"labels": labels.tolist()}
        )
        (folder / name).write_bytes(dumps(entry, python2))
    key = b"fine_label_names" if fine else b"label_names"
    (folder / ("meta" if fine else "batches.meta")).write_bytes(dumps({key: [n.encode() for n in names]}, python2))


def write_binary(folder, content, names, *, fine=False):
    folder.mkdir(parents=True)
    for name, (images, labels, coarse) in content.items():
        columns = [coarse[:, None]] * fine + [labels[:, None], rows(images)]
        (folder / f"{name}.bin").write_bytes(np.concatenate(columns, axis=1).astype(np.uint8).tobytes())
    (folder / ("fine_label_names.txt" if fine else "batches.meta.txt")).write_text("\n".join(names) + "\n\n")


CASES = {
    "cifar10": (cifar10_lt, CIFAR10, 10, NAMES10, False),
    "cifar100": (cifar100_lt, CIFAR100, 100, NAMES100, True),
}


def check(splits, content, train_files, test_files, names):
    for part, files in ((splits.train, train_files), (splits.test, test_files)):
        np.testing.assert_array_equal(part.images, np.concatenate([content[f][0] for f in files]))
        np.testing.assert_array_equal(part.labels, np.concatenate([content[f][1] for f in files]))
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
        assert part.class_names == tuple(names)
        assert len(part) == PER_FILE * len(files)
        np.testing.assert_array_equal(part.read(1), part.images[1])
    assert splits.validation is None


@pytest.mark.parametrize("form", ["python", "python2", "binary"])
@pytest.mark.parametrize("where", ["below the root", "in the root"])
@pytest.mark.parametrize("case", sorted(CASES))
def test_cifar(tmp_path, case, form, where):
    load, releases, classes, names, fine = CASES[case]
    python, binary = releases
    content = fake(classes, python.train + python.test)
    release = binary if form == "binary" else python
    folder = tmp_path / release.folder
    if form == "binary":
        write_binary(folder, content, names, fine=fine)
    else:
        write_python(folder, content, names, fine=fine, python2=form == "python2")
    splits = load(root=str(tmp_path if where == "below the root" else folder))
    check(splits, content, python.train, python.test, names)


def test_the_folders_and_files_are_those_of_the_official_archives():
    assert [r.folder for r in CIFAR10] == ["cifar-10-batches-py", "cifar-10-batches-bin"]
    assert [r.folder for r in CIFAR100] == ["cifar-100-python", "cifar-100-binary"]
    assert CIFAR10[0].train == ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5")
    assert CIFAR10[1].test == ("test_batch.bin",)
    assert CIFAR100[0].train + CIFAR100[0].test == ("train", "test")
    assert CIFAR100[1].train + CIFAR100[1].test == ("train.bin", "test.bin")


def test_an_incomplete_form_is_passed_over_for_a_complete_one(tmp_path):
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    write_python(tmp_path / CIFAR10[0].folder, content, NAMES10)
    (tmp_path / CIFAR10[0].folder / "data_batch_3").unlink()
    other = fake(10, CIFAR10[0].train + CIFAR10[0].test, seed=1)
    write_binary(tmp_path / CIFAR10[1].folder, other, NAMES10)
    check(cifar10_lt(root=str(tmp_path)), other, CIFAR10[0].train, CIFAR10[0].test, NAMES10)


def test_without_the_file_of_names_classes_have_numbers(tmp_path):
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    for release, write in zip(CIFAR10, (write_python, write_binary), strict=True):
        write(tmp_path / release.folder / release.folder, content, NAMES10)
        (tmp_path / release.folder / release.folder / release.names).unlink()
        names = cifar10_lt(root=str(tmp_path / release.folder)).train.class_names
        assert names == tuple("0123456789")


def test_too_few_names(tmp_path):
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    write_binary(tmp_path / CIFAR10[1].folder, content, NAMES10[:9])
    with pytest.raises(DataError, match=r"batches\.meta\.txt: 9 class names, expected 10"):
        cifar10_lt(root=str(tmp_path))


@pytest.mark.parametrize("cut", [1, 3072, 3073 * PER_FILE])
def test_a_truncated_binary_file(tmp_path, cut):
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    write_binary(tmp_path / CIFAR10[1].folder, content, NAMES10)
    path = tmp_path / CIFAR10[1].folder / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    left = 3073 * PER_FILE - cut
    with pytest.raises(DataError, match=rf"data_batch_4\.bin: {left} bytes is not a whole number of records of 3073"):
        cifar10_lt(root=str(tmp_path))


def test_labels_of_another_data_set_are_refused(tmp_path):
    """A CIFAR-10 file with a label 10, and CIFAR-100 records read as what they are not."""
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    content["data_batch_2"][1][3] = 10
    write_binary(tmp_path / CIFAR10[1].folder, content, NAMES10)
    with pytest.raises(DataError, match="labels run from 0 to 10, not 0 to 9"):
        cifar10_lt(root=str(tmp_path))


BROKEN = {
    "cut short": dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1, 2]})[:-40],
    "empty": b"",
    "text": b"<html>not found</html>",
    "other keys": dumps({b"images": 1}),
    "cifar100's labels": dumps({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1, 2]}),
    "fewer labels": dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [1]}),
    "floats": dumps({b"data": np.zeros((2, 3072)), b"labels": [1, 2]}),
    "other width": dumps({b"data": np.zeros((2, 3000), np.uint8), b"labels": [1, 2]}),
    "a list": dumps([1, 2]),
    "an array": dumps(np.zeros(3)),
    "one label for all": dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": 1}),
    "a damaged word": dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [1]}).replace(b"latin1", b"lati#1"),
    "a damaged opcode": b"\x80\x02}q\x00(K\x01K\x02R.",
}


@pytest.mark.parametrize("damage", sorted(BROKEN))
def test_a_broken_pickle_names_its_file(tmp_path, damage):
    write_python(tmp_path / CIFAR10[0].folder, fake(10, CIFAR10[0].train + CIFAR10[0].test), NAMES10)
    (tmp_path / CIFAR10[0].folder / "data_batch_5").write_bytes(BROKEN[damage])
    with pytest.raises(DataError, match="data_batch_5: "):
        cifar10_lt(root=str(tmp_path))


@pytest.mark.parametrize("content", [{b"fine_label_names": []}, {"label_names": NAMES10}, {b"label_names": NAMES10}])
def test_a_file_of_names_of_another_kind(tmp_path, content):
    """As after re-writing the pickles in Python 3, where names are text: read it or refuse it, but no traceback."""
    write_python(tmp_path / CIFAR10[0].folder, fake(10, CIFAR10[0].train + CIFAR10[0].test), NAMES10)
    (tmp_path / CIFAR10[0].folder / "batches.meta").write_bytes(pickle.dumps(content, protocol=2))
    try:
        names = cifar10_lt(root=str(tmp_path)).train.class_names
    except DataError as error:
        assert "batches.meta" in str(error)  # noqa: PT017
    else:
        assert names in (tuple(NAMES10), tuple("0123456789"))


class RunsCode:
    """Unpickled by a trusting reader, this makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def global_opcode(module, name):
    """A protocol 4 pickle of nothing but a name to import."""
    parts = [pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode() for text in (module, name)]
    return b"\x80\x04" + b"".join(parts) + pickle.STACK_GLOBAL + b"."


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, protocol):
    marker = tmp_path / "ran"
    write_python(tmp_path / CIFAR10[0].folder, fake(10, CIFAR10[0].train + CIFAR10[0].test), NAMES10)
    path = tmp_path / CIFAR10[0].folder / "data_batch_1"
    path.write_bytes(pickle.dumps({b"data": RunsCode(marker), b"labels": []}, protocol=protocol))
    with pytest.raises(DataError, match=r"data_batch_1: not a plain pickle \(it wants to load posix\.mkdir"):
        cifar10_lt(root=str(tmp_path))
    assert not marker.exists()
    pickle.loads(path.read_bytes())  # the test itself works: a trusting reader would have run it
    assert marker.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("os", "system"),
        ("numpy", "load"),
        ("numpy", "ndarray.tofile"),
        ("numpy", "core.multiarray._reconstruct"),
        ("_codecs", "lookup"),
        ("_codecs", "encode.__call__"),
        ("numpy.core.multiarray", "fromfile"),
    ],
)
def test_a_pickle_gets_at_no_other_name(tmp_path, module, name):
    (tmp_path / "p").write_bytes(global_opcode(module, name))
    with pytest.raises(DataError, match=re.escape(f"it wants to load {module}.{name}")):
        read_pickle(tmp_path / "p")


def test_plain_pickles_of_all_kinds_of_numpy(tmp_path):
    """NumPy 2 spells its module with an underscore."""
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    data = pickle.dumps({b"a": array}, protocol=2)
    for spelling in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
        (tmp_path / "p").write_bytes(re.sub(rb"numpy\._?core\.multiarray", spelling, data))
        np.testing.assert_array_equal(read_pickle(tmp_path / "p")[b"a"], array)


# ---- CIFAR's download


@pytest.mark.parametrize("case", sorted(CASES))
def test_without_files_and_network_the_error_says_what_to_do(tmp_path, monkeypatch, case):
    def no_network(address, timeout=None):
        assert address == release.address
        assert timeout is not None
        raise urllib.error.URLError("no route to host")

    load, (release, _), *_ = CASES[case]
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(DataError) as caught:
        load(root=str(tmp_path / "data"))
    for part in (*release.train, *release.test, str(tmp_path / "data" / release.folder), release.address, "no route"):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def archive(tmp_path):
    """The bytes of a small tar.gz with a fake CIFAR-10, and its content."""
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    write_python(tmp_path / "made" / CIFAR10[0].folder, content, NAMES10)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(tmp_path / "made" / CIFAR10[0].folder, CIFAR10[0].folder)
    return file.getvalue(), content


def serve(monkeypatch, data, release=None):
    """Answer every request with `data`; with `release`, as the official archive."""
    asked = []

    def urlopen(address, timeout=None):
        asked.append(address)
        return io.BytesIO(data)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    if release is not None:
        monkeypatch.setattr(cifar, "CIFAR10", (release, CIFAR10[1]))
    return asked


def test_a_download_with_another_checksum_is_refused(tmp_path, monkeypatch):
    data, _ = archive(tmp_path)
    asked = serve(monkeypatch, data)
    root = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        cifar10_lt(root=str(root))
    for part in (hashlib.md5(data).hexdigest(), CIFAR10[0].md5, CIFAR10[0].address, str(root / CIFAR10[0].folder)):
        assert part in str(caught.value)
    assert asked == [CIFAR10[0].address]
    assert not root.exists() or list(root.iterdir()) == []


def test_a_download_with_the_right_checksum_is_unpacked(tmp_path, monkeypatch):
    data, content = archive(tmp_path)
    asked = serve(monkeypatch, data, replace(CIFAR10[0], md5=hashlib.md5(data).hexdigest()))
    root = tmp_path / "below" / "data"
    check(cifar10_lt(root=str(root)), content, CIFAR10[0].train, CIFAR10[0].test, NAMES10)
    assert [path.name for path in root.iterdir()] == [CIFAR10[0].folder]
    check(cifar10_lt(root=str(root)), content, CIFAR10[0].train, CIFAR10[0].test, NAMES10)
    assert len(asked) == 1


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), TimeoutError("slow"), IncompleteRead(b"half", 99)])
def test_a_download_that_breaks_off(tmp_path, monkeypatch, error):
    class Broken(io.BytesIO):
        def read(self, size=-1):
            raise error

    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout=None: Broken())
    with pytest.raises(DataError, match="cannot be downloaded"):
        cifar10_lt(root=str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"not an archive"])
def test_an_archive_that_is_none(tmp_path, monkeypatch, data):
    serve(monkeypatch, data, replace(CIFAR10[0], md5=hashlib.md5(data).hexdigest()))
    with pytest.raises(DataError, match="cannot be downloaded"):
        cifar10_lt(root=str(tmp_path / "data"))
    assert list((tmp_path / "data").iterdir()) == []


def test_a_folder_that_lacks_a_file_is_completed_by_a_download_or_named(tmp_path, monkeypatch):
    """A file is gone: what is there is not lost, and the user learns which files are looked for."""
    data, content = archive(tmp_path)
    serve(monkeypatch, data, replace(CIFAR10[0], md5=hashlib.md5(data).hexdigest()))
    folder = tmp_path / "data" / CIFAR10[0].folder
    write_python(folder, content, NAMES10)
    (folder / "data_batch_3").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        check(cifar10_lt(root=str(tmp_path / "data")), content, CIFAR10[0].train, CIFAR10[0].test, NAMES10)
    except DataError as error:
        assert "data_batch_3" in str(error)  # noqa: PT017
    for name, bytes_ in before.items():
        assert (folder / name).read_bytes() == bytes_
    assert [path.name for path in (tmp_path / "data").iterdir()] == [CIFAR10[0].folder]


def test_a_copy_that_is_not_official_is_remarked_on(tmp_path, caplog):
    content = fake(10, CIFAR10[0].train + CIFAR10[0].test)
    write_python(tmp_path / CIFAR10[0].folder, content, NAMES10)
    with caplog.at_level("WARNING"):
        cifar10_lt(root=str(tmp_path))
    assert "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch differ" in caplog.text


# ---- folders of images


def folders(root, layout):
    """{"train/cat": ["1.jpg", ...]}: every image has a colour of its own."""
    for number, (folder, files) in enumerate(layout.items()):
        (root / folder).mkdir(parents=True)
        for place, file in enumerate(files):
            path = root / folder / file
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (4, 3), (number, place, 7)).save(path, "PNG")
    return str(root)


def listed(part, root):
    return [(os.path.relpath(f, root), int(y)) for f, y in zip(part.files, part.labels, strict=True)]


def test_train_and_test_folders(tmp_path):
    layout = {
        "train/b": ["2.png", "10.PNG", "deep/1.png"],
        "train/a": ["x.jpeg"],
        "train/10": ["y.png"],
        "test/a": ["z.png"],
        "test/b": ["w.png", "v.png"],
    }
    root = folders(tmp_path, layout)
    (tmp_path / "train/a/notes.txt").write_text("no image")
    (tmp_path / "train/.cache").mkdir()
    (tmp_path / "train/readme.md").write_text("no class")
    splits = image_folder(root=root)
    assert splits.train.class_names == splits.test.class_names == ("10", "a", "b")
    assert listed(splits.train, root) == [
        ("train/10/y.png", 0),
        ("train/a/x.jpeg", 1),
        ("train/b/10.PNG", 2),
        ("train/b/2.png", 2),
        ("train/b/deep/1.png", 2),
    ]
    assert listed(splits.test, root) == [("test/a/z.png", 1), ("test/b/v.png", 2), ("test/b/w.png", 2)]
    assert splits.validation is None
    assert splits.train.class_counts.tolist() == [1, 1, 3]
    assert splits.test.class_counts.tolist() == [0, 1, 2]
    assert splits.train.labels.dtype == np.int32
    assert splits.train.read(4)[0, 0].tolist() == [0, 2, 7]


@pytest.mark.parametrize(
    ("present", "test", "validation"),
    [
        (["test"], "test", None),
        (["val"], "val", None),
        (["validation"], "validation", None),
        (["test", "val"], "test", "val"),
        (["test", "validation"], "test", "validation"),
    ],
)
def test_which_folder_is_the_test_set(tmp_path, present, test, validation):
    layout = {f"{part}/{name}": [f"{part}.png"] for part in ["train", *present] for name in "ab"}
    root = folders(tmp_path, layout)
    splits = image_folder(root=root)
    assert listed(splits.train, root) == [("train/a/train.png", 0), ("train/b/train.png", 1)]
    assert listed(splits.test, root) == [(f"{test}/a/{test}.png", 0), (f"{test}/b/{test}.png", 1)]
    if validation is None:
        assert splits.validation is None
    else:
        assert listed(splits.validation, root) == [
            (f"{validation}/{c}/{validation}.png", i) for i, c in enumerate("ab")
        ]


def test_one_folder_is_split_by_class(tmp_path):
    sizes = {"a": 20, "b": 10, "c": 5, "d": 1}
    root = folders(tmp_path, {name: [f"{i}.png" for i in range(n)] for name, n in sizes.items()})
    splits = image_folder(root=root)
    assert splits.test.class_counts.tolist() == [4, 2, 1, 0]
    assert splits.train.class_counts.tolist() == [16, 8, 4, 1]
    train, test = set(splits.train.files), set(splits.test.files)
    assert not train & test
    assert train | test == {f"{root}/{name}/{i}.png" for name, n in sizes.items() for i in range(n)}
    for part in (splits.train, splits.test):
        assert all(part.class_names[y] == f.split("/")[-2] for f, y in zip(part.files, part.labels, strict=True))
    assert image_folder(root=root).test.files == splits.test.files
    assert image_folder(root=root, split_seed=1).test.files != splits.test.files
    assert image_folder(root=root, test_share=0.5).test.class_counts.tolist() == [10, 5, 2, 0]
    with pytest.raises(DataError, match=r"a test_share of 0\.01 leaves no image to test on"):
        image_folder(root=root, test_share=0.01)


def test_faults_of_folders(tmp_path):
    with pytest.raises(DataError, match=r"data\.root: the folder .*nowhere does not exist"):
        image_folder(root=str(tmp_path / "nowhere"))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"data\.root: the folder .*file does not exist"):
        image_folder(root=str(tmp_path / "file"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="must hold at least two class folders, found none"):
        image_folder(root=str(tmp_path / "empty"))
    with pytest.raises(DataError, match="must hold at least two class folders, found only 'cat'"):
        image_folder(root=folders(tmp_path / "one", {"cat": ["1.png"]}))
    with pytest.raises(DataError, match="holds train/ but neither val/ nor test/"):
        image_folder(root=folders(tmp_path / "no test", {"train/a": ["1.png"], "train/b": ["1.png"]}))


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("TRAIN", "valid"), ("training", "Val")])
def test_parts_by_other_names_are_not_taken_for_classes(tmp_path, names):
    layout = {f"{name}/{c}": ["1.png"] for name in names for c in "ab"}
    with pytest.raises(DataError, match=f"holds {names[0]}/ and {names[1]}/.* name them train/ and test/"):
        image_folder(root=folders(tmp_path / "set", layout))
    vehicles = image_folder(
        root=folders(tmp_path / "vehicles", {name: [f"{i}.png" for i in range(5)] for name in ("Bus", "Train")})
    )
    assert vehicles.train.class_names == ("Bus", "Train")


def test_a_part_named_valid(tmp_path):
    layout = {f"{part}/{c}": ["1.png"] for part in ("train", "valid", "test") for c in "ab"}
    splits = image_folder(root=folders(tmp_path / "set", layout))
    assert [len(part) for part in (splits.train, splits.test, splits.validation)] == [2, 2, 2]


def test_classes_without_images(tmp_path):
    layout = {"train/a": ["1.png"], "train/b": [], "train/c": [], "test/a": ["1.png"], "test/b": ["1.png"]}
    with pytest.raises(DataError, match=r"train: no image \(\.jpg.*\) in the class folders b, c"):
        image_folder(root=folders(tmp_path / "train", layout))
    with pytest.raises(DataError, match=r"in the class folders b"):
        image_folder(root=folders(tmp_path / "split", {"a": ["1.png"] * 5, "b": []}))
    layout = {"train/a": ["1.png"], "train/b": ["1.png"], "test/a": [], "test/b": []}
    with pytest.raises(DataError, match="test holds no image"):
        image_folder(root=folders(tmp_path / "test", layout))


@pytest.mark.parametrize("part", ["test", "val"])
def test_a_class_that_train_does_not_have(tmp_path, part):
    layout = {"train/a": ["1.png"], "train/b": ["1.png"], "test/a": ["1.png"], "val/a": ["1.png"]}
    root = folders(tmp_path, layout | {f"{part}/zebra": ["1.png"]})
    with pytest.raises(DataError, match=f"{part} holds class folders that train does not: zebra"):
        image_folder(root=root)


# ---- list files


def write(path, text):
    path.write_bytes(text.encode())
    return str(path)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_with_blanks_and_commas(tmp_path, end):
    lines = ["a/1.jpg 0", "b/2.jpg,1", "c/3.jpg, 12", "  d/4.jpg   3  ", "e/two words.jpg 4", "f/a b  c.jpg,5"]
    files, labels = read_list(write(tmp_path / "list.txt", end.join([*lines, ""])))
    assert list(files) == ["a/1.jpg", "b/2.jpg", "c/3.jpg", "d/4.jpg", "e/two words.jpg", "f/a b  c.jpg"]
    assert labels.tolist() == [0, 1, 12, 3, 4, 5]
    assert labels.dtype == np.int32
    files, _ = read_list(write(tmp_path / "list.txt", "ä/1.jpg 0"))
    assert list(files) == ["ä/1.jpg"]


@pytest.mark.parametrize("line", ["Smith, John/1.jpg 3", "Smith, John/1.jpg,3", "Smith, John/1.jpg, 3"])
def test_only_the_last_comma_of_a_line_separates(tmp_path, line):
    assert list(read_list(write(tmp_path / "list.txt", line))[0]) == ["Smith, John/1.jpg"]


@pytest.mark.parametrize("line", ["b.jpg", "b.jpg one", "b.jpg -1", "b.jpg 1.0", "7", "b.jpg 1 train_val", "train_val"])
def test_a_broken_line_is_named_by_file_and_number(tmp_path, line):
    path = write(tmp_path / "list.txt", f"a.jpg 0\na.jpg 1\n{line}\na.jpg 2\n")
    with pytest.raises(DataError) as caught:
        read_list(path)
    assert str(caught.value).startswith(f"{path}, line 3: {line!r}")


def test_a_label_beyond_32_bits_does_not_become_another_one(tmp_path):
    path = write(tmp_path / "list.txt", "a.jpg 0\nb.jpg 4294967297\n")
    with pytest.raises(DataError, match="line 2"):
        read_list(path)


def test_lists_that_are_missing_empty_or_no_text(tmp_path):
    with pytest.raises(DataError, match=r"data\.train_list: cannot read .*nowhere\.txt: No such file"):
        read_list(str(tmp_path / "nowhere.txt"), "data.train_list")
    with pytest.raises(DataError, match=r"list: .*empty\.txt holds no line"):
        read_list(write(tmp_path / "empty.txt", ""))
    (tmp_path / "picture.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(DataError, match=r"picture\.txt is not a text file"):
        read_list(str(tmp_path / "picture.txt"))
    with pytest.raises(DataError, match="cannot read"):
        read_list(str(tmp_path))


@pytest.fixture
def lists(tmp_path):
    """Keyword arguments of a small image_list set with one real image."""
    Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / "a 1.png")
    return {
        "root": str(tmp_path),
        "train_list": write(tmp_path / "train.txt", "a 1.png 0\nb.png 2\nc.png 1\nd.png 2\n"),
        "test_list": write(tmp_path / "test.txt", "e.png,2\nf.png,0\n"),
    }


def test_image_list(tmp_path, lists):
    splits = image_list(**lists)
    assert splits.train.labels.tolist() == [0, 2, 1, 2]
    assert splits.test.labels.tolist() == [2, 0]
    assert splits.train.class_names == splits.test.class_names == ("0", "1", "2")
    assert splits.train.class_counts.tolist() == [1, 1, 2]
    assert splits.validation is None
    assert splits.train.read(0)[0, 0].tolist() == [9, 8, 7]
    with pytest.raises(DataError, match=r"d\.png \(.*train\.txt, line 4\)"):
        splits.train.read(3)
    with pytest.raises(DataError, match=r"d\.png \(.*train\.txt, line 4\)"):
        splits.train.subset([3, 0]).read(0)
    validation = write(tmp_path / "val.txt", "v.png 1\n")
    names = write(tmp_path / "names.txt", "ant\nbee\n\ncat \n")
    splits = image_list(**lists, validation_list=validation, names_file=names)
    assert splits.validation.labels.tolist() == [1]
    assert splits.validation.class_names == ("ant", "bee", "cat")
    assert list(splits.validation.files) == [f"{tmp_path}/v.png"]


def test_faults_of_lists(tmp_path, lists):
    def fails(match, **changed):
        with pytest.raises(DataError, match=match):
            image_list(**(lists | changed))

    fails(r"data\.test_list: cannot read .*none\.txt", test_list=str(tmp_path / "none.txt"))
    fails(r"data\.validation_list: cannot read .*none\.txt", validation_list=str(tmp_path / "none.txt"))
    fails(r"data\.names_file: cannot read .*none\.txt", names_file=str(tmp_path / "none.txt"))
    fails(r"data\.root: the folder .*nowhere does not exist", root=str(tmp_path / "nowhere"))
    fails(r"names\.txt holds 2 names, the labels need 3", names_file=write(tmp_path / "names.txt", "ant\nbee\n"))
    beyond = write(tmp_path / "beyond.txt", "e.png 2\nf.png 0\ng.png 5\nh.png 5\n")
    fails(r"beyond\.txt, line 3: label 5 has no image in .*train\.txt", test_list=beyond)
    fails(r"beyond\.txt, line 3: label 5 has no image in .*train\.txt", validation_list=beyond)
    gap = write(tmp_path / "gap.txt", "e.png 0\nf.png 2\n")
    between = write(tmp_path / "between.txt", "e.png 2\nf.png 1\n")
    fails(r"between\.txt, line 2: label 1 has no image in .*gap\.txt", train_list=gap, test_list=between)


# ---- iNaturalist


CATEGORIES = [{"id": 90, "name": "wren"}, {"id": 7, "name": "oak"}, {"id": 30}]  # neither sorted nor consecutive


def coco(pairs, first_image=500, categories=CATEGORIES):
    """COCO-style content of (file, category) pairs; images are listed backwards."""
    images = [{"id": first_image + 3 * i, "file_name": file, "width": 8} for i, (file, _) in enumerate(pairs)]
    annotations = [
        {"id": i, "image_id": first_image + 3 * i, "category_id": category} for i, (_, category) in enumerate(pairs)
    ]
    return {"info": {}, "images": images[::-1], "annotations": annotations, "categories": categories}


@pytest.fixture
def nature(tmp_path):
    """A function (train content, test content) -> Splits."""

    def load(train=None, test=None, **changed):
        train = coco([("p/1.jpg", 90), ("p/2.jpg", 7), ("q/3.jpg", 30), ("q/4.jpg", 7)]) if train is None else train
        test = coco([("t/1.jpg", 30), ("t/2.jpg", 90)], first_image=0) if test is None else test
        paths = {}
        for key, content in (("train_json", train), ("test_json", test)):
            text = content if isinstance(content, str) else json.dumps(content, indent=1)
            paths[key] = write(tmp_path / f"{key}.json", text)
        return inaturalist(**({"root": str(tmp_path)} | paths | changed))

    return load


def test_inaturalist(nature, tmp_path):
    splits = nature()
    assert splits.train.class_names == splits.test.class_names == ("oak", "30", "wren")
    assert listed(splits.train, tmp_path) == [("p/1.jpg", 2), ("p/2.jpg", 0), ("q/3.jpg", 1), ("q/4.jpg", 0)]
    assert listed(splits.test, tmp_path) == [("t/1.jpg", 1), ("t/2.jpg", 2)]
    assert splits.validation is None
    assert splits.train.labels.dtype == np.int32
    with pytest.raises(DataError, match=r"q/3\.jpg \(.*train_json\.json, annotation 2\)"):
        splits.train.read(2)


def test_the_test_file_may_list_its_categories_in_another_order(nature):
    test = coco([("t/1.jpg", 30), ("t/2.jpg", 90)], categories=[{"id": 90, "name": "wren"}, {"id": 30}])
    assert nature(test=test).test.labels.tolist() == [1, 2]


@pytest.mark.parametrize("line", [12, 30])
def test_a_file_cut_short_names_the_line(nature, line):
    lines = json.dumps(coco([(f"p/{i}.jpg", 7) for i in range(6)]), indent=1).splitlines()
    while '"file_name": "' not in lines[line - 1]:
        line += 1
    cut = "\n".join([*lines[: line - 1], lines[line - 1][:-8]])  # in the middle of a file name
    with pytest.raises(DataError, match=rf"train_json\.json, line {line}: not valid JSON \(.*is the file complete"):
        nature(train=cut)
    with pytest.raises(DataError, match=rf"test_json\.json, line {line}: "):
        nature(test=cut)


def test_faults_of_json_files(nature, tmp_path):
    with pytest.raises(DataError, match=r"data\.train_json: cannot read .*none\.json: No such file"):
        nature(train_json=str(tmp_path / "none.json"))
    with pytest.raises(DataError, match=r"data\.root: the folder .*nowhere does not exist"):
        nature(root=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no annotations and no categories; this is not COCO-style JSON"):
        nature(test={"images": []})
    with pytest.raises(DataError, match="this is not COCO-style JSON"):
        nature(train=CATEGORIES)  # a list, as the file of categories alone is
    with pytest.raises(DataError, match=r"test_json\.json, annotation 1: no training category has the id 31"):
        nature(test=coco([("t/1.jpg", 30), ("t/2.jpg", 31)]))
    content = coco([("t/1.jpg", 30), ("t/2.jpg", 30)])
    content["annotations"][1]["image_id"] = 4
    with pytest.raises(DataError, match=r"test_json\.json, annotation 1: no image has the id 4"):
        nature(test=content)
    with pytest.raises(DataError, match=r"test_json\.json: no annotation"):
        nature(test=coco([]))


FOREIGN = {
    "a number": "5",
    "no text": "\udcff",
    "an image without a file": {"images": [{"id": 1}]},
    "a category without an id": {"categories": [{"name": "oak"}]},
    "annotations that are numbers": {"annotations": [5]},
}


@pytest.mark.parametrize("kind", sorted(FOREIGN))
def test_json_of_another_structure_is_an_error_with_the_file(nature, tmp_path, kind):
    content = FOREIGN[kind]
    whole = coco([("p/1.jpg", 7), ("p/2.jpg", 30), ("p/3.jpg", 90)])
    path = tmp_path / "foreign.json"
    text = content if isinstance(content, str) else json.dumps(whole | content)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"foreign\.json"):
        nature(train_json=str(path))


# ---- the digits that come with scikit-learn


def test_digits():
    splits = digits_lt()
    source = load_digits()
    places = {}
    for key, part in (("train", splits.train), ("test", splits.test)):
        assert part.images.shape == (len(part), 32, 32, 3)
        assert part.images.dtype == np.uint8
        assert part.labels.dtype == np.int32
        assert part.class_names == tuple("0123456789")
        assert (part.images == part.images[..., :1]).all()
        places[key] = [int(part.name(i).removeprefix("digit ")) for i in range(len(part))]
        np.testing.assert_array_equal(part.labels, source.target[places[key]])
        for i in range(0, len(part), 97):
            np.testing.assert_array_equal(part.images[i], enlarge(source.images[places[key][i]], 32))
    assert sorted(places["train"] + places["test"]) == list(range(1797))
    assert splits.test.class_counts.tolist() == [50] * 10
    assert splits.train.class_counts.min() == 124
    assert splits.train.class_counts.max() == 133
    for c in range(10):  # the test set is what comes last
        last_train = max(p for p in places["train"] if source.target[p] == c)
        assert last_train < min(p for p in places["test"] if source.target[p] == c)
    assert splits.validation is None


def test_enlarged_digits_keep_their_picture():
    for value, expected in ((0, 0), (16, 255), (8, 128)):
        assert (enlarge(np.full((8, 8), value), 32) == expected).all()
    image = load_digits().images[0]
    block = enlarge(image, 32)[..., 0].reshape(8, 4, 8, 4).mean(axis=(1, 3))
    assert np.corrcoef(block.ravel(), image.ravel())[0, 1] > 0.99
    assert abs(block.mean() - image.mean() * 255 / 16) < 5


# ---- the real files


def test_both_forms_of_the_real_cifar10_agree(real_images):
    folders = [real_images / release.folder for release in CIFAR10]
    if not all(folder.is_dir() for folder in folders):
        pytest.skip("needs both forms of CIFAR-10")
    python, binary = (cifar10_lt(root=str(folder)) for folder in folders)
    for one, other in ((python.train, binary.train), (python.test, binary.test)):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert (one.images == other.images).all()
        assert one.class_names == other.class_names == tuple(NAMES10)
    assert python.train.class_counts.tolist() == [5000] * 10
    assert python.test.class_counts.tolist() == [1000] * 10


def test_the_real_list_that_is_cut_short(real_images):
    paths = sorted((real_images / "splits").rglob("iNaturalist18_train*.txt"))
    if not paths:
        pytest.skip("needs the training list of iNaturalist 2018 that is cut short")
    last = len(paths[0].read_text().splitlines())
    with pytest.raises(
        DataError, match=rf"{re.escape(paths[0].name)}, line {last}: 'train_val.* is not \"path label\""
    ):
        read_list(str(paths[0]))


def test_the_real_places_lt(real_images):
    paths = sorted((real_images / "splits").rglob("Places_LT_train.txt"))
    if not paths:
        pytest.skip("needs the training list of Places-LT")
    files, labels = read_list(str(paths[0]))
    counts = np.bincount(labels)
    assert len(files) == len(set(files)) == len(labels) == 62_500
    assert len(counts) == 365
    assert counts.max() == 4980
    assert counts.min() == 5
    assert (files[0], labels[0]) == ("train/airfield/00004851.jpg", 0)
