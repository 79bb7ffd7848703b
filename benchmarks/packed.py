"""Images read in random order from a folder, from packed tar shards and from packed MindRecord files.

python benchmarks/packed.py [--photos FOLDER]      class folders with train/ and test/; default $MSLT_DATA/caltech101
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from common import arguments, report

from ms_longtail import runtime
from ms_longtail.cli import main as command
from ms_longtail.data import ImageSet
from ms_longtail.data.image_folder import image_folder
from ms_longtail.data.packed import packed

SPAN = 32  # images that a thread is handed at once, as the pipeline's are


def bytes_of(images: ImageSet) -> Callable[[int], object]:
    if images.blobs is not None:
        return images.blobs.read

    def read(number: int) -> bytes:
        with open(images.files[number], "rb") as file:
            return file.read()

    return read


def forget(images: ImageSet) -> None:
    """Ask the system to drop its copies of the files in memory."""
    for path in images.blobs.files.paths if images.blobs is not None else images.files:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def speed(read: Callable[[int], object], order: np.ndarray, workers: int) -> tuple[float, float]:
    """(images a second, microseconds of processor an image): the second does not depend on what else the machine does."""

    def some(numbers: list[int]) -> None:
        for number in numbers:
            read(number)

    spans = [order[start : start + SPAN].tolist() for start in range(0, len(order), SPAN)]
    began, used = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(some, spans))
    seconds, used = time.perf_counter() - began, time.process_time() - used
    return len(order) / seconds, used / len(order) * 1e6


def main() -> None:
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/packed.json")
    parser.add_argument("--photos", default=os.path.join(os.environ.get("MSLT_DATA", "data"), "caltech101"))
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    if not Path(options.photos).is_dir():
        raise SystemExit(f"no photographs: {options.photos} is not a folder")
    runtime.single_threaded_opencv()
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        sets, packing = {"folder": image_folder(root=options.photos).train}, {}
        for form in ("tar", "mindrecord"):
            began = time.perf_counter()
            words = ["pack", "--data", options.photos, "--to", f"{scratch}/{form}", "--format", form, "--quiet"]
            if command(words):
                raise SystemExit(f"cannot pack {options.photos}")
            packing[form] = time.perf_counter() - began
            sets[form] = packed(root=f"{scratch}/{form}").train
        rows = measure(sets, options.rounds)
    size = int(sets["tar"].blobs.index.length.sum())
    notes = ", ".join(f"{form} packed and checked in {seconds:.1f} s" for form, seconds in packing.items())
    notes += f", load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    report(f"{len(sets['tar'])} photographs, {size / 1e6:.0f} MB, random order, images/s ({notes})", rows, options.json)


def measure(sets: dict[str, ImageSet], rounds: int) -> list[dict]:
    """The kinds of reading in turn, so that a busy moment of the machine hits all of them."""
    order = np.random.default_rng(0).permutation(len(sets["folder"]))
    workers = min(2, os.cpu_count() or 1)
    cases = [
        ("bytes, files in memory", bytes_of, 1, False),
        ("bytes, files on the disk", bytes_of, 1, True),
        ("decoded, files in memory", lambda images: images.read, workers, False),
        ("decoded, files on the disk", lambda images: images.read, workers, True),
    ]
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(rounds):
        for name, reader, threads, cold in cases:
            for source, images in sets.items():
                if cold:
                    forget(images)
                else:
                    speed(bytes_of(images), order, 1)
                found.setdefault((name, source), []).append(speed(reader(images), order, threads))
    rows = []
    for name, _, threads, _ in cases:
        for source in sets:
            speeds, used = zip(*found[name, source], strict=True)
            each = " ".join(f"{s:,.0f}" for s in speeds)
            rows.append(
                {
                    "what": f"{name}, {threads} thread{'s' if threads > 1 else ''}",
                    "from": source,
                    "images/s (median)": f"{statistics.median(speeds):,.0f}",
                    "each round": each,
                    "CPU us/image": f"{statistics.median(used):,.0f}",
                }
            )
    return rows


if __name__ == "__main__":
    main()
