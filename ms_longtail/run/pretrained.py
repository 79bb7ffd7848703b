"""Weights from a file that a run begins with, and a record of what was taken from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn

from ..console import Console
from ..errors import TrainingError, UserError
from ..models.pretrained import SHOWN, Matched, explain, match
from ..recipe import Recipe
from ..training.checkpoints import Position, load_into, read, write
from ..training.weights_file import read_weights
from .folder import RunFolder, write_json
from .teachers import file_hash

log = logging.getLogger(__name__)


def fit(recipe: Recipe, network: nn.Cell) -> tuple[dict[str, np.ndarray], Matched, str]:
    """(values under the network's names, what went where, what was read) of the recipe's `pretrained`.

    Raises:
        ValueError: the file cannot be read, is of another architecture, or lacks a head that the recipe wants kept.
    """
    wanted = recipe.pretrained
    try:
        found, what = read_weights(wanted.path)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(str(Path(wanted.path))).lstrip()) from error
    own = {p.name: p.shape for p in network.get_parameters()}
    matched = match(own, found, wanted.head)
    if matched.foreign:
        raise ValueError(f"{what}; {explain(matched, model=recipe.model.name, found=found)}")
    if matched.head and wanted.head == "keep":
        raise ValueError(f"head: keep, but {matched.head}; set head: auto, or skip")
    values = {name: found[source] for name, source in matched.assigned.items()}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{matched.assigned[name]} holds numbers that are not finite")
    return values, matched, what


def keep_pretrained(recipe: Recipe, network: nn.Cell, folder: RunFolder, console: Console) -> None:
    """Copy the weights that a run begins with into its folder, and write pretrained.json; once, before anything is trained.

    What becomes of the file later is no matter of the run: a later stage with `start: fresh` takes the copy.
    """
    if recipe.pretrained is None:
        return
    path, known = Path(recipe.pretrained.path), read_pretrained(folder)
    if known is not None:
        if path.is_file() and file_hash(path) != known["sha256"]:
            log.warning("%s has changed since this run began with it; the run goes on from what it was", path)
        return
    _keep(recipe, network, folder, console)


def _keep(recipe: Recipe, network: nn.Cell, folder: RunFolder, console: Console | None = None) -> None:
    path = Path(recipe.pretrained.path)
    try:
        digest = file_hash(path)
        values, matched, what = fit(recipe, network)
    except OSError as error:
        raise UserError(f"pretrained = {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"pretrained = {path}: {error}") from error
    known = read_pretrained(folder)
    if known is not None and known["sha256"] != digest:
        raise TrainingError(f"{_own(folder)} is lost, and {path} is not the file any more that the run began with")
    rows = [Parameter(Tensor(np.asarray(value, np.float32)), name=name) for name, value in values.items()]
    write(_own(folder), SimpleNamespace(get_parameters=lambda: rows), Position())
    # Last: the record says that the copy is whole.
    write_json(folder.path / "pretrained.json", _record(recipe, matched, what, digest))
    if console is not None:
        for line in report(recipe, matched, what):
            console.say(line)


def take(network: nn.Cell, recipe: Recipe, folder: RunFolder, main: bool) -> None:
    """Set a new network's parameters to those of the recipe's `pretrained`, where it has them; nothing without one.

    Only the main worker has the file; the others get the weights when the step's parameters are broadcast.
    """
    if recipe.pretrained is None or not main:
        return
    if not _own(folder).is_file():
        _keep(recipe, network, folder)
    try:
        values, _ = read(_own(folder))
    except ValueError as error:
        raise TrainingError(str(error)) from error
    load_into(network, values, _own(folder), only=set(values))


def read_pretrained(folder: RunFolder) -> dict[str, Any] | None:
    """What the run folder says of the file that the run began with; None where there is no record yet."""
    path = folder.path / "pretrained.json"
    return json.loads(path.read_text()) if path.is_file() else None


def hash_of(recipe: Recipe, known: Mapping[str, Any] | None) -> str:
    """SHA-256 of the file that a run begins with: as it was recorded, else as it is now; '' without one."""
    if recipe.pretrained is None:
        return ""
    return known["sha256"] if known else file_hash(Path(recipe.pretrained.path))


def report(recipe: Recipe, matched: Matched, what: str) -> list[str]:
    """Lines on what was taken and what was not."""
    total = len(matched.assigned) + len(matched.missing) + len(matched.wrong_shape)
    head = f"; the head begins anew: {matched.head}" if matched.head else ""
    lines = [
        f"pretrained {recipe.pretrained.path} ({what}): {len(matched.assigned)} of {total} parameters of "
        f"{recipe.model.name} taken{head}"
    ]
    if matched.narrower:
        lines.append(
            f"  {len(matched.narrower)} parameters of the experts begin anew: their layers have another width in the file "
            "(model.expert_width)"
        )
    if matched.left_over:
        names = list(matched.left_over)
        more = ", ..." if len(names) > SHOWN else ""
        lines.append(
            f"  {len(names)} not taken from the file: {', '.join(names[:SHOWN])}{more}; all names are in pretrained.json"
        )
    return lines


def _record(recipe: Recipe, matched: Matched, what: str, digest: str) -> dict[str, Any]:
    wrong = [
        {"network": name, "file": source, "shape": list(here), "shape_in_file": list(there)}
        for name, source, here, there in matched.wrong_shape
    ]
    return {
        "path": recipe.pretrained.path,
        "sha256": digest,
        "read": what,
        "model": recipe.model.name,
        "head": matched.head or "taken",
        "taken": matched.assigned,
        "missing": {name: list(shape) for name, shape in matched.missing.items()},
        "not_taken": {name: list(shape) for name, shape in matched.left_over.items()},
        "of_another_shape": wrong,
    }


def _own(folder: RunFolder) -> Path:
    return folder.checkpoints / "pretrained.ckpt"
