"""Every component of a recipe built once and dropped, so that a setting it refuses is known before anything is written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from mindspore import nn

from ..errors import RecipeError
from ..mixing import Mixing
from ..recipe import Recipe, Stage
from ..registry import nearest
from ..training.checkpoints import read
from .build import (
    build_augment,
    build_loss,
    build_mixing,
    build_model,
    build_order,
    build_second_order,
    needs_maps,
)
from .dataset import Data


def check(recipe: Recipe, data: Data) -> None:
    """A RecipeError with all settings that a component refuses on this data."""
    faults = []
    train, seed = data.splits.train, recipe.seed
    model = cache(lambda: build_model(recipe, data))  # built only where a stage asks something of it
    for number, stage in enumerate(recipe.stages):

        def orders(stage: Stage = stage) -> None:
            length = len(build_order(stage, train.labels, seed)(0))
            second = build_second_order(stage, train.labels, seed, length)
            if second is not None:
                second(0)

        trials = {
            "loss": lambda stage=stage: build_loss(stage, data.class_counts, seed),
            "augment": lambda stage=stage: build_augment(stage, recipe, train, seed=seed) and _can_map(stage, model),
            "mixing": lambda stage=stage: _can_mix(build_mixing(stage, data.class_counts, seed), model),
            "sampler": orders,
            "start": lambda number=number: _can_start(recipe, number, data, model),
        }
        for key, trial in trials.items():
            try:
                trial()
            except ValueError as error:
                faults.append(f"stages.{number}.{key} = {getattr(stage, key)}: {error}")
    if faults:
        raise RecipeError(faults)


def _can_mix(mixing: Mixing | None, model: Callable[[], nn.Cell]) -> None:
    if mixing is None or mixing.layer is None:
        return
    points = getattr(model(), "points", ())
    if mixing.layer not in points:
        known = ", ".join(points) or "none"
        raise ValueError(
            f"layer {mixing.layer!r}: the model has no such layer to mix at{nearest(mixing.layer, points)}; there are: {known}"
        )


def _can_map(stage: Stage, model: Callable[[], nn.Cell]) -> None:
    if not needs_maps(stage):
        return
    network = model()
    if not hasattr(network, "feature_map") or not hasattr(getattr(network, "head", None), "weight"):
        raise ValueError(
            "class activation maps need a model with a `feature_map` and a `head` with a `weight` (C, D); this one has not"
        )


def _can_start(recipe: Recipe, number: int, data: Data, model: Callable[[], nn.Cell]) -> None:
    start = recipe.stages[number].start
    if start == "best" and data.splits.validation is None:
        raise ValueError("the best epoch is chosen on a validation part, and there is none; set data.validation.share")
    if not start.endswith(".ckpt"):
        return
    network, path = model(), Path(start)
    if not path.is_file():
        raise ValueError("there is no such file")
    parameters, _ = read(path)
    for parameter in network.get_parameters():
        found = parameters.get(parameter.name)
        if found is None or found.shape != parameter.shape:
            has = "is missing in it" if found is None else f"has shape {found.shape} in it"
            raise ValueError(f"is of another network: {parameter.name} {parameter.shape} {has}")
