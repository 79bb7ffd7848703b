"""The class activation maps of a stage: made once from the weights it starts with, kept in the run folder."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
from mindspore import nn
from mindspore.train import Model

from .. import runtime
from ..collectives import broadcast_array, broadcast_parameters
from ..data import ImageSet
from ..models.activation_map import ActivationMaps
from ..recipe import Recipe
from ..training.predict import Collect
from .folder import write_text
from .predict import gather_rows


def weights_hash(model: nn.Cell) -> str:
    """SHA-256 of all parameters by name."""
    digest = hashlib.sha256()
    for parameter in sorted(model.get_parameters(), key=lambda p: p.name):
        digest.update(parameter.name.encode())
        digest.update(np.ascontiguousarray(parameter.asnumpy()).tobytes())
    return digest.hexdigest()


def stored_maps(path: Path, weights: str, images: int) -> np.ndarray | None:
    """The maps in `path`, read as they are needed, or None where they are not those of these weights, or not whole."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        maps = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        return None
    good = note.get("weights") == weights and note.get("shape") == [*maps.shape] and maps.dtype == np.uint8
    good = good and maps.ndim == 3 and len(maps) == images
    return maps if good else None


def store_maps(path: Path, weights: str, maps: np.ndarray) -> np.ndarray:
    """Write the maps, then the note that makes them valid; returns them as a memory-mapped file."""
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        np.save(file, maps)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    write_text(path.with_suffix(".json"), json.dumps({"weights": weights, "shape": maps.shape}) + "\n")
    return np.load(path, mmap_mode="r")


def compute_maps(model: nn.Cell, recipe: Recipe, images: ImageSet, machine: runtime.Runtime) -> np.ndarray:
    """uint8 (N, h, w): one pass over the images, each resized whole; every worker maps its share and gets all of them.

    An image that cannot be read has a map of zeros, so nothing is moved in it.
    """
    network = ActivationMaps(model)
    network.set_train(False)
    trainer = Model(network, eval_network=network, metrics={"outputs": Collect(machine.ranks)})
    rows = gather_rows(trainer, recipe, images, machine, whole=True)
    side = math.isqrt(rows["logits"].shape[1])  # images are square, so maps are
    maps = np.zeros((len(images), side, side), np.uint8)
    maps[rows["index"]] = rows["logits"].reshape(-1, side, side).astype(np.uint8)
    return maps


def stage_maps(
    path: Path, model: nn.Cell, recipe: Recipe, images: ImageSet, machine: runtime.Runtime
) -> tuple[np.ndarray, str]:
    """(maps by the model's present weights, what was done, "" for nothing): those in `path`, or new ones, kept there.

    Only the main worker looks at the file; the others get what it holds, or map their share.
    """
    broadcast_parameters(model)  # running statistics are each worker's own: take rank 0's
    weights = weights_hash(model)
    stored = broadcast_array(stored_maps(path, weights, len(images)) if machine.main else None)
    if stored is not None:
        return stored, ""
    began = time.monotonic()
    maps = compute_maps(model, recipe, images, machine)
    done = f"{len(images)} maps in {time.monotonic() - began:.1f} s"
    return (store_maps(path, weights, maps) if machine.main else maps), done
