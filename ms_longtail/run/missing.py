"""Every image that a list names is looked for before training starts."""

from __future__ import annotations

import logging

import numpy as np

from ..data import ImageSet, Paths, missing
from ..errors import DataError
from ..recipe import Recipe
from .dataset import Data, data_root

log = logging.getLogger(__name__)


def require_images(recipe: Recipe, data: Data) -> None:
    """A DataError where files of a list do not exist: the first, its line, how many.

    With `data.on_error: skip` it is a warning while no more than `data.max_error_share` of a part's images are missing and
    every class of train has one left. Sets whose files were found on disk in the first place (their paths are no `Paths`) are not
    looked at.
    """
    root, parts = data_root(recipe), data.splits.parts()
    if not all(isinstance(part.files, Paths) for part in parts.values()):
        return
    everything = missing(Paths.joined([part.files for part in parts.values()]))  # parts share folders
    first = 0
    for name, part in parts.items():
        lost = everything[(everything >= first) & (everything < first + len(part))] - first
        first += len(part)
        if not len(lost):
            continue
        said = f"{name}: {len(lost)} of {len(part)} images do not exist, the first: {part.name(int(lost[0]))}"
        if len(everything) > len(lost):
            said += f"; with the other parts {len(everything)}"
        share = recipe.data.max_error_share
        if len(lost) > max(1 if recipe.data.on_error == "skip" else 0, share * len(part)):
            more = f", more than data.max_error_share {share}" if recipe.data.on_error == "skip" else ""
            raise DataError(f"{said}{more}; is data.root right? It is {root!r}")
        if recipe.data.on_error != "skip":
            raise DataError(f"{said}; is data.root right? It is {root!r}. To train without them: data.on_error: skip")
        if name == "train":
            _require_one_of_each(part, lost, said)
        log.warning("%s; they are left out (data.on_error: skip)", said)


def _require_one_of_each(train: ImageSet, lost: np.ndarray, said: str) -> None:
    left = train.class_counts - np.bincount(train.labels[lost], minlength=train.num_classes)
    empty = np.flatnonzero(left == 0)
    if len(empty):
        c = int(empty[0])
        raise DataError(
            f"{said}; {len(empty)} class(es) have no image left, the first: {train.class_names[c]!r} (label {c})"
        )
