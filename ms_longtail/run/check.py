"""Every component of a recipe built once and dropped, so that a setting it refuses is known before anything is written."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from mindspore import Tensor, nn

from ..errors import RecipeError, UserError
from ..mixing import Mixing
from ..models.freezing import freeze, parameters_in
from ..models.heads import neutral_values
from ..recipe import Component, Recipe, Stage
from ..recipe.across import is_path, second_part
from ..registry import nearest
from ..training.checkpoints import read
from .build import (
    build_augment,
    build_contrast,
    build_loss,
    build_mixing,
    build_model,
    build_objective,
    build_order,
    build_second_order,
    needs_maps,
)
from .dataset import Data
from .plan import draws_follow, whole_batches_only
from .pretrained import fit
from .teachers import build_teacher, describe_teacher

log = logging.getLogger(__name__)


def check(recipe: Recipe, data: Data, *, resuming: bool = False) -> None:
    """A RecipeError with all settings that a component refuses on this data.

    A run that is resumed has a copy of the checkpoint that a stage started from, and of the weights that it began with, so
    the files are not looked for.
    """
    faults = []
    if recipe.early_stopping is not None and data.splits.validation is None:
        faults.append(
            f"early_stopping = {recipe.early_stopping}: there is no validation part to go by; set data.validation.share"
        )
    if recipe.amp != "O0" and recipe.loss_scale == 1:
        log.warning(
            "amp = %s with loss_scale = 1: parts of a gradient below 6e-8 are 0 in float16; without the key it is dynamic",
            recipe.amp,
        )
    train, seed = data.splits.train, recipe.seed
    model = cache(lambda: build_model(recipe, data))  # built only where a stage asks something of it
    if recipe.pretrained is not None and not resuming:
        try:
            fit(recipe, model())
        except ValueError as error:
            faults.append(f"pretrained = {recipe.pretrained.path}: {error}")
    for number, stage in enumerate(recipe.stages):

        def orders(stage: Stage = stage) -> None:
            length = len(build_order(stage, train.labels, seed)(0))
            length -= length % stage.batch if whole_batches_only(stage, recipe) else 0
            part = data.splits.parts().get(second_part(stage.objective) or "train", train)
            second = build_second_order(stage, part.labels, seed, length)
            if second is not None:
                second(0)

        trials = {
            "contrast": lambda stage=stage: build_contrast(stage, data.class_counts),
            "loss": lambda stage=stage: build_loss(stage, data.class_counts, seed),
            "augment": lambda stage=stage: (
                build_augment(stage.augment, recipe, train, seed=seed) and _can_map(stage, recipe.data.size, model)
            ),
            "mixing": lambda stage=stage: _can_mix(build_mixing(stage, data.class_counts, seed), model),
            "sampler": orders,
            "freeze": lambda stage=stage: stage.freeze and _can_rest(stage, model()),
            "reset": lambda stage=stage: stage.reset and parameters_in(model(), stage.reset),
            "teacher": lambda stage=stage: _can_teach(stage, recipe, data, resuming),
            "objective": lambda stage=stage: _can_be(stage, recipe, data, model),
            "start": lambda number=number: _can_start(recipe, number, data, model, resuming),
        }
        said = {key: getattr(stage, key) for key in trials}
        for place, view in enumerate(stage.views):
            trials[f"views.{place}"] = lambda view=view: build_augment(view, recipe, train, seed=seed)
            said[f"views.{place}"] = view
        for key, trial in trials.items():
            try:
                trial()
            except (ValueError, UserError) as error:
                faults.append(f"stages.{number}.{key} = {_text(said[key])}: {error}")
    if faults:
        raise RecipeError(faults)


def _can_rest(stage: Stage, network: nn.Cell) -> None:
    resting = parameters_in(network, stage.freeze)
    if all(p.name in resting for p in network.trainable_params()):
        raise ValueError("nothing is left to train; name fewer parts")


def _can_be(stage: Stage, recipe: Recipe, data: Data, model: Callable[[], nn.Cell]) -> None:
    """Whether the objective accepts the model as the stage leaves it, the loss and the data."""
    if stage.objective.name == "classification":
        return
    if draws_follow(stage) and recipe.sink:
        raise ValueError("its draws follow every step, so they cannot be sunk ahead; set sink: false")
    part = second_part(stage.objective)
    if part is not None and part not in data.splits.parts():
        raise ValueError(f"meta: {part}: there is no such part of the data; set data.validation.share, or meta: train")
    if draws_follow(stage) and recipe.accumulate > 1:
        raise ValueError(
            f"one step of the classifier needs its whole batch at once; set accumulate: 1, not {recipe.accumulate}"
        )
    if stage.contrast.name != "none" and recipe.accumulate > 1:
        log.warning(
            "accumulate %d: %s compares the images of a micro-batch, not of the whole step",
            recipe.accumulate,
            stage.contrast.name,
        )
    network = model()
    try:
        parameters_in(network, stage.freeze)
        build_contrast(stage, data.class_counts)
    except ValueError:
        return  # said of `freeze` or `contrast` already
    names = [p.name for p in network.trainable_params()]
    try:
        freeze(network, stage.freeze, names, stage.frozen_norm)
        build_objective(stage, network, data, recipe.seed, lambda: build_model(recipe, data))
    finally:
        freeze(network, (), names)


def _can_teach(stage: Stage, recipe: Recipe, data: Data, resuming: bool) -> None:
    """Whether the network of another run knows the same classes. A run that goes on has a copy of it."""
    if stage.teacher is None or not is_path(stage.teacher) or resuming:
        return
    path, teacher = describe_teacher(stage.teacher)
    own = data.description["classes"]
    if len(teacher["classes"]) != len(own):
        raise ValueError(f"was trained on {len(teacher['classes'])} classes, this recipe has {len(own)}")
    if teacher["classes"] != own:
        other = next(i for i, (a, b) in enumerate(zip(teacher["classes"], own, strict=True)) if a != b)
        raise ValueError(
            f"was trained on other classes, or the same in another order: class {other} is {teacher['classes'][other]!r} there "
            f"and {own[other]!r} here"
        )
    parameters, _ = read(path)
    _fits(build_teacher(teacher), parameters)
    if teacher["size"] != recipe.data.size:
        log.warning(
            "teacher %s was trained at %d pixels and sees images of %d here",
            stage.teacher,
            teacher["size"],
            recipe.data.size,
        )


def _can_mix(mixing: Mixing | None, model: Callable[[], nn.Cell]) -> None:
    if mixing is None or mixing.layer is None:
        return
    points = getattr(model(), "points", ())
    if mixing.layer not in points:
        known = ", ".join(points) or "none"
        raise ValueError(
            f"layer {mixing.layer!r}: the model has no such layer to mix at{nearest(mixing.layer, points)}; there are: {known}"
        )


def _text(value: Component | tuple[Component | str, ...] | str) -> str:
    """As a recipe would say it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, Component):
        return str(value)
    settings = ", ".join(f"{key}: {setting}" for key, setting in value.settings.items())
    return f"{{name: {value.name}, {settings}}}" if settings else value.name


def _can_map(stage: Stage, size: int, model: Callable[[], nn.Cell]) -> None:
    if not needs_maps(stage):
        return
    network = model()
    if not hasattr(network, "feature_map") or not hasattr(getattr(network, "head", None), "weight"):
        raise ValueError(
            "class activation maps need a model with a `feature_map` and a `head` with a `weight` (C, D); this one has not"
        )
    shrinks = getattr(getattr(network, "backbone", None), "shrinks", None)
    if shrinks is not None:
        height = width = -(-size // shrinks)
    else:  # a network of the user's own: ask it, which compiles it
        network.set_train(False)
        height, width = network.feature_map(Tensor(np.zeros((1, 3, size, size), np.uint8))).shape[2:]
    if min(height, width) < 2:
        raise ValueError(
            f"the model's feature map has {height} x {width} places at data.size {size}, so it shows no object; "
            "take larger images, or a model that shrinks them less"
        )


def _can_start(recipe: Recipe, number: int, data: Data, model: Callable[[], nn.Cell], resuming: bool) -> None:
    start = recipe.stages[number].start
    if start == "best" and data.splits.validation is None:
        raise ValueError("the best epoch is chosen on a validation part, and there is none; set data.validation.share")
    if not start.endswith(".ckpt") or resuming:
        return
    network, path = model(), Path(start)
    if not path.is_file():
        raise ValueError("there is no such file")
    parameters, _ = read(path)
    _fits(network, parameters)
    run = path.absolute().parent.parent  # the run that wrote it, where it still lies there
    if not (run / "recipe.yaml").is_file() or not (run / "split.json").is_file():
        return
    theirs = yaml.safe_load((run / "recipe.yaml").read_text())["data"]
    for key in ("mean", "std"):
        if theirs[key] != getattr(recipe.data, key):
            raise ValueError(f"was trained with data.{key} {theirs[key]}, this recipe has {getattr(recipe.data, key)}")
    if json.loads((run / "split.json").read_text())["classes"] != data.description["classes"]:
        raise ValueError("was trained on other classes, or the same in another order")


def _fits(network: nn.Cell, parameters: dict) -> None:
    """A ValueError where a checkpoint's parameters are not those of the network; its corrections may be missing."""
    neutral = neutral_values(network)
    own = {p.name for p in network.get_parameters()}
    lost = [name for name in parameters if name.startswith("head.calibration.") and name not in own]
    if lost:
        raise ValueError(f"is of another head: it has {lost[0]}; set model.head to the one that it was trained with")
    for parameter in network.get_parameters():
        if parameter.name in neutral and parameter.name not in parameters:
            continue
        found = parameters.get(parameter.name)
        if found is None or found.shape != parameter.shape:
            has = "is missing in it" if found is None else f"has shape {found.shape} in it"
            raise ValueError(f"is of another network: {parameter.name} {parameter.shape} {has}")
