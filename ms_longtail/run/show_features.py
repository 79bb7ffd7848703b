"""How the features of a run lie: computed once and kept beside it, measured, drawn, and written down."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from .. import runtime
from ..console import Console
from ..errors import UserError
from ..evaluation.geometry import geometry
from ..evaluation.geometry_plot import geometry_figure, table_rows
from ..evaluation.metrics import groups
from ..recipe import Recipe
from .features import Outputs, checkpoint_file
from .folder import RunFolder, write_json
from .show import require_writable

PARTS = ("test", "validation", "train")
MOST_COSINES = 200  # classes: with more, the file of numbers leaves the matrix of cosines out


def require(out: str, home: RunFolder, checkpoint: str, part: str) -> Path:
    """The path of the picture; a UserError for what is known to go wrong before any work is done."""
    path = require_writable(out)
    for file in (path, path.with_suffix(".json")):
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            raise UserError(f"--out {out}: {file} cannot be written; give another name")
    numbers = path.with_suffix(".json")
    if numbers.exists() and not _ours(numbers):
        raise UserError(
            f"--out {out}: the numbers would go to {numbers}, which holds something else; give another name"
        )
    home.plain_recipe()  # refuses a folder that is no run
    if not list(home.checkpoints.glob("*.ckpt")):
        raise UserError(f"{home.path} has no checkpoint yet; let it train for an epoch first")
    checkpoint_file(home, checkpoint)
    try:
        counts = json.loads((home.path / "split.json").read_text())["counts"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{home.path} is not a whole run folder: {error}") from error
    if part not in counts:
        raise UserError(
            f"--part {part}: {home.path} has none; choose from {', '.join(name for name in PARTS if name in counts)}"
        )
    if np.count_nonzero(counts[part]) < 2:
        raise UserError(f"{home.path}: only 1 class has images in {part}; angles between classes need at least 2")
    return path


def _ours(path: Path) -> bool:
    try:
        return json.loads(path.read_text()).get("picture") == "features"
    except (OSError, ValueError, AttributeError):
        return False


def draw(
    out: Path,
    home: RunFolder,
    recipe: Recipe,
    machine: runtime.Runtime,
    console: Console,
    *,
    checkpoint: str,
    part: str,
) -> None:
    """Write the picture and, beside it, the numbers; print the table.

    Args:
        out: of `require`. checkpoint: its name. part: "test", "validation" or "train"; training images are seen as test images
            are, without augmentation.
    """
    outputs = Outputs(home, recipe, machine, checkpoint)
    kept, counts = outputs.part(part), outputs.data.class_counts
    made = "computed" if outputs.computed else "were there"
    console.say(f"{home.path}: features of {part} {made}, kept in {outputs.path}")
    try:
        found = geometry(kept.features, kept.labels, counts)
    except ValueError as error:
        raise UserError(f"{home.path}, checkpoint {checkpoint}: {error}") from error
    names = outputs.data.splits.train.class_names
    name = checkpoint.removesuffix(".ckpt")
    head = {"picture": "features", "run": str(home.path), "checkpoint": name, "part": part}
    head |= {"weights_sha256": outputs.weights, "dimensions": kept.features.shape[1]}
    title = f"{home.path.resolve().name}, checkpoint {name}: features of {part}, {kept.features.shape[1]} dimensions"
    geometry_figure(out, found, kept.features, kept.labels, counts, names, title)
    write_json(out.with_suffix(".json"), head | numbers(found, kept.labels, counts, names))
    simplex = "" if found["simplex"] is None else f" (cosine of a regular simplex: {found['simplex']:.3f})"
    console.table(f"features of {part}{simplex}", table_rows(found))
    console.say(f"numbers: {out.with_suffix('.json')}")


def numbers(
    found: dict[str, Any], labels: np.ndarray, class_counts: np.ndarray, names: tuple[str, ...]
) -> dict[str, Any]:
    """What `geometry` found, as JSON holds it: None where there is no number, classes by name."""
    images = np.bincount(labels, minlength=len(names))
    group_of = {int(c): group for group, mask in groups(class_counts).items() for c in np.flatnonzero(mask)}
    apart = found["cosines"].copy()
    np.fill_diagonal(apart, -np.inf)
    apart[np.isnan(apart)] = -np.inf
    classes = []
    for c, name in enumerate(names):
        row: dict[str, Any] = {"name": name, "group": group_of[c], "train_images": int(class_counts[c])}
        row |= {"images": int(images[c]), "alignment": _plain(found["alignment"][c]), "nearest": None}
        nearest = int(apart[c].argmax())
        if np.isfinite(apart[c, nearest]):
            row["nearest"] = {"name": names[nearest], "cosine": float(apart[c, nearest])}
        classes.append(row)
    cosines = None
    if len(names) <= MOST_COSINES:
        cosines = [[_plain(value) for value in row] for row in found["cosines"]]
    return {"simplex": found["simplex"], "groups": found["groups"], "classes": classes, "cosines": cosines}


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
