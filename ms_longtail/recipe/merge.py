"""YAML in, one map out: inheritance between files, overrides from the command line, inheritance between stages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import RecipeError
from .imports import located

COMPONENTS = (
    "model",
    "objective",
    "sampler",
    "second_sampler",
    "mixing",
    "contrast",
    "loss",
    "class_weights",
    "optimizer",
    "schedule",
)
NAMED = (*COMPONENTS, "data")  # maps that a bare name stands for
BARE = dict.fromkeys(NAMED, "name") | {"pretrained": "path"}  # key -> what a bare word below it says
STAGE_KEYS = (
    "objective",
    "freeze",
    "frozen_norm",
    "sampler",
    "second_sampler",
    "augment",
    "views",
    "mixing",
    "contrast",
    "loss",
    "class_weights",
    "optimizer",
    "schedule",
    "batch",
    "epochs",
)
# What the images of a packed set have in common with the files they were packed from.
OF_IMAGES = ("size", "resize", "mean", "std", "imbalance", "validation", "on_error", "max_error_share")
OWN_KEYS = ("name", "start", "reset", "teacher")  # what a stage never inherits


class _Loader(yaml.SafeLoader):
    """YAML 1.2's idea of numbers (1e-3 is one), no dates, and no key given twice."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.(?:inf|Inf)|\.(?:nan|NaN))$"
    ),
    list("-+0123456789."),
)


def _no_duplicates(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not a word", key_node.start_mark)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep)


_Loader.add_constructor("tag:yaml.org,2002:map", lambda loader, node: _no_duplicates(loader, node, deep=True))


def parse(text: str) -> Any:
    """YAML text as plain Python values; what an anchor stands for is a value of its own wherever it is used."""
    return _unshared(yaml.load(text, _Loader))


def _unshared(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unshared(entry) for key, entry in value.items()}
    return [_unshared(entry) for entry in value] if isinstance(value, list) else value


def read(path: Path, chain: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe file with everything that it inherits by `base:`, as one map."""
    path = path.resolve()
    if path in chain:
        cycle = " -> ".join(str(p) for p in (*chain[chain.index(path) :], path))
        raise RecipeError(
            [f"base = {str(path)!r}: the files inherit from each other in a circle: {cycle}"], str(chain[0])
        )
    source = str(chain[-1] if chain else path)
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        key = f"base = {str(path)!r}" if chain else f"--config = {str(path)!r}"
        raise RecipeError([f"{key}: cannot read this file ({error.strerror})"], source) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError([f"not valid YAML: {' '.join(str(error).split())}"], str(path)) from error
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RecipeError([f"the file must be a map of settings, not {content!r}"], str(path))
    if "imports" in content:
        content["imports"] = located(content["imports"], path.parent)
    base = content.pop("base", None)
    if base is None:
        return merge({}, content)
    if not isinstance(base, str):
        raise RecipeError([f"base = {base!r}: must be the path of one recipe file"], str(path))
    return merge(read(path.parent / base, (*chain, path)), content)


def named(value: Any, key: str = "") -> Any:
    """A bare string means {name: it}, or {path: it} where the key asks for a file."""
    return {BARE.get(key, "name"): value} if isinstance(value, str) else value


def merge(base: Any, change: Any, key: str = "") -> Any:
    """`change` laid over `base`: maps merge key by key, everything else replaces; a new `name` replaces the whole map.

    Only `data: {name: packed}` keeps what is said of the images: they are the same ones in other files.
    """
    if key in BARE:
        base, change = named(base, key), named(change, key)
    if not isinstance(base, dict) or not isinstance(change, dict):
        return change
    if "name" in change and "name" in base and change["name"] != base["name"] and key in NAMED:
        if (key, change["name"]) != ("data", "packed"):
            return change
        base = {name: base[name] for name in OF_IMAGES if name in base}
    result = dict(base)
    for name, value in change.items():
        result[name] = merge(base.get(name), value, name)
    return result


def override(content: dict[str, Any], assignment: str) -> tuple[str, ...]:
    """Carry out one `a.b=c` in place; stages may be named by number or by name. Returns the path that was set."""
    dotted, equals, text = assignment.partition("=")
    path = tuple(part.strip() for part in dotted.split("."))
    if not equals or not all(path):
        raise RecipeError([f"--set {assignment!r}: must look like key.key=value"], "command line")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise RecipeError([f"--set {dotted} = {text!r}: not a YAML value"], "command line") from error
    return assign(content, path, value)


def assign(content: dict[str, Any], path: tuple[str, ...], value: Any) -> tuple[str, ...]:
    """Set a value deep inside maps and lists. Returns the path with list positions as numbers."""
    place: Any = content
    taken: list[str] = []
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        where = ".".join(path[: depth + 1])
        if isinstance(place, list):
            names = [named(entry).get("name") if isinstance(named(entry), dict) else None for entry in place]
            position = names.index(part) if part in names else int(part) if part.isdecimal() else -1
            if not 0 <= position < len(place):
                known = ", ".join(str(n) if n else str(i) for i, n in enumerate(names)) or "none"
                raise RecipeError([f"--set {where} = {value!r}: no entry {part!r}; there are: {known}"], "command line")
            taken.append(str(position))
            if last:
                place[position] = value
            else:
                place[position] = place = named(place[position])
        elif isinstance(place, dict):
            taken.append(part)
            if last and path == ("data", "name") and value == "packed":
                kept = merge(place, {"name": value}, "data")
                place.clear()
                place.update(kept)
            elif last:
                place[part] = merge(place.get(part), value, part)
            else:
                if place.get(part) is None:
                    place[part] = {}
                if part in BARE:
                    place[part] = named(place[part], part)
                place = place[part]
        else:
            raise RecipeError([f"--set {where} = {value!r}: {place!r} holds no keys"], "command line")
    return tuple(taken)


def inherit_stages(content: dict[str, Any]) -> list[Any]:
    """Complete stages: each laid over the one before it, the first over the top level's stage settings."""
    complete: list[Any] = []
    before = {key: content[key] for key in STAGE_KEYS if key in content}
    for stage in content["stages"]:
        if not isinstance(stage, dict):
            complete.append(stage)
            continue
        inherited = {key: value for key, value in before.items() if key not in OWN_KEYS}
        before = merge(inherited, stage)
        complete.append(before)
    return complete
