"""CIFAR-10 and CIFAR-100 from the official files, python pickles or binary."""

from __future__ import annotations

import hashlib
import http.client
import pickle
import tarfile
import tempfile
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from .image_set import ImageSet, Splits

log = getLogger(__name__)


@dataclass(frozen=True)
class Release:
    """One official archive: where it is, its MD5 as published, and the files it unpacks to."""

    address: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int = 0
    names: str = ""
    file_md5: tuple[str, ...] = ()  # of train + test, where published


_SITE = "https://www.cs.toronto.edu/~kriz"
CIFAR10 = (
    Release(f"{_SITE}/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py",
            tuple(f"data_batch_{k}" for k in range(1, 6)), ("test_batch",), names="batches.meta", file_md5=(
                "c99cafc152244af753f735de768cd75f", "d4bba439e000b95fd0a9bffe97cbabec",
                "54ebc095f3ab1f0389bbae665268c751", "634d18415352ddfa80567beed471001a",
                "482c414d41f54cd18b22e5b47cb7c3cb", "40351d587109b95175f43aff81a1287e")),
    Release(f"{_SITE}/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-batches-bin",
            tuple(f"data_batch_{k}.bin" for k in range(1, 6)), ("test_batch.bin",), 1, "batches.meta.txt"),
)  # fmt: skip
CIFAR100 = (
    Release(f"{_SITE}/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python",
            ("train",), ("test",), names="meta", file_md5=(
                "16019d7e3df5f24257cddd939b257f8d", "f0ef6b0ae62326f3e7ffdfab6717acfc")),
    Release(f"{_SITE}/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8", "cifar-100-binary",
            ("train.bin",), ("test.bin",), 2, "fine_label_names.txt"),
)  # fmt: skip


@DATASETS.register("cifar10_lt")
def cifar10_lt(*, root: str) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 images of 10 classes, found below `root` or downloaded there."""
    return _load(root, CIFAR10, classes=10, key=b"labels", names_key=b"label_names")


@DATASETS.register("cifar100_lt")
def cifar100_lt(*, root: str) -> Splits:
    """CIFAR-100 with its 100 fine labels: 50,000 + 10,000 images, found below `root` or downloaded there."""
    return _load(root, CIFAR100, classes=100, key=b"fine_labels", names_key=b"fine_label_names")


def _load(root: str, releases: tuple[Release, ...], *, classes: int, key: bytes, names_key: bytes) -> Splits:
    release, folder = _find(Path(root), releases)
    _note_differences(release, folder)
    parts = []
    for files in (release.train, release.test):
        read = [_read(folder / file, release, key) for file in files]
        images, labels = (np.concatenate(columns) for columns in zip(*read, strict=True))
        if labels.min() < 0 or labels.max() >= classes:
            raise DataError(f"{folder}: labels run from {labels.min()} to {labels.max()}, not 0 to {classes - 1}")
        parts.append((images, labels.astype(np.int32)))
    names = _names(folder / release.names, release, names_key, classes)
    train, test = (ImageSet(labels, names, images=images) for images, labels in parts)
    return Splits(train, test)


def _find(root: Path, releases: tuple[Release, ...]) -> tuple[Release, Path]:
    """The release whose files are all below `root` (or in it); if there is none, the first one is downloaded."""
    for release in releases:
        for folder in (root / release.folder, root):
            if all((folder / file).is_file() for file in release.train + release.test):
                return release, folder
    release = releases[0]
    _download(release, root)
    return release, root / release.folder


def _note_differences(release: Release, folder: Path) -> None:
    """Say which files are not the official ones, to the byte: a re-encoded copy trains just as well, but scores differ."""
    names = (release.train + release.test)[: len(release.file_md5)]
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: hashlib.md5((folder / name).read_bytes()).hexdigest(), names)
    differing = [name for name, md5, one in zip(names, release.file_md5, found, strict=True) if one != md5]
    if differing:
        log.warning("note: in %s, %s differ from the official files (MD5)", folder, ", ".join(differing))


def _download(release: Release, root: Path) -> None:
    """Fetch, check and unpack an archive. Nothing appears under its final name before the checksum is right."""
    files = ", ".join(release.train + release.test)
    by_hand = f"put the files {files} into the folder {root / release.folder}, from {release.address}"
    try:
        with urllib.request.urlopen(release.address, timeout=20) as source:
            root.mkdir(parents=True, exist_ok=True)  # only now: without a network nothing is left behind
            with tempfile.TemporaryDirectory(dir=root) as scratch:
                _unpack(source, release, root, Path(scratch), by_hand)
    except (http.client.HTTPException, OSError, tarfile.TarError) as error:
        raise DataError(
            f"{release.folder} is not in {root} (data.root) and cannot be downloaded ({error}): {by_hand}"
        ) from error


def _unpack(source, release: Release, root: Path, scratch: Path, by_hand: str) -> None:
    archive = scratch / "archive.tar.gz"
    digest = hashlib.md5()
    with archive.open("wb") as target:
        while block := source.read(1 << 20):
            digest.update(block)
            target.write(block)
    if digest.hexdigest() != release.md5:
        raise DataError(
            f"{release.address} has MD5 {digest.hexdigest()}, expected {release.md5}: the download was damaged or the "
            f"address serves something else; try again, or {by_hand}"
        )
    with tarfile.open(archive) as tar:
        tar.extractall(scratch, filter="data")
    (scratch / release.folder).rename(root / release.folder)


def _read(path: Path, release: Release, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """One file as (images (n, 32, 32, 3) uint8, labels (n,))."""
    if release.label_bytes:
        raw = np.frombuffer(path.read_bytes(), np.uint8)
        width = 3072 + release.label_bytes
        if len(raw) == 0 or len(raw) % width:
            raise DataError(f"{path}: {len(raw)} bytes is not a whole number of records of {width} bytes")
        records = raw.reshape(-1, width)
        # CIFAR-100 stores the coarse label before the fine one; the last label byte is the one that counts.
        pixels, labels = records[:, release.label_bytes :], records[:, release.label_bytes - 1]
    else:
        content = read_pickle(path)
        try:
            pixels, labels = np.asarray(content[b"data"]), np.asarray(content[key])
        except (KeyError, TypeError, IndexError) as error:
            raise DataError(f"{path}: no entry {key!r} or b'data'; is this the official python version?") from error
        if labels.ndim != 1 or pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
            raise DataError(
                f"{path}: data has shape {pixels.shape} and type {pixels.dtype}, not (n, 3072) uint8 with n labels"
            )
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)), labels


def _names(path: Path, release: Release, key: bytes, classes: int) -> tuple[str, ...]:
    """Class names where the release's file is there, else the numbers."""
    if not path.is_file():
        return tuple(str(c) for c in range(classes))
    if release.label_bytes:
        names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    else:
        try:
            names = [name.decode() for name in read_pickle(path)[key]]
        except (KeyError, TypeError, IndexError, AttributeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: no list of names under {key!r}; is this the official python version?") from error
    if len(names) != classes:
        raise DataError(f"{path}: {len(names)} class names, expected {classes}")
    return tuple(names)


class _PlainUnpickler(pickle.Unpickler):
    """Admits arrays, lists, dicts, strings and numbers. Anything else in a pickle could run code of its author's."""

    _ALLOWED = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str):
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it wants to load {module}.{name}, which plain arrays and lists do not need")
        return super().find_class(module, name)


def read_pickle(path: Path):
    """The content of a pickle that holds plain data only; bytes stay bytes."""
    try:
        with path.open("rb") as file:
            return _PlainUnpickler(file, encoding="bytes").load()
    except (Exception, SystemError) as error:  # damaged pickles end in errors of every kind
        raise DataError(f"{path}: not a plain pickle ({error})") from error
