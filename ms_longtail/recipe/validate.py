"""The whole recipe against the schema, before any work: every fault at once, each with its path, value and choices."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import TypeAdapter

from ..augment import LEVELS
from ..registry import AUGMENT
from .across import Fault, between, between_stages, unused
from .merge import COMPONENTS, OWN_KEYS, STAGE_KEYS, inherit_stages, merge, named
from .schema import Component, Data, Recipe, RunSettings, Stage, StageSettings
from .settings import SUPPLIED, adapter, check, nearest, parameters, shorten

RUN_KEYS = [field.name for field in dataclasses.fields(RunSettings)]
TOP_KEYS = list(dict.fromkeys([*RUN_KEYS, "description", "data", "model", *STAGE_KEYS, "stages"]))
STAGE_DEFAULTS = {
    "objective": "classification",
    "sampler": "instance",
    "second_sampler": "none",
    "augment": [],
    "views": [],
    "mixing": "none",
    "contrast": "none",
    "loss": "ce",
    "class_weights": "none",
    "optimizer": "sgd",
    "schedule": "constant",
}
OTHER_KEYS = [key for key in STAGE_KEYS if key not in COMPONENTS and key not in ("augment", "views")]
MISSING = object()


def build(content: dict[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    """(complete recipe or None, faults) of a merged map."""
    faults: list[Fault] = []
    for key, value in content.items():
        if key not in TOP_KEYS:
            known = ", ".join(TOP_KEYS)
            faults.append(((key,), f"{shorten(value)}: unknown key{nearest(key, TOP_KEYS)}; known here: {known}"))
    description = content.get("description", "")
    if not isinstance(description, str):
        faults.append((("description",), f"{shorten(description)}: must be text"))

    run_content = {key: content[key] for key in RUN_KEYS if key in content}
    if "pretrained" in run_content:
        given = named(run_content["pretrained"], "pretrained")
        nothing = isinstance(given, dict) and given.get("path") in (None, "none") and "path" in given
        run_content["pretrained"] = None if nothing else given
    run, found = check(TypeAdapter(RunSettings), run_content, "")
    faults += found
    data, found = component("data", content.get("data", "digits_lt"), "data")
    faults += found
    model, found = component("model", content.get("model", MISSING), "model")
    faults += found
    stages, found = _stages(content)
    faults += found
    faults += between(run, data) + between_stages(model, stages) + unused(run, stages)
    if faults:
        return None, list(dict.fromkeys(faults))  # a batch is the run's and every stage's

    shared = {field.name for field in dataclasses.fields(Data)}
    common = Data(**{key: value for key, value in data.items() if key in shared})
    settings = {key: value for key, value in data.items() if key not in shared}
    plain: dict[str, Any] = {"description": description} if description else {}
    plain |= {key: _plain(getattr(run, key)) for key in RUN_KEYS}
    plain |= {"data": _plain(data), "model": _flat(model), "stages": [_plain_stage(stage) for stage in stages]}
    values = {key: getattr(run, key) for key in RUN_KEYS}
    return Recipe(**values, data=common, data_settings=settings, model=model, stages=tuple(stages), plain=plain), []


def component(kind: str, value: Any, path: str) -> tuple[Any, list[Fault]]:
    """A Component with all its settings (for `data`: a map), or its faults."""
    where = tuple(path.split("."))
    value = named(value)
    registry = SUPPLIED[kind][0]
    choices = f"known: {', '.join(registry.names())}"
    if value is MISSING:
        return None, [(where, f"missing: name a {registry.kind}; {choices}")]
    if not isinstance(value, dict):
        return None, [
            (where, f"{shorten(value)}: must be the name of a {registry.kind}, or a map with `name`; {choices}")
        ]
    name = value.get("name")
    if name is None:
        given = "None" if "name" in value else f"missing in {shorten(value)}"
        return None, [((*where, "name"), f"{given}: name a {registry.kind}; {choices}")]
    if not isinstance(name, str) or name not in registry:
        return None, [
            ((*where, "name"), f"{shorten(name)}: unknown {registry.kind}{nearest(name, registry.names())}; {choices}")
        ]
    checked, faults = check(adapter(kind, name), value, path)
    if faults:
        return None, faults
    complete = {key: getattr(checked, key) for key in type(checked).model_fields}
    # A default may be a tuple; in YAML, and so in a recipe, it is a list.
    complete = {key: list(value) if isinstance(value, tuple) else value for key, value in complete.items()}
    if kind == "data":
        return complete, []
    return Component(name, {key: complete[key] for key in parameters(kind, name)}), []


def _stages(content: dict[str, Any]) -> tuple[list[Stage | None], list[Fault]]:
    """The stages, None for those with a fault, and the faults."""
    raw = content.get("stages", MISSING)
    if raw is MISSING:
        return [], [(("stages",), "missing: a recipe needs at least one stage, e.g. [{name: train, epochs: 200}]")]
    if not isinstance(raw, list) or not raw:
        return [], [(("stages",), f"{shorten(raw)}: must be a list of at least one stage")]
    stages, faults, names = [], [], []
    for number, given in enumerate(inherit_stages(content)):
        path = f"stages.{number}"
        if not isinstance(given, dict):
            faults.append(((*path.split("."),), f"{shorten(given)}: a stage is a map with `name` and `epochs`"))
            stages.append(None)
            continue
        stage, found = _stage(merge(STAGE_DEFAULTS, given), path)
        faults += [(_origin(content, where), message) for where, message in found]
        if given.get("name") in names:
            faults.append(((*path.split("."), "name"), f"{shorten(given['name'])}: two stages have this name"))
        names.append(given.get("name"))
        stages.append(stage)
    return stages, list(dict.fromkeys(faults))


def _stage(given: dict[str, Any], path: str) -> tuple[Stage | None, list[Fault]]:
    known = [*OWN_KEYS, *STAGE_KEYS]
    where = tuple(path.split("."))
    faults: list[Fault] = []
    for key in given:
        if key not in known:
            message = f"{shorten(given[key])}: unknown key{nearest(key, known)}; known here: {', '.join(known)}"
            faults.append(((*where, key), message))
    settings = {k: given[k] for k in (*OWN_KEYS, *OTHER_KEYS) if k in given}
    own, found = check(TypeAdapter(StageSettings), settings, path)
    faults += found
    parts: dict[str, Any] = {}
    for key in COMPONENTS[1:]:
        value = named(given[key])
        if key == "second_sampler" and (value is None or (isinstance(value, dict) and value.get("name") == "none")):
            parts[key] = None
            settings = {name: setting for name, setting in (value or {}).items() if name != "name"}
            if settings:
                message = f"{shorten(settings)}: which sampler? name one; known: {', '.join(SUPPLIED[key][0].names())}"
                faults.append(((*where, key), message))
            continue
        parts[key], found = component(key, given[key], f"{path}.{key}")
        faults += found
    parts["augment"], found = _operations(given["augment"], (*where, "augment"))
    faults += found
    parts["views"], views = [], given["views"]
    if not isinstance(views, list):
        faults.append(
            ((*where, "views"), f"{shorten(views)}: must be a list of further views, each a list of augmentations")
        )
        views = []
    for number, view in enumerate(views):
        operations, found = _operations(view, (*where, "views", str(number)))
        faults += found
        parts["views"].append(operations)
    if faults:
        return None, faults
    return Stage(
        own.name,
        own.epochs,
        own.batch,
        augment=tuple(parts.pop("augment")),
        views=tuple(map(tuple, parts.pop("views"))),
        freeze=_names(own.freeze),
        frozen_norm=own.frozen_norm,
        start=own.start,
        reset=_names(own.reset),
        teacher=own.teacher,
        **parts,
    ), []


def _operations(entries: Any, where: tuple[str, ...]) -> tuple[list[Component], list[Fault]]:
    """The augmentations of a view, in an order in which they can be applied, and the faults."""
    if not isinstance(entries, list):
        return [], [(where, f"{shorten(entries)}: must be a list of augmentations, [] for none")]
    operations, faults = [], []
    for number, entry in enumerate(entries):
        op, found = component("augment", entry, ".".join((*where, str(number))))
        faults += found
        operations.append(op)
    names = [None if op is None else op.name for op in operations]
    twice = next((n for n, name in enumerate(names) if name is not None and name in names[:n]), None)
    if twice is not None:
        faults.append(((*where, str(twice)), f"{names[twice]!r}: stands twice; both would do the same"))
    if faults:
        return [], faults
    levels = [LEVELS.index(AUGMENT.get(name).level) for name in names]
    late = next((n for n in range(1, len(levels)) if levels[n] < max(levels[:n])), None)
    if late is not None:
        kind = ("the whole image, as it was read,", "single images of any size")[levels[late]]
        return [], [(where, f"{names}: {names[late]} works on {kind} and must come first")]
    return operations, []


def _names(value: str | list[str]) -> tuple[str, ...]:
    """One name or a list of them; "none" is no name."""
    return tuple(name for name in ([value] if isinstance(value, str) else value) if name != "none")


def _origin(content: dict[str, Any], where: tuple[str, ...]) -> tuple[str, ...]:
    """The place where the user wrote what a stage inherited: that stage, an earlier one, or the top level."""
    number, rest = int(where[1]), where[2:]
    if not rest or rest[0] not in STAGE_KEYS:
        return where  # a stage's name and unknown keys are its own
    for stage in range(number, -1, -1):
        if _holds(content["stages"][stage], rest):
            return ("stages", str(stage), *rest)
    return rest if _holds(content, rest) else where


def _holds(place: Any, path: tuple[str, ...]) -> bool:
    for part in path:
        place = named(place)
        if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
            place = place[int(part)]
        elif isinstance(place, dict) and part in place:
            place = place[part]
        else:
            return False
    return True


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _flat(part: Component) -> dict[str, Any]:
    return {"name": part.name, **_plain(part.settings)}


def _plain_stage(stage: Stage) -> dict[str, Any]:
    plain: dict[str, Any] = {"name": stage.name, "epochs": stage.epochs, "batch": stage.batch, "start": stage.start}
    plain |= {"reset": list(stage.reset), "teacher": stage.teacher, "objective": _flat(stage.objective)}
    plain |= {"freeze": list(stage.freeze), "frozen_norm": stage.frozen_norm, "sampler": _flat(stage.sampler)}
    plain["second_sampler"] = "none" if stage.second_sampler is None else _flat(stage.second_sampler)
    plain["augment"] = [_flat(op) for op in stage.augment]
    plain["views"] = [[_flat(op) for op in view] for view in stage.views]
    later = ("mixing", "contrast", "loss", "class_weights", "optimizer", "schedule")
    return plain | {key: _flat(getattr(stage, key)) for key in later}
