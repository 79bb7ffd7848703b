"""The teacher of a stage: the network as an earlier stage of the run left it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mindspore import nn

from ..errors import TrainingError
from ..training.checkpoints import load_into, read
from .plan import StagePlan


def load_teacher(
    stage: StagePlan, plan: list[StagePlan], checkpoints: Path, build: Callable[[], nn.Cell]
) -> nn.Cell | None:
    """A network with the weights at the end of the stage that `stage` names as its teacher; None where it names none.

    Raises:
        TrainingError: the checkpoint of that stage is missing or damaged.
    """
    if stage.stage.teacher is None:
        return None
    trained = next(other for other in plan if other.stage.name == stage.stage.teacher)
    path = checkpoints / f"{trained.label}.ckpt"
    try:
        parameters, _ = read(path)
    except ValueError as error:
        raise TrainingError(f"the teacher cannot be read: {error}") from error
    network = build()
    load_into(network, parameters, path, only={p.name for p in network.get_parameters()})
    return network
