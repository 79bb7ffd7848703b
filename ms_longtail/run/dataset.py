"""The images of a run: the data set, its long-tailed subset, the validation part, and what `split.json` says of them."""

from __future__ import annotations

import inspect
import logging
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import (
    ImageSet,
    Splits,
    carve,
    checksum,
    choose,
    group_by_name,
    imbalance_factor,
    profile_counts,
    profile_shares,
)
from ..errors import DataError, RecipeError
from ..recipe import Recipe
from ..registry import DATASETS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Data:
    """The images of a run and what `split.json` says of them."""

    splits: Splits
    description: dict[str, Any]

    @property
    def class_counts(self) -> np.ndarray:
        """Training images per class, after the subset and after the validation part was carved out."""
        return self.splits.train.class_counts


def data_root(recipe: Recipe) -> str:
    return recipe.data.root or os.environ.get("MSLT_DATA") or "data"


def whole_settings(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's data set is loaded with: its own settings, and those of root and size that it takes."""
    supplied = {"root": data_root(recipe), "size": recipe.data.size}
    taken = inspect.signature(DATASETS.get(recipe.data.name)).parameters
    return dict(recipe.data_settings) | {key: value for key, value in supplied.items() if key in taken}


def load_whole(recipe: Recipe) -> Splits:
    """The data set as it is, before anything is chosen. Writes nothing (but a download where needed)."""
    return DATASETS.get(recipe.data.name)(**whole_settings(recipe))


def load_data(recipe: Recipe) -> Data:
    """Load, take the long-tailed subset, carve the validation part."""
    splits = load_whole(recipe)
    kept = _subset(splits.train, recipe)
    train, validation = splits.train.subset(kept), splits.validation
    description: dict[str, Any] = {"data": recipe.data.name, "classes": list(train.class_names)}
    wanted = recipe.data.validation
    if wanted.share > 0:
        if validation is not None:
            raise RecipeError(
                [f"data.validation.share = {wanted.share}: {recipe.data.name} ships a validation part; use 0"]
            )
        groups = None
        if wanted.group is not None:
            names = train.file_names(data_root(recipe))
            if names is None:
                raise RecipeError([f"data.validation.group = {wanted.group!r}: {recipe.data.name} has no file names"])
            groups = group_by_name(names, train.labels, wanted.group)
        left, held = carve(train.labels, wanted.share, seed=wanted.seed, groups=groups)
        if not len(held):
            raise RecipeError(
                [f"data.validation.share = {wanted.share}: no class is large enough to give an image; use 0"]
            )
        train, validation = train.subset(left), train.subset(held)
        description["validation_sha256"] = checksum(kept[held])
        kept = kept[left]
    splits = Splits(train, splits.test, validation)
    empty = np.flatnonzero(train.class_counts == 0)
    if len(empty):
        raise DataError(f"class {train.class_names[empty[0]]!r} (label {empty[0]}) has no training image left")
    untested = [train.class_names[c] for c in np.flatnonzero(splits.test.class_counts == 0)]
    if untested:
        names = ", ".join(untested[:5]) + (", ..." if len(untested) > 5 else "")
        log.warning("no test image of %d class(es), which no accuracy counts: %s", len(untested), names)
    description |= {
        "imbalance_factor": round(imbalance_factor(train.class_counts), 4),
        "train_sha256": checksum(kept),
        "counts": {name: part.class_counts.tolist() for name, part in splits.parts().items()},
        "images": {name: len(part) for name, part in splits.parts().items()},
    }
    return Data(splits, description)


def _subset(train: ImageSet, recipe: Recipe) -> np.ndarray:
    wanted = recipe.data.imbalance
    if wanted.profile == "none":
        return np.arange(len(train))
    available = train.class_counts  # (C,)
    if not available.all():
        c = int(available.argmin())
        raise DataError(f"class {train.class_names[c]!r} (label {c}) has no training image")
    ranked = np.argsort(-available, kind="stable") if wanted.order == "size" else np.arange(train.num_classes)
    if wanted.n_max is None:  # as many as no class falls short of
        n_max = int((available[ranked] / profile_shares(wanted.profile, train.num_classes, wanted.factor)).min() + 1e-9)
    else:
        n_max = wanted.n_max
    if n_max > available.max():
        raise RecipeError([f"data.imbalance.n_max = {n_max}: the largest class has {available.max()} images"])
    counts = np.empty(train.num_classes, np.int64)
    counts[ranked] = profile_counts(wanted.profile, train.num_classes, n_max, wanted.factor)
    if counts.min() < 1:
        raise RecipeError(
            [f"data.imbalance.factor = {wanted.factor}: with n_max {n_max} the smallest class would have no image; "
             f"the largest possible factor is {n_max}" + ("" if wanted.n_max else "; order: size may allow more")]
        )  # fmt: skip
    short = np.flatnonzero(available < counts)
    if len(short):
        c = short[0]
        raise RecipeError(
            [f"data.imbalance = {wanted.profile}: asks for {counts[c]} images of class {train.class_names[c]!r}, which has "
             f"{available[c]} ({len(short)} such classes); set order: size, so that large classes stay large, "
             "a smaller n_max, or a larger factor"]
        )  # fmt: skip
    return choose(train.labels, counts, wanted.seed)
