"""The plan of a run: how many draws, steps and epochs each stage takes, and the learning rate of every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import RecipeError
from ..recipe import Component, Recipe, Stage
from ..registry import SCHEDULES
from ..samplers import EpochOrder
from .build import build_order, build_second_order
from .dataset import Data


@dataclass(frozen=True)
class StagePlan:
    """One stage in numbers.

    Attributes:
        number: from 0.
        order: epoch of the run -> image indices.
        second_order: the same for the images that these are mixed with, or None.
        epoch_draws: images drawn an epoch.
        steps_per_epoch: optimizer steps; the last one of an epoch may be smaller.
        first_draw, first_epoch: of the stage within the run.
        lr: learning rate of every step, (epochs * steps_per_epoch,).
    """

    number: int
    stage: Stage
    order: EpochOrder
    epoch_draws: int
    steps_per_epoch: int
    first_draw: int
    first_epoch: int
    lr: np.ndarray
    second_order: EpochOrder | None = None

    @property
    def label(self) -> str:
        return f"stage-{self.number + 1}-{self.stage.name}"


def make_plan(recipe: Recipe, data: Data, ranks: int = 1) -> list[StagePlan]:
    """Plans of all stages; a setting that does not fit the data set is a RecipeError."""
    if recipe.batch % (ranks * recipe.accumulate):
        raise RecipeError(
            [f"batch = {recipe.batch}: must be a multiple of {ranks} workers x accumulate {recipe.accumulate}"]
        )
    total_epochs = sum(stage.epochs for stage in recipe.stages)
    labels = data.splits.train.labels
    plans: list[StagePlan] = []
    first_draw = first_epoch = 0
    for number, stage in enumerate(recipe.stages):
        order = build_order(stage, labels, recipe.seed, first_epoch=first_epoch, total_epochs=total_epochs)
        epoch_draws = len(order(first_epoch))
        place = {"first_epoch": first_epoch, "total_epochs": total_epochs}
        second = build_second_order(stage, labels, recipe.seed, epoch_draws, **place)
        steps_per_epoch = -(-epoch_draws // recipe.batch)
        lr = _learning_rate(stage, recipe.batch, first_epoch, total_epochs, steps_per_epoch)
        plans.append(StagePlan(number, stage, order, epoch_draws, steps_per_epoch, first_draw, first_epoch, lr, second))
        first_draw += stage.epochs * epoch_draws
        first_epoch += stage.epochs
    return plans


def _learning_rate(stage: Stage, batch: int, first_epoch: int, total_epochs: int, steps_per_epoch: int) -> np.ndarray:
    settings = dict(stage.schedule.settings)
    span = settings.pop("span")
    schedule = SCHEDULES.get(stage.schedule.name)
    if span == "run":
        factor = schedule(total_epochs, steps_per_epoch, **settings)
        factor = factor[first_epoch * steps_per_epoch : (first_epoch + stage.epochs) * steps_per_epoch]
    else:
        factor = schedule(stage.epochs, steps_per_epoch, **settings)
    peak = stage.optimizer.settings["lr"]
    reference = stage.optimizer.settings["reference_batch"]
    if reference is not None:
        peak *= batch / reference  # linear scaling (Goyal et al., 2017), by the global batch
    return (peak * factor).astype(np.float32)


def describe(plans: list[StagePlan]) -> list[dict[str, str]]:
    """A row per stage for people to read."""
    rows = []
    for plan in plans:
        stage = plan.stage
        points = dict.fromkeys(f"{lr:.3g}" for lr in (plan.lr[0], plan.lr.max(), plan.lr[-1]))
        rows.append(
            {
                "stage": f"{plan.number + 1} {stage.name}",
                "epochs": str(stage.epochs),
                "steps": f"{stage.epochs} x {plan.steps_per_epoch}",
                "images": f"{stage.epochs} x {plan.epoch_draws}",
                "sampler": " + ".join(part.name for part in (stage.sampler, stage.second_sampler) if part is not None),
                "loss": _with(stage.loss, stage.class_weights, " x "),
                "augment": _with(Component(", ".join(op.name for op in stage.augment) or "none"), stage.mixing, ", "),
                "lr": f"{' .. '.join(points)} ({stage.schedule.name})",
            }
        )
    return rows


def _with(first: Component, second: Component, between: str) -> str:
    """Two names, or the one that is not "none"."""
    return between.join(name for name in (first.name, second.name) if name != "none") or "none"
