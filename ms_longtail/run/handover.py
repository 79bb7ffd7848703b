"""What passes from one stage to the next: weights or new ones, the optimizer's state, a loss's memory, a teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import nn

from .. import hashing
from ..errors import TrainingError
from ..parameters import assign
from ..training.checkpoints import load_into, optimizer_state, read
from ..training.step import TrainStep
from .plan import StagePlan


def load_teacher(
    stage: StagePlan, plan: list[StagePlan], checkpoints: Path, build: Callable[[], nn.Cell], *, main: bool = True
) -> nn.Cell | None:
    """A network with the weights at the end of the stage that `stage` names as its teacher; None where it names none.

    Only the main worker reads the file, which it alone has written; the others get the weights when the step's parameters
    are broadcast.

    Raises:
        TrainingError: the checkpoint of that stage is missing or damaged.
    """
    if stage.stage.teacher is None:
        return None
    network = build()
    if not main:
        return network
    trained = next(other for other in plan if other.stage.name == stage.stage.teacher)
    load_weights(network, checkpoints / f"{trained.label}.ckpt")
    return network


def start_file(plan: list[StagePlan], number: int, checkpoints: Path) -> Path:
    """The checkpoint whose weights stage `number` starts with (where `start` is not "fresh")."""
    start = plan[number].stage.start
    if start.endswith(".ckpt"):
        # A copy is kept when the stage begins: what becomes of the file later is no matter of the run.
        own = checkpoints / f"{plan[number].label}-start.ckpt"
        return own if own.is_file() else Path(start)
    before = plan[number - 1].label
    return checkpoints / (f"{before}.ckpt" if start == "last" else f"{before}-best.ckpt")


def load_weights(model: nn.Cell, path: Path) -> None:
    """Set the model's weights to those of a checkpoint, which may hold more than them.

    Raises:
        TrainingError: the file is missing, damaged, or of another network.
    """
    try:
        parameters, _ = read(path)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    load_into(model, parameters, path, only={p.name for p in model.get_parameters()})


def fresh_seed(seed: int, number: int) -> int:
    """Of the new weights that stage `number` starts from; far from the seeds that people give runs."""
    return int(hashing.integers(seed, np.array([number]), "fresh", 1, 2**32)[0, 0])


def hand_over(before: TrainStep, after: TrainStep, last: StagePlan, stage: StagePlan) -> None:
    """Carry over what goes on: the count of skipped steps, the optimizer's state under one schedule for the whole run, and
    what a loss remembers where the same loss goes on with the same network."""
    assign(after.skipped, before.skipped.asnumpy())
    if stage.stage.schedule.settings["span"] == "run":
        state = optimizer_state(before)
        load_into(after.optimizer, state, Path("the optimizer of the stage before"), only=set(state))
    if stage.stage.loss == last.stage.loss and stage.stage.start == "last":
        memory = {p.name: p for p in before.objective.loss.get_parameters()}
        load_into(after.objective.loss, memory, Path("the loss of the stage before"))
