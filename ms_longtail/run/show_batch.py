"""What a stage feeds the network in one of its steps, read through the training pipeline itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..data import Beside, Board, Partners
from ..errors import UserError
from ..evaluation.pictures import Tile, batch_figure
from ..mixing import Mixing
from .build import build_mixing, needs_maps
from .plan import StagePlan
from .show import Subject
from .sources import stage_dataset

Rows = dict[str, np.ndarray]


def draw(
    out: Path, subject: Subject, *, stage: str | None = None, epoch: int = 1, step: int = 1, images: int = 16
) -> None:
    """Write the picture of a step of the stage named, or of the first one."""
    plan = subject.plan[0] if stage is None else subject.stage(stage)
    rows = step_rows(subject, plan, epoch, step)
    tiles = batch_tiles(subject, plan, rows, images)
    batch_figure(out, tiles, _title(subject, plan, epoch, step, f"{len(tiles)} of {len(rows['draw'])} images"))


def step_rows(subject: Subject, stage: StagePlan, epoch: int, step: int) -> Rows:
    """The columns of a step, from all its workers and micro-batches, by draw number.

    Args:
        epoch, step: of the stage, both from 1.

    Returns:
        image (B, 3, H, W) uint8, label, index, draw (B,); with mixing labels, shares (B, K) and blend (B,) as well, and, where
        the network blends, the partners' images as `second`; further views as view2, view3, ....

    Raises:
        UserError: no such epoch or step; maps that cannot be there yet.
    """
    for option, value, most in (("epoch", epoch, stage.stage.epochs), ("step", step, stage.steps_per_epoch)):
        if value > most:
            raise UserError(f"--{option} {value}: stage {stage.stage.name} has {most}; give one from 1 to {most}")
    recipe, ranks = subject.recipe, subject.ranks
    board = None
    if stage.follows:
        if (epoch, step) != (1, 1):
            raise UserError(
                f"stage {stage.stage.name} draws by rates that it learns: only its first step is known before"
            )
        board = Board()
        board.put(0, np.zeros(subject.data.splits.train.num_classes, np.float32))
        board.close()  # reading runs ahead, and would wait for steps that never come
    batch, micro = stage.stage.batch, []
    maps = _maps(subject, stage, epoch, step) if needs_maps(stage.stage) else None
    for rank in range(ranks):
        dataset, source, partners = stage_dataset(
            stage, recipe, subject.data, epoch=epoch - 1, skip=(step - 1) * batch, rank=rank, ranks=ranks, maps=maps,
            board=board,
        )  # fmt: skip
        try:
            for rows in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
                micro.append(_resolved(rows, partners))
                if rows["apply"][-1]:  # the last micro-batch of the step
                    break
        except RuntimeError as error:
            if source.faults.fatal is not None:
                raise source.faults.fatal from error
            raise
    whole = {name: np.concatenate([rows[name] for rows in micro]) for name in micro[0]}
    order = np.argsort(whole["draw"], kind="stable")
    return {name: column[order] for name, column in whole.items()}


def _resolved(rows: Rows, partners: Partners | Beside | None) -> Rows:
    """Without the columns that mean something in one micro-batch alone: a partner's place becomes its image."""
    rows = {name: column for name, column in rows.items() if name not in ("apply", "lr", "progress", "noise", "place")}
    partner = rows.pop("partner", None)
    if isinstance(partners, Partners) and partners.mixing.layer is not None:
        there = [rows["image"], rows["second"]] if "second" in rows else [rows["image"]]
        rows["second"] = np.concatenate(there)[partner]
    return rows


def _maps(subject: Subject, stage: StagePlan, epoch: int, step: int) -> np.ndarray:
    weights = subject.start(stage)
    if weights is None:
        why = f"{subject.name}: the images of stage {stage.stage.name} depend on maps by a trained network"
        if subject.folder is None:
            raise UserError(f"{why}; train the recipe, then use --run")
        raise UserError(f"{why}, and the stage has not begun; let the run go on, or choose an earlier --stage")
    train = subject.data.splits.train
    if subject.recipe.data.on_error == "skip" or stage.follows:  # any image may come in the place of an unreadable one
        return subject.maps(weights, np.arange(len(train)), stage)
    first = (step - 1) * stage.stage.batch
    orders = [order for order in (stage.order, stage.second_order) if order is not None]
    places = (
        np.arange(first, first + stage.stage.batch) % stage.epoch_draws
    )  # the last step wraps round on many workers
    wanted = np.concatenate([order(stage.first_epoch + epoch - 1)[places] for order in orders])
    return subject.maps(weights, wanted, stage)


def batch_tiles(subject: Subject, stage: StagePlan, rows: Rows, count: int) -> list[Tile]:
    """The first `count` images of a step as the network sees them, with their labels and shares."""
    names = subject.data.splits.train.class_names
    mixing = build_mixing(stage.stage, subject.data.class_counts, subject.recipe.seed)
    images = seen(rows, mixing)
    tiles = []
    for i in range(min(count, len(rows["draw"]))):
        if mixing is None:
            labels = [rows[key][i] for key in ("label", "second_label") if key in rows]
            lines = [" | ".join(names[label] for label in labels)]
        else:
            lines = _shares(rows["labels"][i], rows["shares"][i], names)
            pixels = float(rows["blend"][i])
            if (mixing.second or mixing.layer is not None) and abs(pixels - float(rows["shares"][i, 0])) > 1e-6:
                lines.append(f"pixels {100 * pixels:.0f} : {100 - 100 * pixels:.0f}")
        lines.append(f"image {rows['index'][i]}, draw {rows['draw'][i]}")
        tiles.append(Tile([image[i] for image in images], lines))
    return tiles


def seen(rows: Rows, mixing: Mixing | None) -> list[np.ndarray]:
    """What the network is given, (B, H, W, 3) uint8: one array, or the two that it blends at one of its layers."""
    image = rows["image"]
    if mixing is not None and mixing.layer is None and mixing.second:  # blended on the device, before anything else
        share = rows["blend"].reshape(-1, 1, 1, 1)
        mixed = share * image.astype(np.float32) + (1 - share) * rows["second"].astype(np.float32)
        image = mixed.round().clip(0, 255).astype(np.uint8)
    beside = "second" in rows and (mixing is None or mixing.layer is not None)
    both = [image, rows["second"]] if beside else [image]
    both += [rows[name] for name in rows if name.startswith("view")]
    return [part.transpose(0, 2, 3, 1) for part in both]


def _shares(labels: np.ndarray, shares: np.ndarray, names: tuple[str, ...]) -> list[str]:
    """'cat: 60 %' for every class that has a share, in the order of the images; a class that comes twice counts once."""
    total: dict[int, float] = {}
    for label, share in zip(labels.tolist(), shares.tolist(), strict=True):
        total[label] = total.get(label, 0.0) + share
    return [f"{names[label]}: {100 * share:.0f} %" for label, share in total.items() if share > 0]


def _title(subject: Subject, stage: StagePlan, epoch: int, step: int, shown: str) -> str:
    lists = [[op.name for op in view] for view in (stage.stage.augment, *stage.stage.views)]
    lists[0].append(stage.stage.mixing.name)
    texts = [", ".join(name for name in ops if name != "none") or "images as they are" for ops in lists]
    done = texts[0] if len(texts) == 1 else "; ".join(f"view {n}: {text}" for n, text in enumerate(texts, 1))
    where = f"epoch {epoch} of {stage.stage.epochs}, step {step} of {stage.steps_per_epoch}"
    return f"{subject.name}, stage {stage.stage.name}, {where}: {shown} ({done})"
