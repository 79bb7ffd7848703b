"""iNaturalist's COCO-style JSON: images, annotations and categories in one file."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from .coco_index import Index, read_index
from .image_set import ImageSet, Splits
from .listed import further, warn_of_shared
from .paths import Paths

log = logging.getLogger(__name__)


@DATASETS.register("inaturalist")
def inaturalist(*, root: str, train_json: str, test_json: str) -> Splits:
    """iNaturalist 2018 (Van Horn et al., CVPR 2018) from train2018.json and val2018.json.

    A class is a category of train_json, by ascending id. The files are parsed once; what is needed of them goes into the cache
    folder ($MSLT_CACHE, else $XDG_CACHE_HOME/ms_longtail, else ~/.cache/ms_longtail) and is made again when a file changes.

    Args:
        root: folder that the `file_name` entries are relative to.
        train_json, test_json: the published files; the challenge's validation set is the literature's test set.

    Raises:
        DataError: a file that is missing, cut short (with the line where it breaks) or of another structure; an entry that is
            wrong, by its place from 0 ("annotation 17"): of an unknown image or category, or of an image that has one already;
            a category without a training image.
    """
    if not Path(root).is_dir():
        raise DataError(f"data.root: the folder {root} does not exist (file names in {train_json} are relative to it)")
    unsaved: list[str] = []
    train = read_index(train_json, "data.train_json", unsaved)
    test = read_index(test_json, "data.test_json", unsaved)
    if unsaved:
        log.warning("no index was kept, so the JSON will be parsed every time (%s); set MSLT_CACHE", unsaved[0])
    # Words behind numbers, where a file should have both.
    ids = sorted(train.categories, key=lambda i: (isinstance(i, str), i))
    label_of = {category: label for label, category in enumerate(ids)}
    names = tuple(train.categories[i] for i in ids)
    parts = {
        "train": _images(train, root, train_json, label_of, names),
        "test": _images(test, root, test_json, label_of, names),
    }
    empty = np.flatnonzero(parts["train"].class_counts == 0)
    if len(empty):
        raise DataError(
            f"{train_json}: the category {ids[empty[0]]!r} ({names[empty[0]]}) has no image"
            f"{further(len(empty) - 1)}; every class needs one to train on"
        )
    warn_of_shared(parts)
    return Splits(parts["train"], parts["test"])


def _images(index: Index, root: str, path: str, label_of: dict[int | str, int], names: tuple[str, ...]) -> ImageSet:
    label = np.array([label_of.get(category, -1) for category in index.seen], np.int32)
    labels = label[index.codes]
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        category = index.seen[index.codes[unknown[0]]]
        raise DataError(
            f"{path}, annotation {unknown[0]}: no training category has the id {category!r}{further(len(unknown) - 1)}"
        )
    files = Paths(index.files.blob, index.files.starts, index.files.ends, f"{root}/")
    return ImageSet(labels, names, files=files, origin=lambda i: f"{path}, annotation {i}")
