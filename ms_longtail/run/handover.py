"""What passes from one stage to the next: weights or new ones, the optimizer's state, an objective's and a loss's memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn

from .. import hashing
from ..errors import TrainingError
from ..models.freezing import parameters_in
from ..models.heads import neutral_values
from ..parameters import assign
from ..training.average import averaged
from ..training.checkpoints import Position, load_into, optimizer_state, read
from ..training.step import TrainStep
from .plan import StagePlan

log = logging.getLogger(__name__)


def start_file(plan: list[StagePlan], number: int, checkpoints: Path) -> Path:
    """The checkpoint whose weights stage `number` starts with (where `start` is not "fresh")."""
    start = plan[number].stage.start
    if start.endswith(".ckpt"):
        # A copy is kept when the stage begins: what becomes of the file later is no matter of the run.
        own = checkpoints / f"{plan[number].label}-start.ckpt"
        return own if own.is_file() else Path(start)
    before = plan[number - 1].label
    return checkpoints / (f"{before}.ckpt" if start == "last" else f"{before}-best.ckpt")


def same_run(path: Path, position: Position, own: Position) -> Position:
    """The position of a checkpoint, for the workers of now; a TrainingError where it belongs to another recipe."""
    if position.fingerprint != own.fingerprint:
        raise TrainingError(f"{path} belongs to another recipe (fingerprint {position.fingerprint[:12]})")
    if position.ranks != own.ranks:
        log.warning(
            "the checkpoint was written by %d workers, now there are %d: the images of every step stay the same, "
            "sums run in another order, so the last digits of the weights will differ",
            position.ranks,
            own.ranks,
        )
        position.ranks = own.ranks
    return position


def load_weights(model: nn.Cell, path: Path) -> None:
    """Set the model's weights to those of a checkpoint, which may hold more than them.

    A head's correction that the checkpoint does not know is set to where it changes nothing.

    Raises:
        TrainingError: the file is missing, damaged, or of another network.
    """
    try:
        parameters, _ = read(path)
    except ValueError as error:
        raise TrainingError(str(error)) from error
    fit_weights(model, parameters, path)


def fit_weights(model: nn.Cell, parameters: dict, path: Path) -> None:
    """The same for what was read from a file already."""
    parameters = averaged(parameters)
    own = {p.name for p in model.get_parameters()}
    lost = [name for name in parameters if name.startswith("head.calibration.") and name not in own]
    if lost:
        raise TrainingError(
            f"{path} has {lost[0]}, which this model.head has no place for; use the head that it was trained with"
        )
    neutral = {name: Tensor(value) for name, value in neutral_values(model).items() if name not in parameters}
    load_into(model, parameters | neutral, path, only=own)


def renew(
    model: nn.Cell,
    stage: StagePlan,
    build: Callable[[int], nn.Cell],
    seed: int,
    pretrained: Callable[[nn.Cell], None] = lambda network: None,
) -> None:
    """The weights that a stage begins with, where they are not those of the stage before: all of them anew (`start: fresh`), or
    those of the parts that it resets.

    A run's first stage and a fresh one begin with pretrained weights where the recipe names a file. What is reset does not.

    Args:
        build: seed -> a new network. seed: of the run. pretrained: sets a network's parameters to those of the file.
    """
    begins = stage.stage.start == "fresh" or (stage.stage.start == "last" and stage.number == 0)
    everything = stage.stage.start == "fresh" and stage.number > 0
    new = {}
    if everything or stage.stage.reset:
        new = {p.name: p for p in build(fresh_seed(seed, stage.number)).get_parameters()}
    if everything:
        load_into(model, new, Path("new weights"), only=set(new))
    if begins:
        pretrained(model)
    if stage.stage.reset:
        load_into(model, new, Path("new weights"), only=set(parameters_in(model, stage.stage.reset)))


def fresh_seed(seed: int, number: int) -> int:
    """Of the new weights that stage `number` starts from; far from the seeds that people give runs."""
    return int(hashing.integers(seed, np.array([number]), "fresh", 1, 2**32)[0, 0])


def hand_over(before: TrainStep, after: TrainStep, last: StagePlan, stage: StagePlan) -> None:
    """Carry over what goes on: the count of skipped steps, a dynamic loss scale, the optimizer's state under one schedule for
    the whole run, and what a loss or an objective remembers where the same one goes on with the same network."""
    assign(after.skipped, before.skipped.asnumpy())
    if before.loss_scale.dynamic and after.loss_scale.dynamic:
        for name in ("value", "good"):
            assign(getattr(after.loss_scale, name), getattr(before.loss_scale, name).asnumpy())
    same = stage.stage.objective == last.stage.objective and stage.stage.contrast == last.stage.contrast
    if stage.stage.schedule.settings["span"] == "run":
        # What another objective trains beside the network begins anew, under whatever name.
        anew = () if same else tuple(f".{name}" for name in _beside(before.objective))
        state = {name: value for name, value in optimizer_state(before).items() if not name.endswith(anew)}
        load_into(after.optimizer, state, Path("the optimizer of the stage before"), only=set(state))
    if stage.stage.start != "last" or stage.stage.reset:
        return
    if stage.stage.loss == last.stage.loss:
        memory = {p.name: p for p in before.objective.loss.get_parameters()}
        load_into(after.objective.loss, memory, Path("the loss of the stage before"))
    if same:
        own = _beside(before.objective)
        load_into(after.objective, own, Path("the objective of the stage before"), only=set(own))


def _beside(objective: nn.Cell) -> dict:
    """What an objective trains or remembers beside the network and the loss: projections, queues, rates."""
    known = {p.name for part in (objective.model, objective.loss) for p in part.get_parameters()}
    return {p.name: p for p in objective.get_parameters() if p.name not in known and not p.name.startswith("teacher.")}
