"""What is written down about an epoch, evaluation apart."""

from __future__ import annotations

from typing import Any

from ..training.checkpoints import Position
from ..training.step import TrainStep
from .plan import StagePlan


def epoch_line(
    stage: StagePlan,
    position: Position,
    step: TrainStep,
    facts: dict[str, float],
    *,
    unreadable: int,
    seconds: float,
) -> dict[str, Any]:
    """A line of metrics.jsonl for the epoch that has just ended.

    Args:
        position: where the run stands. step: its sums of the epoch's losses are read. facts: numbers that the loss is known by.
        unreadable: images that could not be read so far. seconds: of training.
    """
    weight = float(step.loss_weight.asnumpy())
    line = {
        "stage": stage.number + 1,
        "name": stage.stage.name,
        "epoch": position.epoch,
        "draw": position.draw,
        "lr": float(stage.lr[position.epoch * stage.steps_per_epoch - 1]),
        "train_loss": float(step.loss_sum.asnumpy()) / weight if weight else None,
        "skipped_steps": int(step.skipped.asnumpy()),
        "loss": {"name": stage.stage.loss.name, **facts},
        "unreadable_images": unreadable,
        "train_seconds": round(seconds, 3),
    }
    if step.loss_scale.dynamic:
        line["loss_scale"] = float(step.loss_scale.value.asnumpy())
    learnt = step.objective.learnt()
    return line | ({"learnt": learnt} if learnt else {})
