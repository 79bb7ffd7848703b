"""Hashing of images, and the search for near-duplicates in a set of iNaturalist's size: 437,513 images of 8,142 classes.

python benchmarks/inspect_data.py [--bits 2 4 6 8] [--repeats 3]
"""

from __future__ import annotations

import os
import resource
import statistics
import time

import cv2
import numpy as np
from common import arguments, report

from ms_longtail.data.decode import decode_image
from ms_longtail.evaluation import duplicates
from ms_longtail.evaluation.perceptual_hash import DETAILS, look

IMAGES, CLASSES = 437_513, 8_142


def collection(seed: int = 0) -> duplicates.Pictures:
    """Nine tenths different hashes; a tenth near one of them, in clusters of up to 200; 20,000 images of a single hash."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, IMAGES, dtype=np.uint64)
    details = rng.standard_normal((IMAGES, DETAILS), np.float32)
    details /= np.linalg.norm(details, axis=1, keepdims=True)
    near = rng.choice(IMAGES, IMAGES // 10, replace=False)
    centre = near[(np.minimum(rng.pareto(1.0, len(near)), 1e6) * 40).astype(int) % (len(near) // 4)]
    codes[near], details[near] = codes[centre], details[centre]
    for _ in range(5):  # up to five bits each
        flip = rng.random(len(near)) < 0.5
        codes[near] ^= np.where(flip, np.uint64(1) << rng.integers(0, 64, len(near)).astype(np.uint64), np.uint64(0))
    same = rng.choice(IMAGES, 20_000, replace=False)
    codes[same], details[same] = codes[same[0]], details[same[0]]
    return duplicates.Pictures(
        part=(rng.random(IMAGES) < 0.05).astype(np.int64),
        label=rng.integers(0, CLASSES, IMAGES),
        digest=rng.integers(0, 2**64, (IMAGES, 2), dtype=np.uint64),
        code=codes,
        flat=np.zeros(IMAGES, bool),
        details=details.astype(np.float16),
    )


def hashing(side: int, repeats: int) -> dict:
    """A JPEG of that side from its bytes to its hashes in one thread, and decoding alone, by CPU time."""
    rng = np.random.default_rng(side)
    image = cv2.resize(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    data, count = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes(), 60_000 // side
    both, decoding = [], []
    for _ in range(repeats):
        began = time.process_time()
        images = [decode_image(data, "") for _ in range(count)]
        middle = time.process_time()
        for one in images:
            look(one)
        decoding.append(middle - began)
        both.append(time.process_time() - began)
    rates = [round(count / statistics.median(seconds)) for seconds in (both, decoding)]
    return {
        "what": f"read and hash, {side} x {side} JPEG, one thread",
        "images per CPU second": rates[0],
        "decoding alone": rates[1],
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/inspect_data.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--bits", type=int, nargs="+", default=[2, 4, 6, 8])
    options = parser.parse_args()
    cv2.setNumThreads(0)
    rows = [hashing(side, options.repeats) for side in (32, 128, 500)]
    pictures = collection()
    for bits in options.bits:
        began, used = time.perf_counter(), time.process_time()
        found = duplicates.find(pictures, bits, parts=2)
        seconds, used = time.perf_counter() - began, time.process_time() - used
        rows.append(
            {
                "what": f"search among {IMAGES:,} images, {bits} bits",
                "seconds": round(seconds, 1),
                "CPU seconds": round(used, 1),
                "near pairs": found.near_pairs,
                "groups": int((np.bincount(found.group) > 1).sum()),
                "peak memory of the process, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    keys = dict.fromkeys(key for row in rows for key in row)
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    report(f"inspect, {load}", [{key: row.get(key, "") for key in keys} for row in rows], options.json)


if __name__ == "__main__":
    main()
