"""Where the pipelines of a run get their images from."""

from __future__ import annotations

import numpy as np
from mindspore.dataset import Dataset

from .. import runtime
from ..augment import CentreCrop, Whole
from ..data import Beside, Board, DrawSource, ImageSet, Partners, RateSource, training_pipeline
from ..recipe import Recipe
from .build import build_mixing, build_views, has_size, second_seed
from .dataset import Data
from .plan import StagePlan


def stage_dataset(
    stage: StagePlan,
    recipe: Recipe,
    data: Data,
    *,
    epoch: int = 0,
    skip: int = 0,
    rank: int = 0,
    ranks: int = 1,
    maps: np.ndarray | None = None,
    messages: dict[int, str] | None = None,
    board: Board | None = None,
) -> tuple[Dataset, DrawSource, Partners | Beside | None]:
    """What a stage feeds its network, from its epoch `epoch` on, or, with `skip`, what is left of that epoch.

    Args:
        data: the images.
        skip: images of the epoch, over all workers, that are done.
        rank, ranks: this worker's place.
        maps: class activation maps, where an augmentation asks for them.
        messages: where unreadable images are noted.
        board: where the rates are put up that the draws of the stage follow, if they do.

    Returns:
        (data set with all columns, the source of its images, what they are mixed with or read beside).
    """
    train, place = data.splits.train, (stage, recipe, epoch, ranks, maps)
    source, batch_ops = _source(stage.order, recipe.seed, train, *place, board=board)
    if messages is not None:
        source.faults.messages = messages
    mixing, partners, second_ops = build_mixing(stage.stage, train.class_counts, recipe.seed), None, []
    if mixing is not None:
        second = None
        if stage.second_order is not None:
            second, second_ops = _source(stage.second_order, second_seed(recipe.seed), train, *place)
            second.faults = source.faults
        partners = Partners(mixing, source, stage.stage.batch, second)
    elif stage.second_order is not None:
        images = data.splits.parts()[stage.second_part]
        second, second_ops = _source(stage.second_order, second_seed(recipe.seed), images, *place, views=False)
        if images is train:
            second.faults = source.faults
        partners = Beside(second)
    first_step = epoch * stage.steps_per_epoch
    done = np.arange(stage.stage.epochs, dtype=np.float32) / stage.stage.epochs
    dataset = training_pipeline(
        source,
        batch=stage.stage.batch,
        batch_ops=batch_ops,
        partners=partners,
        second_ops=second_ops,
        by_step={
            "progress": lambda step: done[[epoch + step // stage.steps_per_epoch]],
            "lr": lambda step: stage.lr[[first_step + step]],
        },
        by_draw={"noise": source.noise} if stage.follows else {},
        skip=skip,
        rank=rank,
        ranks=ranks,
        accumulate=recipe.accumulate,
        workers=runtime.workers(recipe.workers),
    )
    return dataset, source, partners


def _source(
    order,
    seed: int,
    images: ImageSet,
    stage: StagePlan,
    recipe: Recipe,
    epoch: int,
    ranks: int,
    maps,
    *,
    board=None,
    views=True,
) -> tuple[DrawSource, list]:
    """(images in an order, or drawn by the rates on the board, in all views or the first; operations on their batches)."""
    first, *others = build_views(stage.stage, recipe, images, seed=seed, maps=maps)
    kind, follows = DrawSource, {}
    if board is not None:
        kind, follows = RateSource, {"board": board, "batch": stage.stage.batch, "stage_draw": stage.first_draw}
    source = kind(
        images,
        order,
        stage.epoch_draws,
        multiple=ranks,
        first_draw=stage.first_draw + epoch * stage.epoch_draws,
        first_epoch=stage.first_epoch + epoch,
        seed=seed,
        whole_ops=first.whole,
        image_ops=first.image,
        views=others if views else (),
        on_error=recipe.data.on_error,
        max_error_share=recipe.data.max_error_share,
        **follows,
    )
    return source, list(first.batch)


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
