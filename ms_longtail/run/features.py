"""Features and logits of a run's images, computed once and kept beside the run."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import nn, ops
from mindspore.train import Model

from .. import runtime
from ..data import ImageSet
from ..errors import UserError
from ..recipe import Recipe
from ..training.checkpoints import read
from ..training.predict import Collect
from . import build
from .dataset import Data, load_data
from .folder import RunFolder
from .handover import fit_weights
from .maps import weights_hash
from .predict import gather_rows


class FeaturesAndLogits(nn.Cell):
    """(image, label, index) -> (features and logits side by side (B, D + C), label, index); without logits, (B, D).

    Nobody asks for the logits of the training images, and with many classes they would fill the memory.
    """

    def __init__(self, model: nn.Cell, *, logits: bool):
        super().__init__(auto_prefix=False)
        self.model, self.logits = model, logits
        self.set_train(False)

    def construct(self, image, label, index):
        features = self.model.features(image)
        if not self.logits:
            return features, label, index
        return ops.cat((features, self.model.head(features)), axis=1), label, index


@dataclass(frozen=True)
class Kept:
    """What a network says of a part of the data: features (N, D), logits (N, C) float32 (none for train), labels (N,)."""

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


class Outputs:
    """A run's network with the weights of one of its checkpoints, and what it says of each part of the data.

    Args:
        folder: the run. recipe: its recipe. machine: device and ranks. checkpoint: its name.

    Raises:
        UserError: no such checkpoint, a damaged one, or images that are not the run's.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, machine: runtime.Runtime, checkpoint: str):
        self.model, self.data = model_of_run(folder, recipe, checkpoint)
        self.recipe, self.machine = recipe, machine
        self.weights = weights_hash(self.model)
        self.path = folder.path / "posthoc" / checkpoint.removesuffix(".ckpt")
        self.computed: list[str] = []  # parts that were not there yet

    def part(self, name: str) -> Kept:
        """Of "train", "validation" or "test"; from the file, if it is there and of these weights."""
        images, path = self.data.splits.parts()[name], self.path / f"{name}.npz"
        stored = _stored(path, self.weights)
        if stored is None:
            self.computed.append(name)
            stored = self._compute(images, logits=name != "train")
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.stem}.tmp.npz")
            with temporary.open("wb") as file:
                np.savez(
                    file, weights=self.weights, features=stored.features, logits=stored.logits, labels=stored.labels
                )
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        return stored

    def _compute(self, images: ImageSet, *, logits: bool) -> Kept:
        network = FeaturesAndLogits(self.model, logits=logits)
        trainer = Model(network, eval_network=network, metrics={"outputs": Collect(self.machine.ranks)})
        rows = gather_rows(trainer, self.recipe, images, self.machine)
        size = rows["logits"].shape[1] - (images.num_classes if logits else 0)
        both = rows["logits"].astype(np.float32)
        return Kept(np.ascontiguousarray(both[:, :size]), np.ascontiguousarray(both[:, size:]), rows["labels"])


def _stored(path: Path, weights: str) -> Kept | None:
    """What is in the file, if it is whole and of these weights."""
    try:
        with path.open("rb") as raw, np.load(raw) as file:  # NumPy leaves a damaged file open that it opened itself
            if str(file["weights"]) != weights:
                return None
            return Kept(file["features"], file["logits"], file["labels"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def checkpoint_file(folder: RunFolder, checkpoint: str) -> Path:
    """Its path; a UserError that names those that there are."""
    path = folder.checkpoints / f"{checkpoint.removesuffix('.ckpt')}.ckpt"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in folder.checkpoints.glob("*.ckpt"))) or "none"
        raise UserError(f"--checkpoint {checkpoint}: {path} does not exist; there are: {there}")
    return path


def model_of_run(folder: RunFolder, recipe: Recipe, checkpoint: str) -> tuple[nn.Cell, Data]:
    """(the run's network with the weights of one of its checkpoints, its images)."""
    path = checkpoint_file(folder, checkpoint)
    try:
        parameters, _ = read(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    data = load_data(recipe)
    folder.require_same_split(data.description)
    model = build.build_model(recipe, data)
    fit_weights(model, parameters, path)
    return model, data
