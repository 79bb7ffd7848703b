"""From a recipe's words to objects: the only place where settings become components."""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mindspore import nn

from ..augment import CentreCrop
from ..data import (
    DrawSource,
    ImageSet,
    Splits,
    carve,
    checksum,
    choose,
    group_by_name,
    imbalance_factor,
    profile_counts,
)
from ..errors import DataError, RecipeError
from ..losses import Loss
from ..objectives import Classification
from ..recipe import Recipe, Stage
from ..registry import AUGMENT, CLASS_WEIGHTS, DATASETS, LOSSES, MODELS, OPTIMIZERS, SAMPLERS
from ..samplers import EpochOrder


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


def load_data(recipe: Recipe) -> Data:
    """Load, take the long-tailed subset, carve the validation part. Writes nothing (but a download where needed)."""
    load = DATASETS.get(recipe.data.name)
    settings = dict(recipe.data_settings)
    if "root" in inspect.signature(load).parameters:
        settings["root"] = data_root(recipe)
    splits: Splits = load(**settings)
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
            if train.files is None:
                raise RecipeError([f"data.validation.group = {wanted.group!r}: {recipe.data.name} has no file names"])
            names = [os.path.relpath(file, data_root(recipe)) for file in train.files]
            groups = group_by_name(names, train.labels, wanted.group)
        left, held = carve(train.labels, wanted.share, seed=wanted.seed, groups=groups)
        if not len(held):
            raise RecipeError([f"data.validation.share = {wanted.share}: no class is large enough to give an image"])
        train, validation = train.subset(left), train.subset(held)
        description["validation_sha256"] = checksum(kept[held])
        kept = kept[left]
    splits = Splits(train, splits.test, validation)
    empty = np.flatnonzero(train.class_counts == 0)
    if len(empty):
        raise DataError(f"class {train.class_names[empty[0]]!r} (label {empty[0]}) has no training image left")
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
    largest = int(train.class_counts.max())
    n_max = wanted.n_max or largest
    if n_max > largest:
        raise RecipeError([f"data.imbalance.n_max = {n_max}: the largest class has {largest} images"])
    counts = profile_counts(wanted.profile, train.num_classes, n_max, wanted.factor)
    if counts.min() < 1:
        raise RecipeError(
            [f"data.imbalance.factor = {wanted.factor}: with n_max {n_max} the smallest class would have no image; "
             f"the largest possible factor is {n_max}"]
        )  # fmt: skip
    return choose(train.labels, counts, wanted.seed)


def build_model(recipe: Recipe, data: Data, seed: int | None = None) -> nn.Cell:
    """The network with new weights, those of the recipe's seed unless another is given."""
    build = MODELS.get(recipe.model.name)
    mean, std = tuple(recipe.data.mean), tuple(recipe.data.std)
    return build(
        num_classes=data.splits.train.num_classes,
        seed=recipe.seed if seed is None else seed,
        mean=mean,
        std=std,
        **recipe.model.settings,
    )


def build_loss(stage: Stage, counts: np.ndarray, seed: int) -> Loss:
    component, settings = LOSSES.get(stage.loss.name), dict(stage.loss.settings)
    weights = CLASS_WEIGHTS.get(stage.class_weights.name)(counts, **stage.class_weights.settings)
    accepted = inspect.signature(component).parameters
    if "seed" in accepted:
        settings["seed"] = seed
    if weights is not None:
        if "class_weights" not in accepted:
            raise ValueError(f"{stage.loss.name} takes no class_weights; leave {stage.class_weights.name} out")
        settings["class_weights"] = weights
    return component(class_counts=counts, **settings)


def build_objective(stage: Stage, model: nn.Cell, data: Data, seed: int, teacher: nn.Cell | None = None) -> nn.Cell:
    return Classification(model, build_loss(stage, data.class_counts, seed), teacher)


def build_order(
    stage: Stage, labels: np.ndarray, seed: int, *, first_epoch: int = 0, total_epochs: int | None = None
) -> EpochOrder:
    """Epoch (counted over the whole run) -> image indices."""
    component = SAMPLERS.get(stage.sampler.name)
    place = {"first_epoch": first_epoch, "epochs": stage.epochs, "total_epochs": total_epochs}
    place = {key: value for key, value in place.items() if key in inspect.signature(component).parameters}
    sampler = partial(component, labels, seed=seed, **place, **stage.sampler.settings)
    return lambda epoch: sampler(epoch=epoch)


def build_optimizer(stage: Stage, parameters, learning_rate: np.ndarray) -> nn.Optimizer:
    settings = stage.optimizer.settings
    return OPTIMIZERS.get(stage.optimizer.name)(parameters, [float(lr) for lr in learning_rate], **settings)


def build_augment(stage: Stage, recipe: Recipe, train: ImageSet) -> tuple[list, list]:
    """(operations on single images, operations on batches)."""
    ops = []
    for part in stage.augment:
        component = AUGMENT.get(part.name)
        supplied = {"seed": recipe.seed, "size": recipe.data.size}
        accepted = inspect.signature(component).parameters
        ops.append(component(**{k: v for k, v in supplied.items() if k in accepted}, **part.settings))
    single = [op for op in ops if op.level == "image"]
    if not single and not _has_size(train, recipe.data.size):
        single = [CentreCrop(size=recipe.data.size)]
    return single, [op for op in ops if op.level == "batch"]


def _has_size(images: ImageSet, size: int) -> bool:
    return images.images is not None and images.images.shape[1:3] == (size, size)


def evaluation_source(recipe: Recipe, images: ImageSet) -> DrawSource:
    """Every image once, at test-time size, padded by repetition to whole batches."""
    size = recipe.data.size
    ops = []
    if not _has_size(images, size):
        # The usual test-time view: 256 pixels for crops of 224; small images are not cut at all.
        resize = recipe.data.resize or (size if size <= 64 else round(size * 8 / 7))
        ops = [CentreCrop(size=size, resize=resize)]
    everything = np.arange(len(images))
    return DrawSource(
        images,
        lambda _: everything,
        len(images),
        multiple=recipe.batch,
        image_ops=ops,
        # "skip" reads another image of the class instead; its second appearance is dropped, so the bad one is left out.
        on_error=recipe.data.on_error,
        max_error_share=recipe.data.max_error_share,
    )


def check(recipe: Recipe, data: Data) -> None:
    """Build every component once and drop it, so that a setting it refuses is known before anything is written."""
    faults = []
    for number, stage in enumerate(recipe.stages):
        trials = {
            "loss": lambda stage=stage: build_loss(stage, data.class_counts, recipe.seed),
            "augment": lambda stage=stage: build_augment(stage, recipe, data.splits.train),
            "sampler": lambda stage=stage: build_order(stage, data.splits.train.labels, recipe.seed)(0),
        }
        for key, trial in trials.items():
            try:
                trial()
            except ValueError as error:
                faults.append(f"stages.{number}.{key} = {getattr(stage, key)}: {error}")
    if faults:
        raise RecipeError(faults)
