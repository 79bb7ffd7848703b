"""List files with a line "path label" per image, as ImageNet-LT, Places-LT and the iNaturalist lists are published."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from .image_set import ImageSet, Splits

MAX_CLASSES = 1_000_000
_LINE = re.compile(r"\s*(\S.*?)\s*[\s,]\s*(\d{1,9})\s*$")  # the last blank or comma separates


@DATASETS.register("image_list")
def image_list(
    *,
    root: str,
    train_list: str,
    test_list: str,
    validation_list: str | None = None,
    names_file: str | None = None,
) -> Splits:
    """Images named by list files.

    Args:
        root: folder that the paths in the lists are relative to.
        train_list, test_list: list files.
        validation_list: a third one, where the set ships a validation part.
        names_file: a class name per line, in the order of the labels; default the numbers.

    Raises:
        DataError: a missing list, a line that is not "path label" (with file and line), a label that train lacks.
    """
    lists = {"train_list": train_list, "test_list": test_list, "validation_list": validation_list}
    read = {key: read_list(path, f"data.{key}") for key, path in lists.items() if path is not None}
    classes = 1 + max(int(labels.max()) for _, labels in read.values())
    names = _names(names_file, classes)
    parts = {key: _images(root, lists[key], files, labels, names) for key, (files, labels) in read.items()}
    counts = parts["train_list"].class_counts
    for key, part in parts.items():
        missing = np.flatnonzero((part.class_counts > 0) & (counts == 0))
        if len(missing):
            line = 1 + int(np.flatnonzero(part.labels == missing[0])[0])
            raise DataError(f"{lists[key]}, line {line}: label {missing[0]} has no image in {train_list}")
    return Splits(parts["train_list"], parts["test_list"], parts.get("validation_list"))


def read_list(path: str, key: str = "list") -> tuple[list[str], np.ndarray]:
    """(paths, labels int32) of a list file; the label is behind the last blank or comma of a line."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{key}: cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{key}: {path} is not a text file ({error})") from error
    files, labels = [], np.empty(len(lines), np.int32)
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        label = int(match.group(2)) if match else -1
        if not 0 <= label < MAX_CLASSES:
            raise DataError(
                f'{path}, line {number + 1}: {line[:80]!r} is not "path label" with a label from 0 up to {MAX_CLASSES - 1}'
            )
        files.append(match.group(1))
        labels[number] = label
    if not files:
        raise DataError(f"{key}: {path} holds no line")
    return files, labels


def _images(root: str, path: str, files: list[str], labels: np.ndarray, names: tuple[str, ...]) -> ImageSet:
    top = Path(root)
    if not top.is_dir():
        raise DataError(f"data.root: the folder {top} does not exist (the paths in {path} are relative to it)")
    prefix = f"{top}/"
    return ImageSet(labels, names, files=[prefix + f for f in files], origin=lambda i: f"{path}, line {i + 1}")


def _names(path: str | None, classes: int) -> tuple[str, ...]:
    if path is None:
        return tuple(str(c) for c in range(classes))
    try:
        names = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise DataError(f"data.names_file: cannot read {path}: {error.strerror}") from error
    if len(names) < classes:
        raise DataError(f"data.names_file: {path} holds {len(names)} names, the labels need {classes}")
    return tuple(names)
