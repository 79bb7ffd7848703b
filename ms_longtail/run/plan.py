"""The plan of a run: how many draws, steps and epochs each stage takes, and the learning rate of every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import RecipeError
from ..recipe import Component, Recipe, Stage
from ..recipe.across import second_part
from ..registry import OBJECTIVES, SCHEDULES
from ..samplers import EpochOrder
from .build import build_order, build_second_order
from .dataset import Data


@dataclass(frozen=True)
class StagePlan:
    """One stage in numbers.

    Attributes:
        number: from 0.
        order: epoch of the run -> image indices.
        second_order: the same for the images that these are mixed with, or that are read beside them; None without.
        second_part: the part of the data that it is an order of.
        epoch_draws: images drawn an epoch; whole batches where the draws of a step follow what is learnt before it, and
            where they are sunk into the device.
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
    second_part: str = "train"

    @property
    def follows(self) -> bool:
        """Whether the draws follow rates that are learnt, and `order` gives no more than their number."""
        return draws_follow(self.stage)

    @property
    def label(self) -> str:
        return f"stage-{self.number + 1}-{self.stage.name}"


def make_plan(recipe: Recipe, data: Data, ranks: int = 1) -> list[StagePlan]:
    """Plans of all stages; a setting that does not fit the data set is a RecipeError."""
    for number, stage in enumerate(recipe.stages):
        for key, batch in (("batch", recipe.batch), (f"stages.{number}.batch", stage.batch)):
            if batch % (ranks * recipe.accumulate):
                message = f"{key} = {batch}: must be a multiple of {ranks} workers x accumulate {recipe.accumulate}"
                raise RecipeError([message])
    total_epochs = sum(stage.epochs for stage in recipe.stages)
    labels, parts = data.splits.train.labels, data.splits.parts()
    plans: list[StagePlan] = []
    first_draw = first_epoch = 0
    for number, stage in enumerate(recipe.stages):
        order = build_order(stage, labels, recipe.seed, first_epoch=first_epoch, total_epochs=total_epochs)
        epoch_draws = len(order(first_epoch))
        place = {"first_epoch": first_epoch, "total_epochs": total_epochs}
        if whole_batches_only(stage, recipe):
            epoch_draws = _whole_batches(epoch_draws, stage.batch, number)
        part = second_part(stage.objective) or "train"
        if part not in parts:
            where = f"stages.{number}.objective.meta = {part!r}"
            raise RecipeError([f"{where}: there is no {part} part; set data.validation.share, or meta: train"])
        second = build_second_order(stage, parts[part].labels, recipe.seed, epoch_draws, **place)
        steps_per_epoch = -(-epoch_draws // stage.batch)
        lr = _learning_rate(stage, first_epoch, total_epochs, steps_per_epoch)
        plans.append(
            StagePlan(number, stage, order, epoch_draws, steps_per_epoch, first_draw, first_epoch, lr, second, part)
        )
        first_draw += stage.epochs * epoch_draws
        first_epoch += stage.epochs
    return plans


def draws_follow(stage: Stage) -> bool:
    """Whether the objective learns how often a class is drawn."""
    return getattr(OBJECTIVES.get(stage.objective.name), "draws_follow", False)


def whole_batches_only(stage: Stage, recipe: Recipe) -> bool:
    """Whether an epoch's last, smaller batch is left out. A sunk graph has one batch size, and so has what follows draws."""
    return recipe.drop_last or recipe.sink or draws_follow(stage)


def _whole_batches(draws: int, batch: int, number: int) -> int:
    if draws < batch:
        short = f"an epoch of {draws} images is less than one batch of {batch}, and only whole ones are taken"
        raise RecipeError([f"stages.{number}.sampler: {short}; set a smaller batch"])
    return draws - draws % batch


def _learning_rate(stage: Stage, first_epoch: int, total_epochs: int, steps_per_epoch: int) -> np.ndarray:
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
        peak *= stage.batch / reference  # linear scaling (Goyal et al., 2017), by the global batch
    return (peak * factor).astype(np.float32)


def describe(plans: list[StagePlan], lines: list[dict] | None = None) -> list[dict[str, str]]:
    """A row per stage for people to read; with the lines of metrics.jsonl it says which one ended early."""
    rows = []
    for plan in plans:
        stage = plan.stage
        done = stage.epochs if lines is None else sum(line["stage"] == plan.number + 1 for line in lines)
        points = dict.fromkeys(f"{lr:.3g}" for lr in (plan.lr[0], plan.lr.max(), plan.lr[-1]))
        rows.append(
            {
                "stage": f"{plan.number + 1} {stage.name}",
                "epochs": str(stage.epochs) if done == stage.epochs else f"{done} of {stage.epochs}, ended early",
                "steps": f"{stage.epochs} x {plan.steps_per_epoch}",
                "images": f"{stage.epochs} x {plan.epoch_draws}",
                "sampler": " + ".join(_orders(plan)),
                **({"rests": ", ".join(stage.freeze) or "nothing"} if any(p.stage.freeze for p in plans) else {}),
                "loss": _with(Component(_loss_name(stage)), stage.class_weights, " x "),
                "augment": _with(Component(_views(stage)), stage.mixing, ", "),
                "lr": f"{' .. '.join(points)} ({stage.schedule.name})",
            }
        )
    return rows


def _loss_name(stage: Stage) -> str:
    plain, contrast = stage.objective.name == "classification", stage.contrast.name
    names = stage.loss.name if contrast == "none" else f"{stage.loss.name} and {contrast}"
    return names if plain else f"{stage.objective.name} of {names}"


def _views(stage: Stage) -> str:
    """What is done to the images, view by view."""
    lists = [", ".join(op.name for op in view) or "none" for view in (stage.augment, *stage.views)]
    return lists[0] if len(lists) == 1 else " | ".join(f"{n}: {ops}" for n, ops in enumerate(lists, 1))


def _orders(plan: StagePlan) -> list[str]:
    second = plan.stage.second_sampler
    names = ["learnt rates" if plan.follows else plan.stage.sampler.name]
    if second is not None:
        names.append(second.name if plan.second_part == "train" else f"{second.name} of {plan.second_part}")
    return names


def _with(first: Component, second: Component, between: str) -> str:
    """Two names, or the one that is not "none"."""
    return between.join(name for name in (first.name, second.name) if name != "none") or "none"
