"""Lists and COCO-style JSON of iNaturalist's size: seconds and memory to load them, and to look for every image.

python benchmarks/lists.py [--repeats 5] [--images]

Every figure is measured in a process of its own, memory in another one than time (counting allocations slows them). `--images`
makes the 437,513 files, empty, in a temporary folder: a minute of disk.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import arguments, report
from samplers import IMAGES, labels

TEST = 24_426


def write_all(folder: Path) -> None:
    """train and test as list and as JSON with the fields that the published file has."""
    classes = labels()
    names = np.random.default_rng(1).bytes(16 * IMAGES).hex()
    files = [f"train_val2018/Plantae/{c}/{names[32 * i : 32 * i + 32]}.jpg" for i, c in enumerate(classes.tolist())]
    for part, size in (("train", IMAGES), ("test", TEST)):
        mine = [
            (file if part == "train" else f"test/{file}", c)
            for file, c in zip(files[:size], classes[:size].tolist(), strict=True)
        ]
        (folder / f"{part}.txt").write_text("".join(f"{file} {c}\n" for file, c in mine))
        more = {"license": 3, "rights_holder": "Somebody", "width": 800, "height": 600}
        images = [{"id": i, "file_name": file} | more for i, (file, _) in enumerate(mine)]
        annotations = [{"id": i, "image_id": i, "category_id": c} for i, (_, c) in enumerate(mine)]
        categories = [{"id": c, "name": f"species {c}", "supercategory": "Plantae"} for c in range(classes.max() + 1)]
        content = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
        (folder / f"{part}.json").write_text(json.dumps(content))


def make_images(folder: Path) -> None:
    made: set[str] = set()
    for line in (folder / "train.txt").read_text().splitlines():
        path = f"{folder}/{line.rsplit(' ', 1)[0]}"
        if os.path.dirname(path) not in made:
            os.makedirs(os.path.dirname(path))
            made.add(os.path.dirname(path))
        os.close(os.open(path, os.O_CREAT))


def job(kind: str, folder: Path) -> Callable:
    """What is measured, ready to run."""
    from ms_longtail.data import missing
    from ms_longtail.data.image_list import image_list
    from ms_longtail.data.inaturalist import inaturalist

    if kind == "json":
        return lambda: inaturalist(
            **{f"{p}_json": str(folder / f"{p}.json") for p in ("train", "test")}, root=str(folder)
        )
    lists = {f"{part}_list": str(folder / f"{part}.txt") for part in ("train", "test")}
    if kind == "list":
        return lambda: image_list(root=str(folder), **lists)
    files = image_list(root=str(folder), **lists).train.files
    return lambda: missing(files)


def measure(kind: str, folder: Path) -> None:
    """In the process of its own: one line of JSON."""
    if kind.endswith("+"):  # memory
        run = job(kind[:-1], folder)
        tracemalloc.start()
        kept = run()
        stays, peak = tracemalloc.get_traced_memory()
        print(json.dumps({"peak": peak, "stays": stays, "kept": kept is not None}))
        return
    run = job(kind, folder)
    began, worked = time.perf_counter(), time.process_time()
    kept = run()
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    print(json.dumps({"seconds": seconds, "cpu": worked, "kept": kept is not None}))


def ask(kind: str, folder: Path, cache: Path) -> dict:
    command = [sys.executable, __file__, "--measure", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MSLT_CACHE": str(cache)})
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def row(what: str, runs: list[dict], memory: dict) -> dict:
    return {
        "what": what,
        "seconds, median": f"{statistics.median(r['seconds'] for r in runs):.2f}",
        "seconds, each": " ".join(f"{r['seconds']:.2f}" for r in runs),
        "CPU seconds, median": f"{statistics.median(r['cpu'] for r in runs):.2f}",
        "allocated at most, MB": round(memory["peak"] / 1e6),
        "stays, MB": round(memory["stays"] / 1e6),
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        return measure(sys.argv[2], Path(sys.argv[3]))
    parser = arguments(__doc__.splitlines()[0], "benchmarks/results/lists.json")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", action="store_true", help="make the files, and look for them, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_all(folder)
        caches = [folder / f"cache{n}" for n in range(options.repeats + 1)]
        rows = [
            row(
                f"lists, {IMAGES:,} and {TEST:,} lines",
                [ask("list", folder, caches[0]) for _ in range(options.repeats)],
                ask("list+", folder, caches[0]),
            ),
            row(
                "JSON of the same, first time",
                [ask("json", folder, cache) for cache in caches[1:]],
                ask("json+", folder, caches[0]),
            ),
            row(
                "JSON of the same, later",
                [ask("json", folder, caches[0]) for _ in range(options.repeats)],
                ask("json+", folder, caches[0]),
            ),
        ]
        if options.images:
            make_images(folder)
            runs = [ask("missing", folder, caches[0]) for _ in range(options.repeats)]
            rows.append(row("every image looked for, none missing", runs, ask("missing+", folder, caches[0])))
    report("data sets of iNaturalist 2018's size", rows, options.json)


if __name__ == "__main__":
    main()
