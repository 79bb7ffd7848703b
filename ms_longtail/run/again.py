"""A run's numbers computed again from its checkpoint."""

from __future__ import annotations

import json
from typing import Any

from mindspore.train import Model

from .. import runtime
from ..errors import UserError
from ..evaluation import evaluate
from ..recipe import Recipe
from ..training.predict import Collect, Predict
from .dataset import Data
from .features import model_of_run
from .folder import RunFolder
from .predict import model_outputs


def evaluate_run(
    folder: RunFolder, recipe: Recipe, machine: runtime.Runtime, *, checkpoint: str = "last", part: str = "test"
) -> tuple[dict[str, Any], Data]:
    """(scores, data) of one checkpoint on one part of the data. Needs nothing of the run but recipe and checkpoint."""
    model, data = model_of_run(folder, recipe, checkpoint)
    images = data.splits.parts().get(part)
    if images is None:
        raise UserError(f"--part {part}: this run has no validation part (data.validation.share is 0)")
    predictor = Predict(model)
    trainer = Model(predictor, eval_network=predictor, metrics={"outputs": Collect(machine.ranks)})
    return evaluate(*model_outputs(trainer, recipe, images, machine), data.class_counts), data


def compare(folder: RunFolder, checkpoint: str, scores: dict[str, Any]) -> str:
    """One line: whether the numbers are those of result.json."""
    if checkpoint not in ("last", "best") or not folder.finished:
        return "not compared: result.json holds the numbers of finished runs' last and best weights"
    recorded = json.loads(folder.result.read_text()).get(checkpoint)
    if recorded is None:
        return f"not compared: result.json has no {checkpoint!r}"
    differing = [key for key in scores if recorded.get(key) != scores[key]]
    if not differing:
        return "identical to result.json"
    parts = [f"{key} {recorded.get(key)} -> {scores[key]}" for key in differing if key != "per_class"]
    return f"differs from result.json in {', '.join(parts) or 'per_class'}"
