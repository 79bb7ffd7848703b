"""CAM augmentation: the map store over a plain forward pass, the move by itself, and the pipeline with it.

python benchmarks/cam.py [--images 12406] [--rounds 3]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from common import arguments, report
from mindspore.train import Model

from ms_longtail import recipe, runtime
from ms_longtail.augment import Cam, Crop, Flip
from ms_longtail.data import DrawSource, ImageSet, training_pipeline
from ms_longtail.data.subset import profile_counts
from ms_longtail.registry import MODELS
from ms_longtail.run.maps import stage_maps
from ms_longtail.run.predict import gather_rows
from ms_longtail.samplers import class_balanced
from ms_longtail.training.predict import Collect, Predict

RECIPE = {"model": "resnet32_cifar", "name": "cam", "stages": [{"name": "a", "epochs": 1}], "batch": 128}


def image_set(count: int) -> ImageSet:
    """Smooth random images, as many a class as CIFAR-10-LT has at IF 100, scaled to `count`."""
    rng = np.random.default_rng(0)
    counts = profile_counts("exp", 10, 5000, 100)
    labels = rng.permutation(np.repeat(np.arange(10), np.maximum(1, counts * count // counts.sum()))).astype(np.int32)
    images = rng.integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    images = np.stack([cv2.resize(image, (32, 32), interpolation=cv2.INTER_CUBIC) for image in images])
    return ImageSet(labels, tuple("abcdefghij"), images=images)


def store(images: ImageSet, rounds: int) -> list[dict]:
    """Seconds of making a map store, and of a plain forward pass over the same images, in turns; each compiles its network."""
    machine, plain = runtime.start("cpu"), recipe.from_map(RECIPE)
    model = MODELS.get("resnet32_cifar")(num_classes=10)
    seconds = {"store": [], "forward": []}
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            stage_maps(Path(folder) / f"{number}.npy", model, plain, images, machine)
            seconds["store"].append(time.perf_counter() - began)
        network = Predict(model)
        network.set_train(False)
        trainer = Model(network, eval_network=network, metrics={"outputs": Collect(1)})
        began = time.perf_counter()
        gather_rows(trainer, plain, images, machine)
        seconds["forward"].append(time.perf_counter() - began)
    ratio = statistics.median(m / f for m, f in zip(seconds["store"], seconds["forward"], strict=True))
    return [
        {
            "what": f"map store of {len(images)} images, ResNet-32, s",
            "median": round(statistics.median(seconds["store"]), 2),
        },
        {"what": "plain forward pass over them, s", "median": round(statistics.median(seconds["forward"]), 2)},
        {"what": "store over forward pass", "median": round(ratio, 3)},
    ]


def moves(rounds: int) -> list[dict]:
    """Images a second of the move called directly, in batches of one size and one image at a time; every image is moved."""
    rng, rows = np.random.default_rng(0), []
    for size, side, batch in ((32, 8, 128), (224, 7, 16)):
        maps = rng.integers(0, 256, (1000, side, side)).astype(np.uint8)
        maps = np.stack([cv2.GaussianBlur(one, (5, 5), 1.5) for one in maps])
        cam = Cam(class_counts=[10, 20], maps=maps, always=True)
        images = rng.integers(0, 256, (batch, size, size, 3)).astype(np.uint8)
        labels = np.zeros(batch, np.int32)
        for kind, step in (("in batches", batch), ("one by one", 1)):
            rates = []
            for number in range(10 * rounds):
                index, draws = rng.integers(0, 1000, batch), np.arange(batch) + number * batch
                began = time.perf_counter()
                for at in range(0, batch, step):
                    part = slice(at, at + step)
                    cam(images[part], labels[part], index[part], draws[part])
                rates.append(batch / (time.perf_counter() - began))
            rows.append({"what": f"move at {size} px, {kind}, images/s", "median": round(statistics.median(rates))})
    return rows


def pipeline(images: ImageSet, rounds: int) -> list[dict]:
    """Images a second through the dataset: class-balanced order, CAM, crop, flip, batches of 128."""
    maps = np.random.default_rng(0).integers(0, 256, (len(images), 8, 8)).astype(np.uint8)
    order = partial(class_balanced, images.labels, seed=0)
    cams = {
        "without CAM": [],
        "with CAM as the paper adds it": [Cam(class_counts=images.class_counts, maps=maps)],
        "with CAM on every image": [Cam(class_counts=images.class_counts, maps=maps, always=True)],
    }
    rates = {name: [] for name in cams}
    for _ in range(rounds):
        for name, ops in cams.items():
            source = DrawSource(images, lambda e: order(epoch=e), len(images), whole_ops=ops)
            dataset = training_pipeline(source, batch=128, batch_ops=[Crop(), Flip()], workers=2)
            rows = dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)
            next(rows)
            began, count = time.perf_counter(), 0
            for row in rows:
                count += len(row[0])
            rates[name].append(count / (time.perf_counter() - began))
    return [
        {"what": f"pipeline at 32 px {n}, images/s", "median": round(statistics.median(r))} for n, r in rates.items()
    ]


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/cam.json")
    parser.add_argument("--images", type=int, default=12_406)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    images = image_set(options.images)
    rows = moves(options.rounds) + pipeline(images, options.rounds) + store(images, options.rounds)
    report("CAM augmentation", rows, options.json)


if __name__ == "__main__":
    main()
