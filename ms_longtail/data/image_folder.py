"""Images in one folder per class: ROOT/train/CLASS/*.jpg with ROOT/val or ROOT/test, or ROOT/CLASS/*.jpg to split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Gt, Lt

from ..errors import DataError
from ..registry import DATASETS
from .carve import carve
from .decode import EXTENSIONS
from .image_set import ImageSet, Splits

HELD_OUT = ("test", "val", "valid", "validation")


@DATASETS.register("image_folder")
def image_folder(
    *, root: str, folder: str | None = None, test_share: Annotated[float, Gt(0), Lt(1)] = 0.2, split_seed: int = 0
) -> Splits:
    """Class folders; a class's id is its place among the sorted folder names of train.

    Args:
        root: folder that holds train/ and test/ (or val/), or the class folders themselves. With train/, val/ and
            test/, all three are used; with train/ and one other, that one is the test set.
        folder: name of that folder below root, None for root itself.
        test_share: where there is one folder to split, the share of each class that becomes the test set.
        split_seed: of that split.

    Raises:
        DataError: no folder, no classes, a class without images, a test class that train does not have, parts by other names
            (Train/, training/), which would be taken for classes.
    """
    top = Path(root) if folder is None else Path(root) / folder
    if not top.is_dir():
        raise DataError(f"data.root: the folder {top} does not exist")
    if not (top / "train").is_dir():
        _require_no_other_names(top)
        return _split_one_folder(top, test_share, split_seed)
    held_out = [name for name in HELD_OUT if (top / name).is_dir()]
    if not held_out:
        raise DataError(f"{top} holds train/ but neither val/ nor test/; add one, or move the classes up to be split")
    classes = _classes(top / "train")
    train = _scan(top / "train", classes)
    _require_images(train, top / "train")
    test = _scan(top / held_out[0], classes)
    validation = _scan(top / held_out[1], classes) if len(held_out) > 1 else None
    for name, part in zip(held_out, (test, validation), strict=False):
        if part is not None and not len(part):
            raise DataError(f"{top / name} holds no image ({', '.join(EXTENSIONS)})")
    return Splits(train, test, validation)


def _split_one_folder(top: Path, share: float, seed: int) -> Splits:
    everything = _scan(top, _classes(top))
    _require_images(everything, top)
    train, test = carve(everything.labels, share, seed=seed)
    if not len(test):
        raise DataError(f"{top}: a test_share of {share} leaves no image to test on; raise it or add images")
    return Splits(everything.subset(train), everything.subset(test))


def _require_no_other_names(top: Path) -> None:
    """Train/ beside Test/, say: two classes by the rules, and hardly ever meant so."""
    names = {entry.name.lower(): entry.name for entry in top.iterdir() if entry.is_dir()}
    train = [names[word] for word in ("train", "training") if word in names]
    held_out = [names[word] for word in (*HELD_OUT, "testing") if word in names]
    if train and held_out:
        raise DataError(
            f"{top} holds {train[0]}/ and {held_out[0]}/, which would be taken for two classes; if they are the parts of "
            "the data set, name them train/ and test/ (or val/)"
        )


def _classes(folder: Path) -> list[str]:
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(classes) < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise DataError(f"{folder} must hold at least two class folders, found {found}")
    return classes


def _scan(folder: Path, classes: list[str]) -> ImageSet:
    """Every image below folder/CLASS, sorted by path; other files are passed over."""
    unknown = sorted({e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith(".")} - set(classes))
    if unknown:
        raise DataError(f"{folder} holds class folders that train does not: {', '.join(unknown[:5])}")
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(str(file) for file in (folder / name).rglob("*") if _is_image(file))
        files += found
        labels += [label] * len(found)
    return ImageSet(np.asarray(labels, np.int32), tuple(classes), files=files)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in EXTENSIONS and not file.name.startswith(".") and file.is_file()


def _require_images(images: ImageSet, folder: Path) -> None:
    empty = [images.class_names[c] for c in np.flatnonzero(images.class_counts == 0)]
    if empty:
        raise DataError(f"{folder}: no image ({', '.join(EXTENSIONS)}) in the class folders {', '.join(empty[:5])}")
