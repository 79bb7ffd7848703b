"""Recipes: YAML with inheritance and overrides, checked as a whole, resolved into complete stages."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import yaml

from .. import augment, data, losses, mixing, models, objectives, samplers  # noqa: F401  (fill the registries)
from ..errors import RecipeError
from ..training import adabound, optimizers, schedules  # noqa: F401
from .imports import load as load_imports
from .merge import STAGE_KEYS, assign, override, parse, read
from .schema import Component, Data, Recipe, Stage
from .validate import build

log = logging.getLogger(__name__)

__all__ = [
    "STAGE_KEYS",
    "Component",
    "Data",
    "Recipe",
    "Stage",
    "differences",
    "essence",
    "fingerprint",
    "from_map",
    "load",
    "parse",
    "read",
    "to_yaml",
]


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """The recipe of a file with `--set` overrides; its name is the file's unless it says another.

    Raises:
        RecipeError: with every fault found, each as `path = value: what is wrong; what is allowed`.
    """
    content = read(Path(path))
    content.setdefault("name", Path(path).stem)
    return from_map(content, overrides, source=str(path))


def from_map(content: dict[str, Any], overrides: list[str] | tuple[str, ...] = (), *, source: str = "recipe") -> Recipe:
    """The same for a map that is in memory already."""
    content = copy.deepcopy(content)
    texts = {override(content, assignment): assignment.partition("=")[2].strip() for assignment in overrides}
    content["imports"] = load_imports(content.get("imports"), source)
    recipe, faults = build(content)
    # `--set data.validation.group=12` means the text "12": where the schema asks for text, take what was typed.
    retyped = [
        where for where, message in faults if where in texts and message.endswith("input should be a valid string")
    ]
    if retyped:
        for where in retyped:
            assign(content, where, texts[where])
        recipe, faults = build(content)
    if recipe is None:
        raise RecipeError([f"{'.'.join(where)} = {message}" for where, message in faults], source)
    for where, text in texts.items():
        if where[0] in STAGE_KEYS and not _taken(recipe.plain["stages"], where, parse(text)):
            key = ".".join(where)
            names = ", ".join(stage["name"] for stage in recipe.plain["stages"])
            log.warning(
                "--set %s=%s has no effect: every stage says its own; set stages.NAME.%s (%s)", key, text, key, names
            )
    return recipe


def _taken(stages: list[dict[str, Any]], where: tuple[str, ...], value: Any) -> bool:
    """Whether some stage has what was set for all; lists and maps, which are completed, are not looked into."""
    if isinstance(value, list | dict) or where[0] in ("freeze", "views", "augment"):
        return True

    def found(place: Any) -> Any:
        for part in where:
            place = place.get(part) if isinstance(place, dict) else None
        return place.get("name") if isinstance(place, dict) else place

    return any(found(stage) == value for stage in stages)


def to_yaml(recipe: Recipe) -> str:
    """The complete recipe as YAML; loading it gives the same recipe."""
    return yaml.safe_dump(recipe.plain, sort_keys=False, default_flow_style=None, width=120)


# What may differ between a run and its resumption: none of it changes a weight.
NEUTRAL = ("description", "name", "workers", "checkpoint", "evaluate_every", "best_by", "max_bad_steps", "graph")


# What was so before there was a setting for it: it does not count, or older runs would be taken for others.
AS_BEFORE = {
    "objective": {"name": "classification"},
    "freeze": [],
    "frozen_norm": "running",
    "reset": [],
    "views": [],
    "contrast": {"name": "none"},
}
MODEL_AS_BEFORE = {"branches": 1, "experts": 1, "scale": 1.0, "dropout": 0.0, "init": "kaiming", "zero_gamma": False}
RUN_AS_BEFORE = {
    "amp": "O0",
    "l1": 0.0,
    "ema": None,
    "sam": None,
    "early_stopping": None,
    "imports": [],
    "drop_last": False,
    "sink": False,
    "pretrained": None,
}


BEST_BEFORE = "top1"  # how the best epoch was chosen before there was `best_by`


def essence(plain: dict[str, Any]) -> dict[str, Any]:
    """What decides the weights. Where the images lie does not; which ones they are is in split.json."""
    kept = {
        key: value
        for key, value in plain.items()
        if key not in NEUTRAL and (key not in RUN_AS_BEFORE or RUN_AS_BEFORE[key] != value)
    }
    if plain.get("early_stopping") is not None or any(stage.get("start") == "best" for stage in plain["stages"]):
        # Then the best epoch decides when a stage ends, or what the next one begins with.
        kept["evaluate_every"] = plain["evaluate_every"]
        if plain.get("best_by", BEST_BEFORE) != BEST_BEFORE:
            kept["best_by"] = plain["best_by"]
    if "imports" in kept:
        kept["imports"] = [entry["sha256"] for entry in kept["imports"]]  # the code, wherever the file lies
    as_before = AS_BEFORE | {"batch": plain.get("batch")}
    stages = [
        {key: value for key, value in stage.items() if key not in as_before or value != as_before[key]}
        for stage in plain["stages"]
    ]
    model = {
        key: value
        for key, value in plain["model"].items()
        if key not in MODEL_AS_BEFORE or MODEL_AS_BEFORE[key] != value
    }
    if "experts" not in model:
        model.pop("expert_width", None)  # of nobody
    images = {key: value for key, value in plain["data"].items() if key != "root"}
    return kept | {"data": images, "model": model, "stages": stages}


def fingerprint(recipe: Recipe) -> str:
    """SHA-256 of everything in the recipe that decides the weights."""
    return hashlib.sha256(json.dumps(essence(recipe.plain), sort_keys=True).encode()).hexdigest()


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """'key: old -> new' for every leaf that differs between two resolved recipes."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [line for key in keys for line in differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i in range(len(old)) for line in differences(old[i], new[i], f"{path}.{i}")]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]
