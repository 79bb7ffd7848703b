"""Where the pipelines of a run get their images from."""

from __future__ import annotations

import numpy as np

from ..augment import CentreCrop, Whole
from ..data import DrawSource, ImageSet, Partners
from ..recipe import Recipe
from .build import build_augment, build_mixing, has_size, second_seed
from .plan import StagePlan


def training_source(
    stage: StagePlan, recipe: Recipe, train: ImageSet, epoch: int, *, ranks: int, maps: np.ndarray | None = None
) -> tuple[DrawSource, list]:
    """(the images of a stage from its epoch `epoch` on, operations on their batches)."""
    return _source(stage, recipe, train, epoch, stage.order, recipe.seed, ranks, maps)


def build_partners(
    stage: StagePlan,
    recipe: Recipe,
    train: ImageSet,
    epoch: int,
    source: DrawSource,
    *,
    ranks: int,
    maps: np.ndarray | None = None,
) -> tuple[Partners | None, list]:
    """(what the images of `source` are mixed with, operations on the batches of a second source)."""
    mixing = build_mixing(stage.stage, train.class_counts, recipe.seed)
    if mixing is None:
        return None, []
    second, ops = None, []
    if stage.second_order is not None:
        second, ops = _source(stage, recipe, train, epoch, stage.second_order, second_seed(recipe.seed), ranks, maps)
    return Partners(mixing, source, recipe.batch, second), ops


def _source(stage, recipe, train, epoch, order, seed, ranks, maps) -> tuple[DrawSource, list]:
    ops = build_augment(stage.stage, recipe, train, seed=seed, maps=maps)
    source = DrawSource(
        train,
        order,
        stage.epoch_draws,
        multiple=ranks,
        first_draw=stage.first_draw + epoch * stage.epoch_draws,
        first_epoch=stage.first_epoch + epoch,
        seed=seed,
        whole_ops=ops["whole"],
        image_ops=ops["image"],
        on_error=recipe.data.on_error,
        max_error_share=recipe.data.max_error_share,
    )
    return source, ops["batch"]


def evaluation_source(recipe: Recipe, images: ImageSet, *, whole: bool = False) -> DrawSource:
    """Every image once, at test-time size (or resized whole, nothing cut off), padded by repetition to whole batches."""
    size = recipe.data.size
    ops = []
    if whole and not has_size(images, size):
        ops = [Whole(size=size)]
    elif not has_size(images, size):
        # The usual test-time view: 256 pixels for crops of 224; small images are not cut at all.
        resize = recipe.data.resize or (size if size <= 64 else round(size * 8 / 7))
        ops = [CentreCrop(size=size, resize=resize)]
    everything = np.arange(len(images))
    return DrawSource(
        images,
        lambda _: everything,
        len(images),
        multiple=recipe.batch,
        image_ops=ops,
        # "skip" reads another image of the class instead; its second appearance is dropped, so the bad one is left out.
        on_error=recipe.data.on_error,
        max_error_share=recipe.data.max_error_share,
    )
