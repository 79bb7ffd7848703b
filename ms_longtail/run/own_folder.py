"""`--data FOLDER`: a recipe for somebody's own class folders, chosen by the size of their images."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
from PIL import Image

from .. import recipe as recipes
from ..data.carve import carve
from ..data.image_folder import image_folder
from ..data.image_set import Splits
from ..errors import DataError, UserError

SMALL = 48  # pixels: below it, images are taken whole
BATCHES = 16  # batches an epoch, unless they became smaller than FEWEST
FEWEST = 16  # images of a batch: batch normalisation wants more than a few
DRAWS = 25_600  # images in all stages, 1,600 of the smallest batches: fewer leave a network unfinished
MOST = 16  # times the recipe's epochs


def recipe_for(folder: str, overrides: list[str], configs: Path, console) -> recipes.Recipe:
    """configs/folder/small.yaml for small images, photos.yaml for others, named after the folder."""
    path = Path(folder)
    require_not_packed(folder, "--data")
    splits = image_folder(root=folder)
    images = splits.train
    sides = []
    for index in np.linspace(0, len(images) - 1, min(len(images), 64)).astype(int):
        try:
            with Image.open(images.files[index]) as image:
                sides.append(min(image.size))
        except OSError:
            continue  # reported with its name when training reads it
    if not sides:
        raise DataError(f"--data {folder}: none of {min(len(images), 64)} images tried can be opened")
    median = int(np.median(sides))
    kind = "small" if median <= SMALL else "photos"
    content = recipes.read(configs / "folder" / f"{kind}.yaml")
    held = held_out(splits, content["data"]["validation"]["share"])
    content["batch"], epochs = lengths(
        int(len(images) * (1 - held)), content["batch"], [stage["epochs"] for stage in content["stages"]]
    )
    for stage, length in zip(content["stages"], epochs, strict=True):
        stage["epochs"] = length
    content["name"] = re.sub(r"[^A-Za-z0-9_-]+", "_", path.resolve().name).strip("_-") or "folder"
    content["data"]["root"] = folder
    if not held:
        content["data"]["validation"] = {"share": 0.0}
    recipe = recipes.from_map(content, overrides, source=f"--data {folder}")
    if not held and splits.validation is None:
        console.say(f"{folder}: no class has enough images to give one to a validation part, so there is none")
    every = sum(stage.epochs for stage in recipe.stages) // 25
    if every > 1:  # short epochs
        content |= {"evaluate_every": every, "checkpoint": {"every_epochs": every}}
        recipe = recipes.from_map(content, overrides, source=f"--data {folder}")
    epochs = " + ".join(str(stage.epochs) for stage in recipe.stages)
    console.say(
        f"{folder}: {len(images)} training images, {images.num_classes} classes, median side {median} px: "
        f"configs/folder/{kind}.yaml, batches of {recipe.batch}, {epochs} epochs"
    )
    return recipe


def require_not_packed(folder: str, word: str) -> None:
    """Raises UserError, which begins with `word`, for the output of `pack`."""
    if (Path(folder) / "packed.json").is_file():
        raise UserError(
            f"{word} {folder}: a packed set, which does not say how its images are to be trained on; "
            f"use --config RECIPE --set data.name=packed data.root={folder}"
        )


def held_out(splits: Splits, share: float) -> float:
    """`share` for a validation part, or 0: where the folder has one, and where no class has enough images to give one."""
    return share if splits.validation is None and len(carve(splits.train.labels, share)[1]) else 0.0


def lengths(images: int, batch: int, epochs: list[int]) -> tuple[int, list[int]]:
    """(batch, epochs of each stage) for as many images: the recipe's for thousands, smaller and more for hundreds.

    With a batch of 128, 500 images are 4 steps an epoch, and 25 epochs of them leave the accuracy near that of guessing.
    """
    batch = min(batch, max(FEWEST, 2 ** int(math.log2(max(1, images / BATCHES)))))
    factor = min(MOST, max(1.0, DRAWS / (max(1, images) * sum(epochs))))
    return batch, [math.ceil(length * factor) for length in epochs]
