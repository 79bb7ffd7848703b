"""Augmentation of whole batches: images a second of each operation and of whole lists, on one thread; three views a data set.

python benchmarks/augment.py [--rounds 7]

Batches of 128 at 32 pixels and of 32 at 224. The median of rounds of about a tenth of a second is reported; `elementary` are
the operations that the policies choose from, called image by image.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
from common import arguments, report

from ms_longtail.augment import (
    AutoAugment,
    ColorJitter,
    Crop,
    Cutout,
    Flip,
    GaussianBlur,
    Grayscale,
    RandAugment,
    RandomResizedCrop,
    SimAugment,
)
from ms_longtail.augment.operations import BICUBIC, GEOMETRY, LEVELS
from ms_longtail.data import DrawSource, ImageSet, View, training_pipeline

BATCHES = {32: 128, 224: 32}
AMOUNTS = {
    "solarize": 100, "solarize_add": 60, "posterize": 5, "contrast": 1.4, "color": 1.4, "brightness": 1.4, "sharpness": 1.4,
    "shear_x": 0.2, "shear_y": 0.2, "translate_x": 9, "translate_y": 9, "rotate": 20,
}  # fmt: skip
GREY = (128, 128, 128)


def photographs(count: int, side: int) -> np.ndarray:
    """Smooth random images with some noise, (count, side, side, 3)."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    smooth = np.stack([cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in coarse])
    return np.clip(smooth.astype(int) + rng.integers(-8, 9, smooth.shape), 0, 255).astype(np.uint8)


def rate(work: Callable[[np.ndarray, np.ndarray], object], images: np.ndarray, rounds: int) -> dict:
    """Images a second: median, least and most over the rounds; every call has draws of its own and a fresh copy of the images."""
    rates, first = [], 0
    for number in range(rounds + 1):
        count, spent = 0, 0.0
        while spent < 0.1:
            copy, draws = images.copy(), np.arange(first, first + len(images))
            began = time.perf_counter()
            work(copy, draws)
            spent += time.perf_counter() - began
            count, first = count + len(images), first + len(images)
        if number:  # the first one fills caches
            rates.append(count / spent)
    return {"images/s": round(statistics.median(rates)), "least": round(min(rates)), "most": round(max(rates))}


def whole(ops: list) -> Callable:
    """The operations one after another on a batch, as the pipeline does; one of level "image" comes first."""

    def work(images, draws):
        for op in ops:
            if op.level == "image":
                images = np.stack([op(image, row) for image, row in zip(images, op.random(draws), strict=True)])
            else:
                images = op(images, draws)
        return images

    return work


def elementary(name: str) -> Callable:
    def work(images, draws):
        for image in images:
            if name in GEOMETRY:
                GEOMETRY[name](image, AMOUNTS[name], GREY)
            else:
                LEVELS[name](image, AMOUNTS.get(name, 0))

    return work


def bicubic(images: np.ndarray, draws: np.ndarray) -> None:
    for image in images:
        GEOMETRY["rotate"](image, 20, GREY, BICUBIC)


def lists(side: int) -> dict[str, list]:
    window = RandomResizedCrop(size=side, scale_min=0.2)
    return {
        "crop": [Crop()],
        "flip": [Flip()],
        "random_resized_crop": [RandomResizedCrop(size=side)],
        "cutout": [Cutout()],
        "color_jitter .4 .4 .4 0": [ColorJitter()],
        "color_jitter .4 .4 .4 .1": [ColorJitter(hue=0.1)],
        "grayscale": [Grayscale()],
        "gaussian_blur": [GaussianBlur()],
        "sim_augment": [SimAugment(blur=0.0 if side == 32 else 0.5)],
        "auto_augment cifar10": [AutoAugment()],
        "auto_augment imagenet": [AutoAugment(policy="imagenet")],
        "rand_augment": [RandAugment()],
        "list: crop, flip": [Crop(), Flip()],
        "list: crop, flip, auto_augment, cutout": [Crop(), Flip(), AutoAugment(), Cutout()],
        "list: random_resized_crop, flip, sim_augment": [window, Flip(), SimAugment(blur=0.0 if side == 32 else 0.5)],
        "list: random_resized_crop, flip, color_jitter, rand_augment": [
            RandomResizedCrop(size=side), Flip(), ColorJitter(), RandAugment(),
        ],
    }  # fmt: skip


def pipeline(workers: int, count: int = 6400) -> float:
    """Images a second through the data set in BCL's three views of 32 pixels, from the second batch on."""
    rng = np.random.default_rng(0)
    images = ImageSet(rng.integers(0, 10, count).astype(np.int32), tuple("0123456789"), images=photographs(count, 32))

    def sim(seed: int) -> View:
        window = RandomResizedCrop(size=32, scale_min=0.2, seed=seed)
        return View(image=(window,), batch=(Flip(seed=seed), SimAugment(blur=0.0, seed=seed)))

    source = DrawSource(images, lambda epoch: np.arange(count), count, views=[sim(1), sim(2)])
    ops = [Crop(), Flip(), AutoAugment(), Cutout()]
    dataset = training_pipeline(source, batch=256, batch_ops=ops, workers=workers)
    seen, began = 0, None
    for image, *_ in dataset.project(["image", "view2", "view3"]).create_tuple_iterator(num_epochs=1, do_copy=False):
        began, seen = (time.perf_counter(), 0) if began is None else (began, seen + len(image))
    return seen / (time.perf_counter() - began)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/augment.json")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for side, count in BATCHES.items():
        images = photographs(count, side)
        for name, ops in lists(side).items():
            rows.append({"what": f"{name}, {side} px", **rate(whole(ops), images, options.rounds)})
        for name in (*LEVELS, *GEOMETRY):
            rows.append({"what": f"elementary: {name}, {side} px", **rate(elementary(name), images, options.rounds)})
        rows.append({"what": f"elementary: rotate, bicubic, {side} px", **rate(bicubic, images, options.rounds)})
    rates = [pipeline(2) for _ in range(3)]
    row = {"images/s": round(statistics.median(rates)), "least": round(min(rates)), "most": round(max(rates))}
    rows.append({"what": "pipeline: three views of BCL, 32 px", **row})
    report("Augmentation; on one thread but for the pipeline", rows, options.json)


if __name__ == "__main__":
    main()
