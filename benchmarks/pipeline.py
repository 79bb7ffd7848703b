"""The input pipeline alone: small images in memory, photographs at 224 px from a folder, decoding alone.

python benchmarks/pipeline.py [--photos FOLDER]      a folder of class folders; default $MSLT_DATA/caltech101
"""

from __future__ import annotations

import os
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from common import arguments, report

from ms_longtail import runtime
from ms_longtail.augment import Crop, Flip, RandAugment, RandomResizedCrop
from ms_longtail.data import DrawSource, ImageSet, training_pipeline
from ms_longtail.data.image_folder import image_folder
from ms_longtail.samplers import instance


def throughput(images: ImageSet, count: int, batch: int, image_ops, batch_ops, workers: int) -> float:
    """Images a second over `count` draws, from the first batch on (starting the threads is not counted)."""
    order = partial(instance, images.labels, seed=0, num_samples=count)
    source = DrawSource(images, lambda e: order(epoch=e), count, image_ops=image_ops)
    dataset = training_pipeline(source, batch=batch, batch_ops=batch_ops, workers=workers)
    iterator = dataset.project(["image", "label"]).create_tuple_iterator(
        num_epochs=1, do_copy=False
    )  # as Model.train does
    seen, began = 0, None
    for image, _ in iterator:
        if began is None:
            began = time.perf_counter()
        else:
            seen += len(image)
    return seen / (time.perf_counter() - began)


def small(workers: int) -> float:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12800, 32, 32, 3)).astype(np.uint8)
    data = ImageSet(rng.integers(0, 10, 12800).astype(np.int32), tuple("0123456789"), images=images)
    return throughput(data, 25600, 128, [], [Crop(), Flip()], workers)


def decode_alone(files: list[str], workers: int) -> float:
    """cv2.imdecode on bytes that are in memory, on the same number of threads."""
    data = [np.frombuffer(Path(f).read_bytes(), np.uint8) for f in files]
    began = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda d: cv2.imdecode(d, cv2.IMREAD_COLOR).shape, data):
            pass
    return len(data) / (time.perf_counter() - began)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/pipeline.json")
    parser.add_argument("--photos", default=os.path.join(os.environ.get("MSLT_DATA", "data"), "caltech101"))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    runtime.single_threaded_opencv()
    workers = min(2, os.cpu_count() or 1)
    rows = []
    speeds = [small(workers) for _ in range(options.rounds)]
    rows.append(row("32x32 in memory: crop, flip, batch 128", speeds))
    if Path(options.photos).is_dir():
        photos = image_folder(root=options.photos).train
        order = instance(photos.labels, seed=0, epoch=0)
        files = [photos.files[i] for i in order]
        decoded, piped = [], []
        for _ in range(options.rounds):
            decoded.append(decode_alone(files, workers))
            piped.append(throughput(photos, len(photos), 32, [RandomResizedCrop(size=224)], [Flip()], workers))
        rows.append(row(f"{len(photos)} photographs: cv2.imdecode alone, {workers} threads", decoded))
        share = statistics.median(p / d for p, d in zip(piped, decoded, strict=True))
        rows.append(
            row(
                "the same to 224 px: read, decode, random resized crop, flip, batch 32",
                piped,
                f"{share:.2f} of decoding alone",
            )
        )
        strong: dict[int, list[float]] = {1: [], workers: []}
        per_core: dict[int, list[float]] = {1: [], workers: []}
        for _ in range(options.rounds):
            for count in strong:
                crop, policy = RandomResizedCrop(size=224), [Flip(), RandAugment()]
                began = time.process_time()
                strong[count].append(throughput(photos, len(photos), 32, [crop], policy, count))
                per_core[count].append(len(photos) / (time.process_time() - began))
        growth = statistics.median(b / a for a, b in zip(strong[1], strong[workers], strict=True))
        for count, speeds in strong.items():
            note = f"{statistics.median(per_core[count]):,.0f} for each second of a core"
            note += "" if count == 1 else f", {growth:.2f} of one thread"
            rows.append(row(f"the same with RandAugment, {count} reading thread(s)", speeds, note))
    else:
        print(f"no photographs: {options.photos} is not a folder")
    report(f"input pipeline, {workers} threads", rows, options.json)


def row(name: str, speeds: list[float], note: str = "") -> dict:
    each = " ".join(f"{s:,.0f}" for s in speeds)
    return {"pipeline": name, "images/s (median)": f"{statistics.median(speeds):,.0f}", "each round": each, "": note}


if __name__ == "__main__":
    main()
