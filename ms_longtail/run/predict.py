"""What a network says of every image of a set."""

from __future__ import annotations

import logging

import numpy as np
from mindspore.train import Model

from .. import runtime
from ..data import ImageSet, evaluation_pipeline
from ..recipe import Recipe
from ..training.predict import predict
from .sources import evaluation_source

log = logging.getLogger(__name__)


def gather_rows(
    trainer: Model, recipe: Recipe, images: ImageSet, machine: runtime.Runtime, *, whole: bool = False
) -> dict[str, np.ndarray]:
    """{"index", "labels", "logits"} of every readable image, in the set's order.

    Args:
        trainer: a Model whose evaluation network returns (a row, label, index) for every image, with the metric "outputs".
        whole: images are resized as they are, without the test-time crop.
    """
    source = evaluation_source(recipe, images, whole=whole)
    dataset = evaluation_pipeline(
        source,
        batch=recipe.batch,
        rank=machine.rank,
        ranks=machine.ranks,
        workers=runtime.workers(recipe.workers),
    )
    try:
        rows = predict(trainer, dataset)
    except RuntimeError as error:
        if source.faults.fatal is not None:
            raise source.faults.fatal from error
        raise
    if source.faults.messages:
        first = next(iter(source.faults.messages.values()))
        log.warning("leaving out %d unreadable images, the first: %s", len(source.faults.messages), first)
    return rows


def model_outputs(
    trainer: Model, recipe: Recipe, images: ImageSet, machine: runtime.Runtime
) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels) of every image, in the set's order."""
    rows = gather_rows(trainer, recipe, images, machine)
    return rows["logits"], rows["labels"]
