"""Every sampler on a set of iNaturalist's size: 437,513 images in 8,142 classes of 1,000 down to 2.

python benchmarks/samplers.py [--repeats 7]
"""

from __future__ import annotations

import statistics
import time
import tracemalloc

import numpy as np
from common import arguments, report

from ms_longtail import samplers  # noqa: F401  (fills the registry)
from ms_longtail.registry import SAMPLERS

IMAGES, CLASSES = 437_513, 8_142


def labels() -> np.ndarray:
    """Labels in random order, exactly IMAGES of them, the class sizes falling geometrically from 1,000 to 2 and evened out."""
    counts = np.maximum(2, (1000 * (1 / 500) ** (np.arange(CLASSES) / (CLASSES - 1))).astype(int)).astype(float)
    counts = np.maximum(2, np.floor(counts * (IMAGES / counts.sum()))).astype(int)
    while counts.sum() != IMAGES:
        step = 1 if counts.sum() < IMAGES else -1
        room = np.flatnonzero((counts + step >= 2) & (counts + step <= 1000))[: abs(IMAGES - counts.sum())]
        counts[room] += step
    return np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), counts)).astype(np.int32)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/samplers.json")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    data, rows = labels(), []
    for name in SAMPLERS:
        more = {"epochs": 10} if name == "progressive" else {}
        seconds = []
        for epoch in range(options.repeats):
            began = time.perf_counter()
            order = SAMPLERS.get(name)(data, seed=0, epoch=epoch, **more)
            seconds.append(time.perf_counter() - began)
        tracemalloc.start()
        SAMPLERS.get(name)(data, seed=0, epoch=0, **more)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        ms = 1000 * statistics.median(seconds)
        rows.append(
            {
                "sampler": name,
                "draws": len(order),
                "ms": round(ms, 1),
                "ms per 437,513 draws": round(ms * IMAGES / len(order), 1),
                "peak bytes per image and draw": round(peak / (IMAGES + len(order)), 1),
            }
        )
    report("orders of an epoch", rows, options.json)


if __name__ == "__main__":
    main()
