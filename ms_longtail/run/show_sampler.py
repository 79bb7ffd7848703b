"""What every sampler would draw from the images of a recipe, epoch after epoch."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path

import numpy as np

from ..evaluation.pictures import SamplerPanel, sampler_figure
from ..recipe import Component
from ..registry import SAMPLERS
from ..samplers import EpochOrder
from .build import build_order
from .show import Subject


def draw(out: Path, subject: Subject, *, epochs: int = 10) -> None:
    """Write the picture; see `sampler_panels`."""
    train, title = subject.data.splits.train, f"{subject.name}: what every sampler draws, epochs: {epochs}"
    sampler_figure(out, train.class_counts, sampler_panels(subject, epochs), train.class_names, title)


def sampler_panels(subject: Subject, epochs: int) -> list[SamplerPanel]:
    """A panel for every registered sampler: as the recipe's stages have it where one uses it, else with its defaults.

    Args:
        epochs: how many are drawn: the first of the stage, or, of a sampler that changes as a stage goes on, as many as there
            are up to this number (but 2 at least), evenly spread from the first to the last.
    """
    train, seed = subject.data.splits.train, subject.recipe.seed
    total = sum(plan.stage.epochs for plan in subject.plan)
    used: dict[str, list[tuple[Component, list, EpochOrder]]] = {name: [] for name in SAMPLERS}
    for plan in subject.plan:
        for part, order, note in (
            (plan.stage.sampler, plan.order, ""),
            (plan.stage.second_sampler, plan.second_order, " (second order)"),
        ):
            if part is None or (plan.follows and not note) or (note and plan.second_part != "train"):
                continue  # draws by rates that are learnt, and orders of other images, are no sampler's of this set
            same = [entry for entry in used[part.name] if entry[0] == part and not _changes(part.name) and not note]
            if same:
                same[0][1].append((plan, note))
            else:
                used[part.name].append((part, [(plan, note)], order))
    panels = []
    for name, entries in used.items():
        if not entries:
            stage = dataclasses.replace(subject.plan[0].stage, sampler=Component(name), epochs=total)
            entries.append((stage.sampler, [], build_order(stage, train.labels, seed, total_epochs=total)))
        for part, stages, order in entries:
            first, length = (stages[0][0].first_epoch, stages[0][0].stage.epochs) if stages else (0, total)
            chosen = first + np.arange(epochs)
            if _changes(name):
                chosen = first + np.unique(np.linspace(0, length - 1, max(2, min(epochs, length))).round().astype(int))
            used_by = [plan.stage.name + note for plan, note in stages]
            panels.append(
                _panel(part, used_by, order, chosen, subject, f" over {length} epochs" if _changes(name) else "")
            )
    return panels


def _panel(
    part: Component, stages: list[str], order: EpochOrder, epochs: np.ndarray, subject: Subject, span: str
) -> SamplerPanel:
    train = subject.data.splits.train
    drawn, draws = np.zeros(len(train), bool), []
    for epoch in epochs.tolist():
        index = order(epoch)
        drawn[index] = True
        draws.append(np.bincount(train.labels[index], minlength=train.num_classes))
    distinct = np.bincount(train.labels[drawn], minlength=train.num_classes)
    changes = {}
    if _changes(part.name) and len(epochs) > 1:
        changes = {"first": draws[0], "last": draws[-1]}
    settings = [f"{key} {value:g}" for key, value in part.settings.items() if isinstance(value, float)]
    name = " ".join([part.name, *settings]) + span
    return SamplerPanel(name, np.mean(draws, axis=0), distinct, int(draws[0].sum()), stages, changes)


def _changes(name: str) -> bool:
    """Whether an order depends on how far its stage has come."""
    return "epochs" in inspect.signature(SAMPLERS.get(name)).parameters
