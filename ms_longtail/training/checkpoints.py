"""Checkpoints that are whole or not there: temporary name, flush, rename; and finding the newest good one."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import mindspore as ms
from mindspore import nn

from ..errors import TrainingError
from ..parameters import assign

log = logging.getLogger(__name__)
_META = "ms_longtail_state"


@dataclass
class Position:
    """Where a run stands. Everything random follows from these numbers, so they are all that a resume needs.

    Attributes:
        stage: number of the stage, from 0.
        epoch: epochs of the stage that are complete.
        step: optimizer steps of the present epoch that are done.
        draw: images drawn in the run so far.
        best: the best validation result so far, {"by": , "value": , "stage": , "epoch": }, or None.
        stage_best: the best validation result of the stage.
        waited: evaluations of the stage since then.
        fingerprint: of the recipe.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    draw: int = 0
    best: dict | None = None
    fingerprint: str = ""
    ranks: int = 1
    stage_best: float | None = None
    waited: int = 0


def write(path: Path, cell: nn.Cell, position: Position) -> None:
    """Write the cell's parameters and the position to `path`. A reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.stem}.tmp.ckpt")
    write_temporary(temporary, cell, position)
    publish(temporary, path)


def write_temporary(temporary: Path, cell: nn.Cell, position: Position) -> None:
    rows = [{"name": p.name, "data": p} for p in cell.get_parameters()]
    # What a kill left under this name must not be taken for what is written now.
    temporary.unlink(missing_ok=True)
    # A checksum over the content is written with it and checked at reading. MindSpore appends ".ckpt" to other names.
    ms.save_checkpoint(rows, str(temporary), append_dict={_META: json.dumps(asdict(position))}, crc_check=True)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())


def publish(temporary: Path, path: Path) -> None:
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_last(folder: Path, cell: nn.Cell, position: Position, keep: int) -> None:
    """Write last.ckpt; the ones before it move to last-1.ckpt, last-2.ckpt, ..., `keep` files in all."""
    temporary = folder / ".last.tmp.ckpt"
    write_temporary(temporary, cell, position)
    for number in range(keep - 1, 0, -1):
        older = folder / ("last.ckpt" if number == 1 else f"last-{number - 1}.ckpt")
        if older.exists():
            os.replace(older, folder / f"last-{number}.ckpt")
    publish(temporary, folder / "last.ckpt")


def read(path: Path) -> tuple[dict, Position]:
    """(name -> parameter, position); a damaged or foreign file raises ValueError with one line, a failing disk OSError."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        parameters = ms.load_checkpoint(str(path), crc_check=True)
        state = json.loads(str(parameters.pop(_META)))
        return parameters, Position(**state)
    except KeyError as error:
        raise ValueError(f"{path} holds no state of a run") from error
    except Exception as error:  # the reader raises many kinds for damaged files
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, OSError):  # says nothing of the file, which may be whole
                raise link from None
            link = link.__cause__ or link.__context__
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error


def newest(folder: Path, *, set_aside: bool = False) -> tuple[Path, dict, Position] | None:
    """The newest whole one of last.ckpt, last-1.ckpt, ...; damaged ones are passed over with a warning.

    Args:
        set_aside: name the damaged ones .damaged-NAME. Whoever goes on writing here asks for it, or the next `write_last` would
            move them into the place of the whole one.
    """
    candidates = sorted(folder.glob("last*.ckpt"), key=lambda p: (len(p.name), p.name))
    for number, path in enumerate(candidates):
        try:
            found = (path, *read(path))
        except ValueError as error:
            log.warning("%s; trying the one before", error)
            continue
        for damaged in candidates[: number if set_aside else 0]:
            os.replace(damaged, folder / f".damaged-{damaged.name}")
        return found
    if candidates:
        raise TrainingError(
            f"no whole checkpoint in {folder}: all of {', '.join(p.name for p in candidates)} are damaged"
        )
    return None


def load_into(cell: nn.Cell, parameters: dict, source: Path, *, only: set[str] | None = None) -> None:
    """Set the cell's parameters by name; a missing, superfluous or differently shaped one is an error.

    Args:
        only: restrict the cell's side to these names (the checkpoint may then hold more).
    """
    own = {p.name: p for p in cell.get_parameters() if only is None or p.name in only}
    missing = sorted(set(own) - set(parameters))
    left_over = sorted(set(parameters) - set(own)) if only is None else []
    if missing or left_over:
        parts = [
            f"lacks {', '.join(missing[:5])}" if missing else "",
            f"has unknown {', '.join(left_over[:5])}" if left_over else "",
        ]
        raise TrainingError(f"{source} does not fit the network: it {' and '.join(p for p in parts if p)}")
    for name, parameter in own.items():
        value = parameters[name]
        if value.shape != parameter.shape or value.dtype != parameter.dtype:
            raise TrainingError(
                f"{source}: {name} has shape {value.shape} and type {value.dtype}, "
                f"the network needs {parameter.shape} and {parameter.dtype}"
            )
        assign(parameter, value.asnumpy())


def optimizer_state(step: nn.Cell) -> dict:
    """What an optimizer remembers about its parameters: not the parameters, nor the schedule and its place in it."""
    weights = {parameter.name for parameter in step.weights}
    left_out = weights | {"global_step", "learning_rate"}
    return {p.name: p for p in step.optimizer.get_parameters() if p.name not in left_out}
