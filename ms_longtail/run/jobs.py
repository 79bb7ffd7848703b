"""The runs of a gallery: which recipes there are, what is wrong with them, and which run folder holds the result."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from yaml import YAMLError

from ..errors import RecipeError, UserError
from ..evaluation import gallery as table
from ..recipe import Recipe, differences, essence, load
from ..recipe.own_code import explain
from . import check, dataset
from .folder import RunFolder, runs_of
from .missing import require_images
from .plan import make_plan
from .reuse import stages_taken

BASES = "_base_"  # folders of what recipes inherit from; no recipes themselves


@dataclass(frozen=True)
class Job:
    """One run that is wanted: an entry of the table with a seed."""

    entry: table.Entry
    recipe: Recipe
    split: dict

    def folder(self, parent: Path) -> RunFolder | None:
        """The run folder of this very recipe and these images: a finished one, else the newest; None if there is none."""
        same = []
        for run in runs_of(parent, self.recipe):
            try:
                if differences(essence(run.plain_recipe()), essence(self.recipe.plain)):
                    continue
                run.require_same_split(self.split)
            except (UserError, OSError, ValueError, LookupError, TypeError, YAMLError):
                continue  # of other images, or not a whole run folder
            same.append(run)
        finished = [run for run in same if run.finished]
        return next((runs[-1] for runs in (finished, same) if runs), None)

    def row(self, parent: Path) -> table.Row:
        """What the run folder says now."""
        run, row = self.folder(parent), table.Row(self.entry.recipe, self.recipe.seed)
        if run is None or not run.finished:
            return row if run is None else replace(row, folder=str(run.path))
        return replace(
            row,
            folder=str(run.path),
            status="finished",
            scores=table.scores_of(json.loads(run.result.read_text())["last"]),
            seconds=round(sum(line["train_seconds"] for line in run.read_metrics()), 3),
            reused=tuple(stages_taken(run)),
        )


def find_recipes(places: list[str], *, recursive: bool = False) -> dict[str, Path]:
    """Name in the table -> file, sorted: the file's place below the folder that all have in common, without its ending.

    Raises:
        UserError: a place does not exist, or holds no recipe.
    """
    files, tops, faults = [], [], []
    for place in map(Path, places):
        if place.is_dir():
            found = sorted(place.rglob("*.yaml") if recursive else place.glob("*.yaml"))
            found = [file for file in found if BASES not in file.relative_to(place).parts]
            hint = "" if recursive else "; --recursive looks into its sub-folders too"
            faults += [] if found else [f"{place}: no recipe (*.yaml) in this folder{hint}"]
            tops.append(Path(os.path.abspath(place)))
            files += found
        elif place.is_file():
            tops.append(Path(os.path.abspath(place)).parent)
            files.append(place)
        else:
            faults.append(f"{place}: no such file or folder")
    if faults:
        raise UserError("\n".join(faults))
    top = Path(os.path.commonpath(tops))
    return {Path(os.path.abspath(file)).relative_to(top).with_suffix("").as_posix(): file for file in files}


def make_jobs(recipes: dict[str, Path], seeds: list[int], overrides: list[str]) -> list[Job]:
    """Every recipe with every seed, seed by seed, all of them checked as `train` checks one.

    Raises:
        UserError: with the faults of all recipes.
    """
    by_seed: dict[int, list[Job]] = {seed: [] for seed in seeds}
    faults: list[str] = []
    last: tuple[str, dataset.Data] | None = None  # neighbours mostly share their images
    for name, path in recipes.items():
        try:
            versions = [load(path, [*overrides, f"seed={seed}"]) for seed in seeds]
            first = versions[0]
            key = json.dumps(first.plain["data"], sort_keys=True)
            if last is None or last[0] != key:
                found = dataset.load_data(first)
                require_images(first, found)
                last = key, found
            data = last[1]
            check.check(first, data)
            steps = sum(stage.stage.epochs * stage.steps_per_epoch for stage in make_plan(first, data))
        except RecipeError as error:
            faults.append("\n".join([f"{path}:", *(f"  {fault}" for fault in error.faults)]))
            continue
        except UserError as error:
            faults.append(f"{path}: {error}")
            continue
        except Exception as error:
            if (place := explain(error)) is None:
                raise
            faults.append(f"{path}: {place}")
            continue
        description = " ".join(first.plain.get("description", "").split())  # one line of a table
        entry = table.Entry(name, str(path), description, steps)
        for seed, version in zip(seeds, versions, strict=True):
            by_seed[seed].append(Job(entry, version, data.description))
    if faults:
        raise UserError(
            f"{len(faults)} of {len(recipes)} recipes cannot run, nothing was started\n" + "\n".join(faults)
        )
    return [job for seed in seeds for job in by_seed[seed]]
