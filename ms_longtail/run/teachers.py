"""Teachers: networks with the weights of an earlier stage, or of another run, and a record of which weights these are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from mindspore import nn

from ..collectives import from_main
from ..errors import TrainingError, UserError
from ..recipe.across import is_path
from ..recipe.validate import component
from ..registry import MODELS
from .folder import RunFolder, write_json
from .handover import load_weights
from .plan import StagePlan


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def describe_teacher(teacher: str) -> tuple[Path, dict[str, Any]]:
    """(checkpoint, what it takes to build its network) of a run folder, or of a checkpoint within one.

    Returns:
        the run's last checkpoint or the one named; {"run", "checkpoint", "model", "mean", "std", "size", "classes"}.

    Raises:
        UserError: it is no whole run folder.
    """
    path = Path(teacher)
    checkpoint = path if path.suffix == ".ckpt" else path / "checkpoints" / "last.ckpt"
    run = checkpoint.absolute().parent.parent
    if not checkpoint.is_file():
        raise UserError(f"there is no {checkpoint}; name a run folder, or a checkpoint in one")
    try:
        plain = RunFolder(run).plain_recipe()
        given, data, files = dict(plain["model"]), plain["data"], [entry["file"] for entry in plain.get("imports", [])]
        images = {"mean": list(data["mean"]), "std": list(data["std"]), "size": data["size"]}
        classes = list(json.loads((run / "split.json").read_text())["classes"])
    except (OSError, ValueError, TypeError, LookupError, UserError, yaml.YAMLError) as error:
        raise UserError(f"{run} is no whole run folder: {' '.join(str(error).split())}") from error
    # Its code is not run here: a network of somebody's own must be known to this recipe, which keeps a copy of what it knows.
    model, faults = component("model", given, "model")
    if faults:
        message = f"{run} has a network that this recipe does not know: " + "; ".join(text for _, text in faults)
        raise UserError(f"{message}; add to its imports {' or '.join(files)}" if files else message)
    return checkpoint, {
        "run": str(run),
        "checkpoint": checkpoint.name,
        "model": {"name": model.name, **model.settings},
        **images,
        "classes": classes,
    }


def load_teacher(
    stage: StagePlan, plan: list[StagePlan], folder: RunFolder, build: Callable[[], nn.Cell], *, main: bool = True
) -> nn.Cell | None:
    """The network that teaches in a stage, None where none does; teachers.json in the run folder says which weights it has.

    The weights of another run are copied into this one when the stage begins, so that it can go on without the other. Only
    the main worker reads and writes files; the others get the weights when the step's parameters are broadcast.

    Raises:
        TrainingError: the checkpoint is missing or damaged, or not the one that the stage began with.
    """
    if stage.stage.teacher is None:
        return None
    if not is_path(stage.stage.teacher):
        network = build()
        if main:
            trained = next(other for other in plan if other.stage.name == stage.stage.teacher)
            path = folder.checkpoints / f"{trained.label}.ckpt"
            load_weights(network, path)
            _record(folder, stage.label, {"stage": stage.stage.teacher, "checkpoint": path.name}, path)
        return network
    note = from_main(_keep(stage, folder) if main else None)
    network = build_teacher(note)
    if main:
        load_weights(network, _own(stage, folder))
    return network


def build_teacher(note: dict[str, Any]) -> nn.Cell:
    """The network that a record describes, with new weights."""
    settings = {key: value for key, value in note["model"].items() if key != "name"}
    classes, mean, std = len(note["classes"]), tuple(note["mean"]), tuple(note["std"])
    return MODELS.get(note["model"]["name"])(num_classes=classes, mean=mean, std=std, **settings)


def _own(stage: StagePlan, folder: RunFolder) -> Path:
    return folder.checkpoints / f"{stage.label}-teacher.ckpt"


def keep_teachers(plan: list[StagePlan], folder: RunFolder) -> None:
    """Copy the weights of all teachers from other runs into this one, before anything is trained; once."""
    for stage in plan:
        if stage.stage.teacher is not None and is_path(stage.stage.teacher):
            _keep(stage, folder)


def _keep(stage: StagePlan, folder: RunFolder) -> dict[str, Any]:
    """The record of a teacher from another run; its weights are copied if they are not here yet."""
    own, known = _own(stage, folder), read_teachers(folder).get(stage.label)
    if known is None or not own.is_file():
        try:
            path, note = describe_teacher(stage.stage.teacher)
        except UserError as error:
            raise TrainingError(f"the teacher of stage {stage.stage.name}: {error}") from error
        temporary = own.with_name(f".{own.stem}.tmp.ckpt")
        shutil.copyfile(path, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if known is not None and file_hash(temporary) != known["sha256"]:
            temporary.unlink()
            raise TrainingError(f"{own} is lost, and {path} is not the teacher any more that the stage began with")
        os.replace(temporary, own)
        return _record(folder, stage.label, note, own)
    if file_hash(own) != known["sha256"]:
        raise TrainingError(
            f"{own} is not the teacher that the stage began with (its SHA-256 is not that of teachers.json)"
        )
    return known


def read_teachers(folder: RunFolder) -> dict[str, Any]:
    """Stage label -> what is known of its teacher."""
    path = folder.path / "teachers.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _record(folder: RunFolder, label: str, note: dict[str, Any], path: Path) -> dict[str, Any]:
    note = note | {"sha256": file_hash(path)}
    write_json(folder.path / "teachers.json", read_teachers(folder) | {label: note})
    return note
