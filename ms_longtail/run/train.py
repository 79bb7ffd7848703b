"""A run: stage after stage through `Model.train`, from the beginning or from where a checkpoint stands."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from mindspore.train import Model

from .. import runtime
from ..collectives import any_of, broadcast_parameters, from_main, gather_messages
from ..console import Console
from ..data import ImageSet
from ..evaluation import evaluate
from ..models.freezing import freeze
from ..models.norm import synchronise
from ..recipe import Recipe, fingerprint
from ..training.average import Average
from ..training.callbacks import Conductor, StopSignals
from ..training.checkpoints import Position, load_into, newest, write, write_last
from ..training.predict import Collect, Predict
from ..training.step import TrainStep
from . import build
from .best import keep_best
from .dataset import Data
from .epoch_line import epoch_line
from .folder import RunFolder
from .follower import Follower
from .handover import hand_over, load_weights, renew, same_run, start_file
from .maps import stage_maps
from .plan import StagePlan
from .predict import model_outputs
from .pretrained import keep_pretrained, take
from .sources import stage_dataset
from .teachers import keep_teachers, load_teacher

log = logging.getLogger(__name__)


class Interrupted(Exception):
    """The user or the scheduler asked for a stop; the state is saved."""


class Run:
    """Carries out a plan. After `train()`, `model` holds the weights of the last step.

    Args:
        recipe, data, plan: what to do.
        folder: where results go; written to by rank 0 only.
        machine: device and ranks.
        console: what the user sees.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Data,
        plan: list[StagePlan],
        folder: RunFolder,
        machine: runtime.Runtime,
        console: Console,
    ):
        self.recipe, self.data, self.plan = recipe, data, plan
        self.folder, self.machine, self.console = folder, machine, console
        self.new = partial(build.build_model, recipe, data)  # a network with new weights, by seed
        self.model = self.new()
        self.trainable = [p.name for p in self.model.trainable_params()]  # before any part of it rests
        if recipe.sync_batch_norm and machine.ranks > 1 and (why := synchronise(self.model)):
            log.warning("sync_batch_norm: %s; batch statistics are each worker's own", why)
        self.predictor = Predict(self.model)  # one for all stages: it is compiled once
        self.position = Position(fingerprint=fingerprint(recipe), ranks=machine.ranks)
        self.step: TrainStep | None = None
        self.average: Average | None = None  # of the weights, while a stage is trained
        self.trainer: Model | None = None
        self.faults: dict[int, str] = {}
        self.facts: dict[str, float] = {}
        self.maps: np.ndarray | None = None

    # ---- the run as a whole

    def train(self, *, resume: bool = False) -> None:
        # Only the main worker reads the run folder, which may be on its machine alone; the others hear of it.
        saved = newest(self.folder.checkpoints, set_aside=True) if resume and self.machine.main else None
        told = from_main(None if saved is None else (str(saved[0]), asdict(saved[2])))
        if told is not None:
            path, position = Path(told[0]), Position(**told[1])
            self.position = same_run(path, position, self.position)
            if position.epoch < self.plan[position.stage].stage.epochs:
                self._map(self.plan[position.stage], resumed=True)
            self._enter(self.plan[position.stage])
            if saved is not None:
                load_into(self.step, saved[1], path)
            broadcast_parameters(self.step)
            self.console.say(f"resumed from {path}: {self.where()}")
        self.faults |= gather_messages(self.folder.read_unreadable() if self.machine.main else {})
        if self.machine.main:
            keep_teachers(self.plan, self.folder)
            keep_pretrained(self.recipe, self.model, self.folder, self.console)
            self.folder.keep_metrics_until(self.position.draw)
        with StopSignals() as signals:
            while self.position.stage < len(self.plan):
                stage = self.plan[self.position.stage]
                if self.step is None or self.position.epoch == stage.stage.epochs:
                    stage = self._next()
                    if stage is None:
                        return
                self._train_stage(stage, signals)

    def where(self) -> str:
        stage = self.plan[self.position.stage]
        text = (
            f"stage {stage.number + 1} ({stage.stage.name}), {self.position.epoch} of {stage.stage.epochs} epochs done"
        )
        return f"{text}, step {self.position.step} of {stage.steps_per_epoch}" if self.position.step else text

    # ---- stages

    def _next(self) -> StagePlan | None:
        """Move to the stage after the present one; None after the last."""
        number = 0 if self.step is None else self.position.stage + 1
        if self.average is not None:
            self.average.hand_over()
            self.average = None  # from now on the model itself is what it was
        if number == len(self.plan):
            return None
        before, start = self.step, self.plan[number].stage.start
        if start not in ("last", "fresh") and self.machine.main:
            load_weights(self.model, start_file(self.plan, number, self.folder.checkpoints))
            if start.endswith(".ckpt"):
                write(self.folder.checkpoints / f"{self.plan[number].label}-start.ckpt", self.model, self.position)
        pretrained = partial(take, recipe=self.recipe, folder=self.folder, main=self.machine.main)
        renew(self.model, self.plan[number], self.new, self.recipe.seed, pretrained)
        if number and start not in ("last", "best"):
            self.position.best = None  # it speaks of the network before
        self.position.stage, self.position.epoch, self.position.step = number, 0, 0
        self.position.draw = self.plan[number].first_draw  # further on, where the stage before has ended early
        self.position.stage_best, self.position.waited = None, 0
        self._map(self.plan[number])
        self._enter(self.plan[number])
        if before is not None:
            hand_over(before, self.step, self.plan[number - 1], self.plan[number])
        return self.plan[number]

    def _map(self, stage: StagePlan, *, resumed: bool = False) -> None:
        """Class activation maps by the weights that the stage starts with, where an augmentation asks for them."""
        self.maps = None
        if not build.needs_maps(stage.stage):
            return
        model = self.model
        if resumed:  # the weights have moved on since
            model = self.new()
            if self.machine.main:
                load_weights(model, start_file(self.plan, stage.number, self.folder.checkpoints))
        path = self.folder.path / "maps" / f"{stage.label}.npy"
        self.maps, done = stage_maps(path, model, self.recipe, self.data.splits.train, self.machine)
        if done:
            self.console.say(f"stage {stage.number + 1} {stage.stage.name}: {done}, {path}")

    def _enter(self, stage: StagePlan) -> None:
        """Objective, optimizer and step of a stage around the one model."""
        teacher = load_teacher(stage, self.plan, self.folder, self.new, main=self.machine.main)
        resting = freeze(self.model, stage.stage.freeze, self.trainable, stage.stage.frozen_norm)
        objective = build.build_objective(stage.stage, self.model, self.data, self.recipe.seed, self.new, teacher)
        objective.fixed |= resting
        self.facts = objective.loss.facts()
        if self.facts:
            numbers = ", ".join(f"{key} {value:.4g}" for key, value in self.facts.items())
            self.console.say(f"stage {stage.number + 1} {stage.stage.name}: {stage.stage.loss.name} with {numbers}")
        optimizer = build.build_optimizer(stage.stage, objective.trainable_params(), stage.lr)
        self.step = TrainStep(
            objective,
            optimizer,
            **{key: getattr(self.recipe, key) for key in ("loss_scale", "accumulate", "clip_norm", "l1", "ema", "sam")},
            ranks=self.machine.ranks,
        )
        self.average = self.step.average
        broadcast_parameters(self.step)
        metrics = {"outputs": Collect(self.machine.ranks)}
        self.trainer = Model(self.step, eval_network=self.predictor, metrics=metrics)

    def _train_stage(self, stage: StagePlan, signals: StopSignals) -> None:
        total = stage.stage.epochs * stage.steps_per_epoch
        done = self.position.epoch * stage.steps_per_epoch + self.position.step
        self.console.start(f"stage {stage.number + 1} {stage.stage.name}", total, done)
        self._clock = time.monotonic()
        try:
            if self.position.step:  # the rest of an epoch that was cut short
                self._fit(stage, 1, self.position.step * stage.stage.batch, signals)
            left = stage.stage.epochs - self.position.epoch
            if left:
                self._fit(stage, left, 0, signals)
        finally:
            self.console.stop()

    def _fit(self, stage: StagePlan, epochs: int, skip: int, signals: StopSignals) -> None:
        """One `Model.train` call over whole epochs, or over what is left of one."""
        done = self.position.epoch * stage.steps_per_epoch + self.position.step
        follower = Follower(self.step.objective.follows, done)
        dataset, source, partners = stage_dataset(
            stage,
            self.recipe,
            self.data,
            epoch=self.position.epoch,
            skip=skip,
            rank=self.machine.rank,
            ranks=self.machine.ranks,
            maps=self.maps,
            messages=self.faults,
            board=follower.board,
        )
        columns = list(self.step.objective.columns) + (["apply"] if self.recipe.accumulate > 1 else [])
        minutes = self.recipe.checkpoint.every_minutes
        conductor = Conductor(
            self.step,
            self.position,
            first_draw=stage.first_draw,
            steps_per_epoch=stage.steps_per_epoch,
            epoch_draws=stage.epoch_draws,
            batch=stage.stage.batch,
            lr=stage.lr,
            max_bad_steps=self.recipe.max_bad_steps,
            read_every=1 if self.machine.device == "cpu" else 10,
            on_step=self._on_step,
            put_up=follower.put_up,
            on_epoch=lambda: self._on_epoch(stage),
            save=self._save,
            save_every_seconds=None if minutes is None else 60 * minutes,
            stop_requested=lambda: follower.leave(any_of(signals.requested)),
        )
        self._rate_from = (time.monotonic(), self.position.draw)
        try:
            # A sink of one step keeps the callbacks at every step; "epochs" are sinks then, and the device's queue runs ahead.
            sink = {"dataset_sink_mode": False}
            if self.recipe.sink and self.machine.device != "cpu" and self.machine.graph:
                epochs = epochs * stage.steps_per_epoch - self.position.step
                sink = {"dataset_sink_mode": True, "sink_size": 1}
            self.trainer.train(epochs, dataset.project(columns), callbacks=[conductor], **sink)
        except RuntimeError as error:
            # MindSpore wraps what the pipeline's threads raise into pages of its own; the fault itself is here.
            for read in (source, getattr(partners, "second", None)):
                if read is not None and read.faults.fatal is not None:
                    raise read.faults.fatal from error
            raise
        finally:
            follower.leave(True)
        if conductor.interrupted:
            any_of(False)  # wait until the main worker has saved: the first to leave may end the others
            raise Interrupted(f"stopped in {self.where()}; everything is saved")

    # ---- between steps

    def _on_step(self, loss: float | None, lr: float) -> None:
        stage = self.plan[self.position.stage]
        done = self.position.epoch * stage.steps_per_epoch + self.position.step
        seconds = max(1e-9, time.monotonic() - self._rate_from[0])
        self.console.step(done, loss, lr, (self.position.draw - self._rate_from[1]) / seconds)

    def _on_epoch(self, stage: StagePlan) -> None:
        position = self.position
        self.faults |= gather_messages(self.faults)
        last_epoch, kept = position.epoch == stage.stage.epochs, False
        seconds = time.monotonic() - self._clock
        line = epoch_line(stage, position, self.step, self.facts, unreadable=len(self.faults), seconds=seconds)
        self.step.reset_loss()
        if last_epoch or position.epoch % self.recipe.evaluate_every == 0:
            began = time.monotonic()
            part = "test" if self.data.splits.validation is None else "validation"
            line[part] = self._short(getattr(self.data.splits, part))
            if part == "validation":
                how = {"by": self.recipe.best_by, "evaluations": self.recipe.early_stopping, "main": self.machine.main}
                ends = keep_best(line, position, self.step, self.plan, self.folder, **how)
                # The weights of an epoch and the note of it go together: no resume may find one without the other.
                kept = position.best["epoch"] == line["epoch"] or position.stage_best == line[part][how["by"]]
                if ends and not last_epoch:
                    last_epoch, position.epoch = True, stage.stage.epochs  # where a stage stands that is done
                    self.console.say(f"stage {stage.number + 1} {stage.stage.name}: ended early, see early_stopping")
                if last_epoch:
                    line["test"] = self._short(self.data.splits.test)
            line["eval_seconds"] = round(time.monotonic() - began, 3)
            scores = ", ".join(
                f"{p} top-1 {100 * line[p]['top1']:.2f} %, balanced {100 * line[p]['balanced']:.2f} %"
                for p in ("validation", "test")
                if p in line
            )
            self.console.say(
                f"epoch {line['epoch']}/{stage.stage.epochs}: loss {line['train_loss'] or float('nan'):.4f}, {scores}"
            )
        if self.machine.main:
            # The order matters: whatever the moment of a kill, last.ckpt speaks only of what is written already.
            if last_epoch:
                write(self.folder.checkpoints / f"{stage.label}.ckpt", self.step, position)
            self.folder.append_metrics(line)
            if self.faults:
                self.folder.write_unreadable(dict(self.faults))
        if last_epoch or kept or position.epoch % self.recipe.checkpoint.every_epochs == 0:
            self._save()
        self._clock = time.monotonic()

    def _save(self) -> None:
        if self.machine.main:
            write_last(self.folder.checkpoints, self.step, self.position, self.recipe.checkpoint.keep)

    # ---- evaluation

    def _short(self, images: ImageSet) -> dict:
        result = evaluate(*self.outputs(images), self.data.class_counts)
        return {key: result[key] for key in ("top1", "balanced", "many", "medium", "few")}

    def outputs(self, images: ImageSet) -> tuple[np.ndarray, np.ndarray]:
        """(logits, labels) of a part with the model as it stands now."""
        broadcast_parameters(self.model)  # running statistics are each worker's own: take rank 0's
        if self.average is None:
            return model_outputs(self.trainer, self.recipe, images, self.machine)
        with self.average.in_place():
            broadcast_parameters(self.model)  # of the averaged ones as well
            return model_outputs(self.trainer, self.recipe, images, self.machine)
