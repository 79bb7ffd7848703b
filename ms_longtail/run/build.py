"""From a recipe's words to objects: the only place where settings become components."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import numpy as np
from mindspore import nn

from .. import hashing
from ..augment import LEVELS, CentreCrop
from ..data import ImageSet, View
from ..losses import Contrast, Loss
from ..mixing import Mixing
from ..models.precision import set_precision
from ..objectives import Mixture
from ..recipe import Component, Recipe, Stage
from ..registry import AUGMENT, CLASS_WEIGHTS, CONTRASTS, LOSSES, MIXING, MODELS, OBJECTIVES, OPTIMIZERS, SAMPLERS
from ..samplers import EpochOrder
from .dataset import Data


def build_model(recipe: Recipe, data: Data, seed: int | None = None) -> nn.Cell:
    """The network with new weights, those of the recipe's seed unless another is given."""
    build = MODELS.get(recipe.model.name)
    mean, std = tuple(recipe.data.mean), tuple(recipe.data.std)
    network = build(
        num_classes=data.splits.train.num_classes,
        seed=recipe.seed if seed is None else seed,
        mean=mean,
        std=std,
        **recipe.model.settings,
    )
    set_precision(network, recipe.amp)
    return network


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


def build_mixing(stage: Stage, counts: np.ndarray, seed: int) -> Mixing | None:
    component = MIXING.get(stage.mixing.name)
    supplied = {"seed": seed, "class_counts": counts}
    accepted = inspect.signature(component).parameters
    return component(**{k: v for k, v in supplied.items() if k in accepted}, **stage.mixing.settings)


def build_contrast(stage: Stage, counts: np.ndarray) -> Contrast | None:
    component = CONTRASTS.get(stage.contrast.name)
    supplied = {"class_counts": counts} if "class_counts" in inspect.signature(component).parameters else {}
    return component(**supplied, **stage.contrast.settings)


def build_objective(
    stage: Stage,
    model: nn.Cell,
    data: Data,
    seed: int,
    twin: Callable[[], nn.Cell],
    teacher: nn.Cell | None = None,
) -> nn.Cell:
    """The objective of a stage; `twin` builds another network like the model, for an objective that has one."""
    loss = build_loss(stage, data.class_counts, seed)
    mixing = build_mixing(stage, data.class_counts, seed)
    if mixing is None:
        component = OBJECTIVES.get(stage.objective.name)
        accepted = inspect.signature(component).parameters
        supplied = {
            "class_counts": data.class_counts,
            "views": 1 + len(stage.views),
            "second": stage.second_sampler is not None,
            "batch": stage.batch,
            "seed": seed,
        }
        supplied = {key: value for key, value in supplied.items() if key in accepted}
        if "contrast" in accepted:
            supplied["contrast"] = build_contrast(stage, data.class_counts)
        if "twin" in accepted:
            supplied["twin"] = twin()
        return component(model, loss, teacher, **supplied, **stage.objective.settings)
    second = mixing.second or (mixing.layer is not None and stage.second_sampler is not None)
    return Mixture(model, loss, teacher, parts=1 + mixing.partners, second=second, layer=mixing.layer)


def build_order(
    stage: Stage, labels: np.ndarray, seed: int, *, first_epoch: int = 0, total_epochs: int | None = None
) -> EpochOrder:
    """Epoch (counted over the whole run) -> image indices."""
    return _order(stage.sampler, stage, labels, seed, first_epoch, total_epochs)


def build_second_order(
    stage: Stage, labels: np.ndarray, seed: int, length: int, *, first_epoch: int = 0, total_epochs: int | None = None
) -> EpochOrder | None:
    """The same for the images that the stage's are mixed with; `length` of them an epoch, unless the recipe says as many."""
    if stage.second_sampler is None:
        return None
    component = stage.second_sampler
    wanted = component.settings.get("num_samples")
    if wanted not in (None, length):
        raise ValueError(f"num_samples = {wanted}: must be that of the first sampler, {length}, or left out")
    component = Component(component.name, component.settings | {"num_samples": length})
    return _order(component, stage, labels, second_seed(seed), first_epoch, total_epochs)


def second_seed(seed: int) -> int:
    """Of the second order and of what happens to its images: the same choices twice would be no mixture."""
    return int(hashing.integers(seed, np.array([0]), "second", 1, 2**32)[0, 0])


def _order(
    sampler: Component, stage: Stage, labels, seed: int, first_epoch: int, total_epochs: int | None
) -> EpochOrder:
    component = SAMPLERS.get(sampler.name)
    place = {"first_epoch": first_epoch, "epochs": stage.epochs, "total_epochs": total_epochs}
    place = {key: value for key, value in place.items() if key in inspect.signature(component).parameters}
    order = partial(component, labels, seed=seed, **place, **sampler.settings)
    return lambda epoch: order(epoch=epoch)


def build_optimizer(stage: Stage, parameters, learning_rate: np.ndarray) -> nn.Optimizer:
    settings = stage.optimizer.settings
    return OPTIMIZERS.get(stage.optimizer.name)(parameters, [float(lr) for lr in learning_rate], **settings)


def build_augment(
    operations: tuple[Component, ...], recipe: Recipe, train: ImageSet, *, seed: int, maps: np.ndarray | None = None
) -> View:
    """What is done to images on their way into a column: a stage's `augment`, or one of its `views`."""
    ops: dict[str, list] = {level: [] for level in LEVELS}
    supplied = {"seed": seed, "size": recipe.data.size, "maps": maps, "class_counts": train.class_counts}
    for part in operations:
        component = AUGMENT.get(part.name)
        accepted = inspect.signature(component).parameters
        op = component(**{k: v for k, v in supplied.items() if k in accepted}, **part.settings)
        if op.level == "image" and not callable(getattr(op, "random", None)):
            raise ValueError(
                f"{part.name}, of level 'image', needs a method random(draws) that gives a row of numbers per image"
            )
        ops[op.level].append(op)
    if not ops["image"] and not has_size(train, recipe.data.size):
        ops["image"] = [CentreCrop(size=recipe.data.size)]
    return View(**{level: tuple(found) for level, found in ops.items()})


def build_views(
    stage: Stage, recipe: Recipe, train: ImageSet, *, seed: int, maps: np.ndarray | None = None
) -> tuple[View, ...]:
    """All views of a stage, each with random choices of its own."""
    seeds = [seed] + [view_seed(seed, number) for number in range(2, 2 + len(stage.views))]
    lists = (stage.augment, *stage.views)
    return tuple(build_augment(ops, recipe, train, seed=s, maps=maps) for ops, s in zip(lists, seeds, strict=True))


def view_seed(seed: int, number: int) -> int:
    """Of what happens to the images of a view, counted from 1; the first view's is the run's own."""
    return int(hashing.integers(seed, np.array([number]), "view", 1, 2**32)[0, 0])


def needs_maps(stage: Stage) -> bool:
    """Whether an augmentation of the stage looks at class activation maps."""
    return any(getattr(AUGMENT.get(op.name), "needs_maps", False) for _, op in stage.operations)


def has_size(images: ImageSet, size: int) -> bool:
    """Whether the images are in memory, and squares of this size."""
    return images.images is not None and images.images.shape[1:3] == (size, size)
