"""First stages taken over from another run: what two runs have in common is computed once.

Everything in a run is a pure function of recipe, seed, images and machine. Two runs that agree in all of what decides the
weights up to the end of stage k hold bit-identical weights there, so the second may begin with what the first has written.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from yaml import YAMLError

from ..console import Console
from ..errors import UserError
from ..recipe import Recipe, essence, fingerprint, from_map
from ..recipe.across import is_path
from ..training.checkpoints import Position, read, write
from .dataset import Data
from .folder import RunFolder, write_json, write_text
from .plan import StagePlan, make_plan
from .pretrained import hash_of, read_pretrained
from .teachers import describe_teacher, file_hash, read_teachers

log = logging.getLogger(__name__)

# Weights do not depend on these, or in their last digits (graph), but what is written does: the lines of metrics.jsonl,
# best.ckpt, whether a run went on at all.
WRITTEN = ("evaluate_every", "best_by", "max_bad_steps", "graph")
# What the last digits of a weight may depend on, and where the images lie.
MACHINE = (
    "device",
    "mode",
    "ranks",
    "processor",
    "onednn_max_cpu_isa",
    "convolution",
    "python",
    "packages",
    "source",
    "data_root",
)


@dataclass(frozen=True)
class Beginning:
    """The first stages of another run, read and found whole.

    Attributes:
        run: where they are from. stages: their names.
        checkpoints: file stem -> (name -> parameter, position), all of them written up to the end of these stages.
        last: stem of the checkpoint at that end.
        lines: of metrics.jsonl. unreadable: image number -> message.
    """

    run: RunFolder
    stages: list[str]
    checkpoints: dict[str, tuple[dict, Position]]
    last: str
    lines: list[dict]
    unreadable: dict[int, str]


def begin(
    parent: Path | None, recipe: Recipe, data: Data, plan: list[StagePlan], home: RunFolder, console: Console
) -> bool:
    """Put the longest beginning that a run in `parent` shares with this one into `home`; whether there was one.

    The folder is left as if this run had stopped after these stages. A run that has a checkpoint of its own is left alone.
    At least the last stage is always trained.
    """
    if any(home.checkpoints.glob("last*.ckpt")):
        return False
    _record(home).unlink(missing_ok=True)  # of a taking over that was cut short
    if parent is None:
        return False
    found = _candidates(parent, recipe, data, plan, home)
    trials = [(count, other) for stages, other in found for count in range(1, stages + 1)]
    for count, other in sorted(trials, key=lambda trial: -trial[0]):
        beginning = _read(other, plan[:count], plan[count])
        if beginning is not None:
            _write(beginning, home, fingerprint(recipe))
            console.say(note(home))
            return True
    return False


def folder_of_runs(path: str, ranks: int) -> Path:
    """The folder that `--reuse` names; a UserError where there is none, or where several workers would have to agree."""
    if not Path(path).is_dir():
        raise UserError(f"--reuse {path}: this folder does not exist; name one that holds run folders")
    if ranks > 1:
        raise UserError(f"--reuse {path}: only a run of one worker can take stages over, this one has {ranks}")
    return Path(path)


def stages_taken(home: RunFolder) -> list[str]:
    """Names of the stages that this run took from another."""
    return json.loads(_record(home).read_text())["stages"] if _record(home).is_file() else []


def note(home: RunFolder) -> str:
    """One line on where the first stages are from; empty for a run that computed all of them."""
    names = stages_taken(home)
    if not names:
        return ""
    source = json.loads(_record(home).read_text())["run"]
    subject = f"Stages {', '.join(names)} were" if len(names) > 1 else f"Stage {names[0]} was"
    return f"{subject} not trained again but taken from {source}, which is the same up to there."


def marks(
    recipe: Recipe,
    plan: list[StagePlan],
    split: dict[str, Any],
    teachers: dict[str, Any] | None = None,
    pretrained: dict[str, Any] | None = None,
) -> list[str]:
    """A SHA-256 per stage: of all that decides the weights at its end, but the machine.

    Recipe and split go in as they are written. What a stage makes of the run as a whole (a schedule or a sampler with
    `span: run` knows the epochs of later stages) goes in as it comes out: learning rates, lengths and orders.
    """
    shared = {key: value for key, value in essence(recipe.plain).items() if key != "stages"}
    shared |= {key: recipe.plain[key] for key in WRITTEN} | {"split": split}
    digest = hashlib.sha256(_canonical(shared))
    digest.update(hash_of(recipe, pretrained).encode())
    result = []
    for stage, plain in zip(plan, recipe.plain["stages"], strict=True):
        digest.update(_canonical(plain))
        for field in fields(stage):
            value = getattr(stage, field.name)
            if isinstance(value, np.ndarray):
                digest.update(f"{field.name} {value.dtype} {value.shape}".encode() + value.tobytes())
            elif isinstance(value, int | float | str | bool | tuple | None):
                digest.update(f"{field.name} {value!r}".encode())
        for order in (stage.order, stage.second_order):
            for epoch in (stage.first_epoch, stage.first_epoch + stage.stage.epochs - 1):
                digest.update(b"" if order is None else np.asarray(order(epoch), np.int64).tobytes())
        start = Path(stage.stage.start)
        if start.suffix == ".ckpt":
            digest.update(hashlib.sha256(start.read_bytes()).digest())
        if stage.stage.teacher is not None and is_path(stage.stage.teacher):
            known = (teachers or {}).get(stage.label)
            now = known["sha256"] if known else file_hash(describe_teacher(stage.stage.teacher)[0])
            digest.update(now.encode())
        # Only a stage that the next one starts from at its best keeps its best weights.
        later = plan[stage.number + 1] if stage.number + 1 < len(plan) else None
        digest.update(b"best" if later is not None and later.stage.start == "best" else b"last")
        result.append(digest.hexdigest())
    return result


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _record(home: RunFolder) -> Path:
    return home.path / "reused.json"


def _candidates(
    parent: Path, recipe: Recipe, data: Data, plan: list[StagePlan], home: RunFolder
) -> Iterator[tuple[int, RunFolder]]:
    """(how many first stages agree, run) of every run with at least one, the last stage of this run apart."""
    if len(plan) == 1:
        return
    own = marks(recipe, plan, data.description, read_teachers(home), read_pretrained(home))
    machine, ranks = _machine(home), _machine(home)["ranks"]
    for path in sorted(parent.glob(f"*/checkpoints/{plan[0].label}.ckpt")):
        other = RunFolder(path.parent.parent)
        if other.path.name.startswith(".") or other.path.resolve() == home.path.resolve():
            continue
        try:
            split = json.loads((other.path / "split.json").read_text())
            if _machine(other) != machine or _canonical(split) != _canonical(data.description):
                continue
            plain = other.plain_recipe()
            if essence(plain).get("imports") != essence(recipe.plain).get("imports"):
                continue  # to load it would run code of others in here
            theirs = from_map(plain)
            if _canonical(essence(theirs.plain)["data"]) != _canonical(essence(recipe.plain)["data"]):
                continue  # the plan below is made with this run's images
            found = marks(theirs, make_plan(theirs, data, ranks), split, read_teachers(other), read_pretrained(other))
        except (OSError, ValueError, LookupError, TypeError, UserError, YAMLError) as error:
            log.warning(
                "%s is passed over: %s", other.path, " ".join(str(error).split())
            )  # written by another version, or half removed
            continue
        agreeing = next((i for i, (a, b) in enumerate(zip(own[:-1], found, strict=False)) if a != b), None)
        agreeing = min(len(own) - 1, len(found)) if agreeing is None else agreeing
        if agreeing:
            yield agreeing, other


def _machine(run: RunFolder) -> dict[str, Any]:
    environment = json.loads((run.path / "environment.json").read_text())
    return {key: environment.get(key) for key in MACHINE}


def _read(other: RunFolder, plan: list[StagePlan], following: StagePlan) -> Beginning | None:
    """What the run had written at the end of the last of these stages; None where it is not all there any more.

    Args:
        following: the stage of this run that comes next, which may start from the best weights of the one before.
    """
    end = plan[-1]
    draw = end.first_draw + end.stage.epochs * end.epoch_draws
    saved = {}
    for path in sorted(other.checkpoints.glob("[!.]*.ckpt")):
        if path.stem.startswith("last") or path.stem.endswith("-teacher") or path.stem == "pretrained":
            continue  # what is from elsewhere is copied from there
        try:
            parameters, position = read(path)
        except ValueError as error:
            log.warning("%s; it is not taken over", error)
            continue
        if position.draw <= draw:
            saved[path.stem] = parameters, position
    theirs = fingerprint(from_map(other.plain_recipe()))
    for stage in plan:
        position = saved[stage.label][1] if stage.label in saved else None
        # Workers may have changed with a resume: several add up in another order.
        if position is None or position.fingerprint != theirs or position.ranks != 1:
            return None
        if (position.stage, position.epoch, position.step) != (stage.number, stage.stage.epochs, 0):
            return None
    if following.stage.start == "best" and f"{end.label}-best" not in saved:
        return None
    position = saved[end.label][1]
    # best.ckpt may be of a later stage already; then the weights that were the best so far are gone.
    if position.best is not None and ("best" not in saved or saved["best"][1].best != position.best):
        return None
    lines = [line for line in other.read_metrics() if line["draw"] <= draw]
    unreadable = other.read_unreadable()
    if len(lines) != end.first_epoch + end.stage.epochs or lines[-1]["unreadable_images"] != len(unreadable):
        return None
    return Beginning(other, [stage.stage.name for stage in plan], saved, end.label, lines, unreadable)


def _write(beginning: Beginning, home: RunFolder, own: str) -> None:
    def put(name: str, source: str) -> None:
        parameters, position = beginning.checkpoints[source]
        cell = SimpleNamespace(get_parameters=parameters.values)
        write(home.checkpoints / f"{name}.ckpt", cell, replace(position, fingerprint=own))

    for name in beginning.checkpoints:
        put(name, name)
    write_text(home.metrics, "".join(json.dumps(line) + "\n" for line in beginning.lines))
    if beginning.unreadable:
        home.write_unreadable(beginning.unreadable)
    write_json(_record(home), {"run": str(beginning.run.path), "stages": beginning.stages})
    # Last, as at the end of an epoch: a kill before it leaves a run that has not begun.
    put("last", beginning.last)
