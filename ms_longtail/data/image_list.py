"""List files with a line "path label" per image, as ImageNet-LT, Places-LT and the iNaturalist lists are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from .image_set import ImageSet, Splits
from .list_file import read_list, text_of
from .listed import require_known_labels, warn_of_shared


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
        DataError: a missing list; with file and line: a line that is not "path label", a path that its list holds twice,
            a label that train lacks, be it one of another list or a gap between train's own.
    """
    if not Path(root).is_dir():
        raise DataError(f"data.root: the folder {root} does not exist (the paths in {train_list} are relative to it)")
    given = {"train": train_list, "validation": validation_list, "test": test_list}
    lists = {name: path for name, path in given.items() if path is not None}
    prefix = f"{Path(root)}/"
    read = {name: read_list(path, f"data.{name}_list", prefix) for name, path in lists.items()}
    names = _names(names_file, 1 + max(int(labels.max()) for _, labels in read.values()))
    parts = {
        name: ImageSet(labels, names, files=files, origin=lambda i, path=lists[name]: f"{path}, line {i + 1}")
        for name, (files, labels) in read.items()
    }
    for name in parts:
        require_known_labels(parts["train"], parts[name], (train_list, lists[name]))
    _require_no_gap(parts["train"], train_list, names_file)
    warn_of_shared(parts)
    return Splits(parts["train"], parts["test"], parts.get("validation"))


def _require_no_gap(train: ImageSet, path: str, names_file: str | None) -> None:
    """A DataError with the first class that no line of train has."""
    empty = np.flatnonzero(train.class_counts == 0)
    if not len(empty):
        return
    largest, name = int(train.labels.max()), train.class_names[empty[0]]
    line = 1 + int(train.labels.argmax())
    why = "labels count from 0 without a gap"
    if empty[0] > largest:
        why = f"{names_file} names {train.num_classes} classes"
    raise DataError(
        f"{path}: no line has the label {empty[0]}{f' ({name!r})' if names_file else ''}; {len(empty)} label(s) in all have "
        f"none, the largest label is {largest} (line {line}); {why}, and every class needs an image to train on"
    )


def _names(path: str | None, classes: int) -> tuple[str, ...]:
    if path is None:
        return tuple(str(c) for c in range(classes))
    lines = text_of(path, "data.names_file").decode().splitlines()
    names = [line.strip() for line in lines if line.strip()]
    if len(names) < classes:
        raise DataError(f"data.names_file: {path} holds {len(names)} names, the labels need {classes}")
    return tuple(names)
