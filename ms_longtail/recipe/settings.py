"""What settings a component takes: read off its signature, so that the code is the only place that says so."""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from functools import cache
from itertools import takewhile
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, create_model

from ..registry import (
    AUGMENT,
    CLASS_WEIGHTS,
    CONTRASTS,
    DATASETS,
    LOSSES,
    MIXING,
    MODELS,
    OBJECTIVES,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULES,
    Registry,
    nearest,
)
from .schema import STRICT, Data

# What an objective may ask for beside its settings: see `run.build.build_objective`.
OBJECTIVE_SUPPLIED = frozenset(
    {"model", "loss", "teacher", "class_counts", "contrast", "views", "second", "twin", "batch", "seed"}
)
# Parameters that the builder supplies from elsewhere in the recipe, so that a recipe cannot set them twice.
SUPPLIED: dict[str, tuple[Registry, frozenset[str]]] = {
    "data": (DATASETS, frozenset({"root", "size"})),
    "model": (MODELS, frozenset({"num_classes", "seed", "mean", "std"})),
    "objective": (OBJECTIVES, OBJECTIVE_SUPPLIED),
    "sampler": (SAMPLERS, frozenset({"labels", "seed", "epoch", "first_epoch", "epochs", "total_epochs"})),
    "second_sampler": (SAMPLERS, frozenset({"labels", "seed", "epoch", "first_epoch", "epochs", "total_epochs"})),
    "augment": (AUGMENT, frozenset({"seed", "size", "maps", "class_counts"})),
    "mixing": (MIXING, frozenset({"seed", "class_counts"})),
    "contrast": (CONTRASTS, frozenset({"class_counts"})),
    "loss": (LOSSES, frozenset({"class_counts", "class_weights", "reduction", "seed"})),
    "class_weights": (CLASS_WEIGHTS, frozenset({"class_counts"})),
    "optimizer": (OPTIMIZERS, frozenset({"parameters", "learning_rate"})),
    "schedule": (SCHEDULES, frozenset({"epochs", "steps_per_epoch"})),
}


@cache
def parameters(kind: str, name: str) -> dict[str, tuple[Any, Any]]:
    """Setting -> (type, default or ...) of a component, without what the builder supplies."""
    registry, supplied = SUPPLIED[kind]
    component = registry.get(name)
    function = component.__init__ if inspect.isclass(component) else component
    hints = typing.get_type_hints(function, include_extras=True)
    return {
        p.name: (hints.get(p.name, Any), ... if p.default is inspect.Parameter.empty else p.default)
        for p in inspect.signature(component).parameters.values()
        if p.name not in supplied and p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }


@cache
def adapter(kind: str, name: str) -> TypeAdapter:
    """Checker for the map {name, settings…}; for `data` together with the settings that all data sets share."""
    fields: dict[str, Any] = {"name": (str, ...)}
    if kind == "data":
        hints = typing.get_type_hints(Data, include_extras=True)
        for field in dataclasses.fields(Data):
            default: Any = ...
            if field.default is not dataclasses.MISSING:
                default = field.default
            elif field.default_factory is not dataclasses.MISSING:
                default = Field(default_factory=field.default_factory)
            fields[field.name] = (hints[field.name], default)
    fields |= parameters(kind, name)
    return TypeAdapter(create_model(f"{kind} {name}", __config__=STRICT, **fields))


def check(checker: TypeAdapter, value: Any, path: str) -> tuple[Any, list[tuple[tuple[str, ...], str]]]:
    """(validated object or None, faults); a fault is (path, message), the message without the path."""
    try:
        # JSON's strict mode: a string is no number, a number no flag, while maps may become dataclasses.
        return checker.validate_json(json.dumps(value), strict=True), []
    except ValidationError as error:
        return None, _merged([fault(detail, path, checker) for detail in error.errors(include_url=False)])
    except (TypeError, ValueError) as error:
        return None, [(_path(path), f"{shorten(value)}: {error}")]


def fault(detail: dict, path: str, checker: TypeAdapter) -> tuple[tuple[str, ...], str]:
    """One finding of the checker as (path, 'value: what is wrong')."""
    where = (*_path(path), *(str(part) for part in detail["loc"] if not _is_choice(str(part))))
    value, context = detail["input"], detail.get("ctx", {})
    kind = detail["type"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = known_keys(checker, detail["loc"][:-1])
        return where, f"{shorten(value)}: unknown key{nearest(where[-1], known)}; known here: {', '.join(known)}"
    if kind in ("missing", "missing_argument"):
        given = f" in {shorten(value)}" if isinstance(value, dict) and value else ""
        return where, f"missing{given}: this setting has no default"
    if kind in ("literal_error", "enum"):
        return where, f"{shorten(value)}: must be one of {context['expected']}"
    return where, f"{shorten(value)}: {detail['msg'][0].lower()}{detail['msg'][1:]}"


def _is_choice(part: str) -> bool:
    """Whether a part of a place is no key but the checker's name for one of several types that a setting may have."""
    return part in ("str", "int", "float", "bool") or part.startswith(("constrained-", "literal[", "list["))


def _merged(faults: list[tuple[tuple[str, ...], str]]) -> list[tuple[tuple[str, ...], str]]:
    """One fault for every place: what each of its types asks for, joined by "or"."""
    merged: dict[tuple[str, ...], str] = {}
    for where, message in faults:
        if where not in merged:
            merged[where] = message
        elif message not in merged[where]:
            same = takewhile(lambda pair: pair[0] == pair[1], zip(merged[where], message, strict=False))
            value = "".join(first for first, _ in same)  # both begin with it and a colon
            merged[where] += f", or {message[value.rfind(': ') + 2 :]}"
    return list(merged.items())


def known_keys(checker: TypeAdapter, location: tuple) -> list[str]:
    """The keys allowed at a location below a checker's top, read from its JSON schema."""
    schema = checker.json_schema()
    definitions = schema.get("$defs", {})
    for part in location:
        schema = schema.get("properties", {}).get(part, {})
        for choice in schema.get("anyOf", [schema]):
            if "$ref" in choice:
                schema = definitions[choice["$ref"].rsplit("/", 1)[1]]
    return list(schema.get("properties", {}))


def shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _path(path: str) -> tuple[str, ...]:
    return tuple(part for part in path.split(".") if part)
