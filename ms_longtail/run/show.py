"""What a picture is made of: a recipe with its data, and, of a run, the weights and the maps of its stages."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import runtime
from ..errors import TrainingError, UserError
from ..recipe import Recipe
from ..registry import nearest
from ..training.checkpoints import newest
from . import build
from .check import check
from .dataset import Data, load_data
from .folder import RunFolder
from .handover import load_weights, start_file
from .maps import compute_maps, stored_maps, weights_hash
from .plan import StagePlan, make_plan


@dataclass(frozen=True)
class Subject:
    """A recipe with its data and plan; `folder` is that of a run, or None for a recipe alone."""

    name: str
    recipe: Recipe
    data: Data
    plan: list[StagePlan]
    machine: runtime.Runtime
    folder: RunFolder | None = None
    ranks: int = 1

    def stage(self, name: str) -> StagePlan:
        """The stage of that name."""
        names = [plan.stage.name for plan in self.plan]
        if name not in names:
            raise UserError(f"--stage {name}: no such stage{nearest(name, names)}; there are: {', '.join(names)}")
        return self.plan[names.index(name)]

    def start(self, stage: StagePlan) -> Path | None:
        """The checkpoint whose weights the stage starts with; None where there is none yet."""
        start = stage.stage.start
        if start.endswith(".ckpt"):
            return Path(start)
        if self.folder is None or not stage.number or start == "fresh":
            return None
        ended = self.folder.checkpoints / f"{self.plan[stage.number - 1].label}.ckpt"
        return start_file(self.plan, stage.number, self.folder.checkpoints) if ended.is_file() else None

    def last(self) -> Path:
        """The newest whole checkpoint of the run."""
        try:
            found = None if self.folder is None else newest(self.folder.checkpoints)
        except TrainingError as error:
            raise UserError(str(error)) from error
        if found is None:
            raise UserError(f"{self.name} has no checkpoint yet; let it train for an epoch first")
        return found[0]

    def maps(self, weights: Path, wanted: np.ndarray, stage: StagePlan | None = None) -> np.ndarray:
        """uint8 (N, h, w): the run's maps of `stage` if they are of these weights, else new ones of the images `wanted` alone."""
        model, images = build.build_model(self.recipe, self.data), self.data.splits.train
        try:
            load_weights(model, weights)
        except TrainingError as error:
            raise UserError(str(error)) from error
        if stage is not None and self.folder is not None:
            path = self.folder.path / "maps" / f"{stage.label}.npy"
            stored = stored_maps(path, weights_hash(model), len(images))
            if stored is not None:
                return stored
        wanted = np.unique(wanted)
        recipe = dataclasses.replace(self.recipe, batch=min(self.recipe.batch, len(wanted)))
        some = compute_maps(model, recipe, images.subset(wanted), self.machine)
        maps = np.zeros((len(images), *some.shape[1:]), np.uint8)
        maps[wanted] = some
        return maps


def of_recipe(recipe: Recipe, machine: runtime.Runtime, name: str) -> Subject:
    """A recipe alone; a setting that a component refuses is a RecipeError."""
    data = load_data(recipe)
    check(recipe, data)
    return Subject(name, recipe, data, make_plan(recipe, data), machine)


def of_run(folder: RunFolder, recipe: Recipe, machine: runtime.Runtime) -> Subject:
    """A run, finished or not, with the images that it began with."""
    data = load_data(recipe)
    try:
        folder.require_same_split(data.description)
        ranks = json.loads((folder.path / "environment.json").read_text())["ranks"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder.path} is not a whole run folder: {error}") from error
    return Subject(str(folder.path), recipe, data, make_plan(recipe, data, ranks), machine, folder, ranks)


def require_writable(out: str) -> Path:
    """The path of the picture, before any work is done for it."""
    path = Path(out)
    if path.suffix.lower() != ".png":
        raise UserError(f"--out {out}: pictures are written as PNG; give a name that ends in .png")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: the folder {path.parent} does not exist; make it first")
    return path
