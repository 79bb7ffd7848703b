"""What CAM augmentation does to some images of rare classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..augment import Cam
from ..augment.cam import enlarge
from ..augment.moves import MOVES
from ..errors import UserError
from ..evaluation.pictures import CamRow, cam_figure
from ..registry import AUGMENT, nearest
from .build import needs_maps
from .plan import StagePlan
from .show import Subject

RAREST = 4  # classes shown beside the largest one
MOST_ROWS = 60


def draw(out: Path, subject: Subject, **wanted) -> None:
    """Write the picture; settings as of `cam_rows`."""
    cam_figure(out, *cam_rows(subject, **wanted))


def cam_rows(
    subject: Subject, *, stage: str | None = None, classes: list[str] | None = None, images: int = 2, seed: int = 0
) -> tuple[list[CamRow], str]:
    """(a row per image, a title).

    Args:
        stage: name of the stage; None for the first one that uses cam, or what cam would do after the last checkpoint.
        classes: see `choose_classes`.
        images: of every class; a class that has fewer shows all of them.
        seed: of the choice of images, and of how far they are moved.

    Raises:
        UserError: a stage without cam, an unknown class, weights that are not there yet, more rows than a picture can hold.
    """
    plan = cam_stage(subject, stage)
    train = subject.data.splits.train
    chosen = choose_classes(classes, train.class_names, train.class_counts)
    index = np.concatenate([_images_of(train.labels, c, images, seed) for c in chosen])
    if len(index) > MOST_ROWS:
        raise UserError(
            f"{len(index)} images are too many for one picture (at most {MOST_ROWS}); use fewer --classes or --images"
        )
    weights = None if plan is None else subject.start(plan)
    if weights is None:
        if subject.folder is None:
            raise UserError(
                f"{subject.name}: a recipe alone has no trained network to map images with; train it, then use --run"
            )
        weights = subject.last()
    maps = subject.maps(weights, index, plan)
    settings = {} if plan is None else dict(_cam(plan).settings)
    transforms, always = settings.pop("transforms", MOVES), settings.pop("always", False)
    shared = {"class_counts": train.class_counts, "maps": maps, "seed": seed} | settings
    probability = Cam(**shared, always=always).probability
    moves = {name: Cam(**shared, transforms=[name], always=True) for name in transforms}
    one = next(iter(moves.values()))
    rows = []
    for i in index:
        image, place = train.read(int(i)), np.array([i])
        label = train.labels[place]
        height, width = image.shape[:2]
        (mask,), (box,) = one.foreground(place, height, width)
        heat = enlarge(np.asarray(maps[place]), height, width)[0]
        # A draw number of its own for every move, or they would all be as large as one another.
        draws = np.array([[len(moves) * i + number] for number in range(len(moves))])
        moved = {
            name: move(image[None], label, place, draw)[0]
            for draw, (name, move) in zip(draws, moves.items(), strict=True)
        }
        c = int(label[0])
        row = (train.class_names[c], int(train.class_counts[c]), float(probability[c]), int(i))
        rows.append(CamRow(*row, image, heat, mask, box, moved))
    return rows, _title(subject, plan, weights, one)


def cam_stage(subject: Subject, name: str | None) -> StagePlan | None:
    """The stage named, or the first one with cam, or None where no stage has it."""
    using = [plan for plan in subject.plan if needs_maps(plan.stage)]
    if name is None:
        return using[0] if using else None
    plan = subject.stage(name)
    if plan not in using:
        names = ", ".join(other.stage.name for other in using)
        hint = f"stages that do: {names}" if using else "no stage does; without --stage you see what cam would do"
        raise UserError(f"--stage {name}: this stage does not use cam; {hint}")
    return plan


def choose_classes(wanted: list[str] | None, names: tuple[str, ...], counts: np.ndarray) -> list[int]:
    """Classes to show, the rarest first.

    None stands for the four rarest and the largest, one whole number N for the N rarest and the largest; else the words are
    names, or names with commas between them ("3," is the class named 3).
    """
    order = np.argsort(counts, kind="stable").tolist()
    number = str(RAREST) if wanted is None else wanted[0] if len(wanted) == 1 else ""
    if number.isdecimal() and str(int(number)) == number:
        if number == "0":
            raise UserError("--classes 0: shows nothing; give a number from 1, or names of classes")
        rarest = order[: int(number)]
        return rarest if order[-1] in rarest else [*rarest, order[-1]]
    words = [part for word in wanted for part in ([word] if word in names else word.split(",")) if part]
    unknown = next((word for word in words if word not in names), None)
    if unknown is not None or not words:
        some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
        raise UserError(
            f"--classes {unknown}: no such class{nearest(unknown, list(names))}; there are {len(names)}: {some}"
        )
    return sorted({names.index(word) for word in words}, key=order.index)


def _images_of(labels: np.ndarray, c: int, count: int, seed: int) -> np.ndarray:
    own = np.flatnonzero(labels == c)
    return np.sort(np.random.default_rng((seed, c)).permutation(own)[:count])


def _cam(plan: StagePlan):
    return next(op for _, op in plan.stage.operations if getattr(AUGMENT.get(op.name), "needs_maps", False))


def _title(subject: Subject, plan: StagePlan | None, weights: Path, cam: Cam) -> str:
    what = "cam with its defaults, which no stage uses" if plan is None else f"cam of stage {plan.stage.name}"
    late = " (the stage has not begun)" if plan is not None and subject.start(plan) is None else ""
    rule = f"foreground above {cam.ratio:g} x the map's mean, fill: {cam.fill}"
    return f"{subject.name}, {what}: maps by {weights.name}{late}, {rule}"
