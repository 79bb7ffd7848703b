"""The verb `gallery`: its words, and what it does with them."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from ..errors import UserError
from ..runtime import DEVICES
from .shared import set_argument


def arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("recipes", metavar="FOLDER", nargs="+", help="folder of recipes (*.yaml), or a recipe")
    verb.add_argument("--recursive", action="store_true", help="sub-folders too (never those called _base_)")
    verb.add_argument(
        "--seeds", metavar="N", type=seeds, default="5", help="number of seeds, 0 to N-1, or a list: 0,3,7 (default: 5)"
    )
    verb.add_argument("--runs", metavar="FOLDER", default="runs/gallery", help="run folders (default: runs/gallery)")
    verb.add_argument("--out", metavar="FOLDER", help="where the table goes (default: the folder of --runs)")
    verb.add_argument("--baseline", metavar="NAME", help="recipe that the others are compared with (default: ce)")
    verb.add_argument("--no-reuse", action="store_true", help="train the stages that recipes share in each run anew")
    verb.add_argument("--dry-run", action="store_true", help="check all recipes, print what would run, and stop")
    verb.add_argument("--device", choices=DEVICES, default="auto", help="default: Ascend, else GPU, else CPU")
    verb.add_argument("--quiet", action="store_true", help="print errors only")
    set_argument(verb)
    verb.set_defaults(function=gallery)
    return verb


def seeds(text: str) -> list[int]:
    """'5' -> 0 to 4; '0,3,7' (or '3,') -> these."""
    parts = [part.strip() for part in text.split(",")]
    if "," in text and parts[-1] == "":
        parts.pop()
    if not parts or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r}: give a number of seeds, or seeds with commas between them")
    numbers = [int(part) for part in parts]
    if "," not in text:
        if not 1 <= numbers[0] <= 1000:
            raise argparse.ArgumentTypeError(f"{text!r}: the number of seeds is between 1 and 1000")
        return list(range(numbers[0]))
    return list(dict.fromkeys(numbers))


def gallery(options: argparse.Namespace) -> int:
    from .. import runtime
    from ..console import Console
    from ..evaluation.gallery import find_baseline
    from ..run.gallery import Gallery
    from ..run.jobs import find_recipes, make_jobs

    console = Console(quiet=options.quiet)
    if any(assignment.partition("=")[0].strip() == "seed" for assignment in options.set):
        raise UserError("--set seed=...: a gallery takes its seeds from --seeds")
    if runtime.in_group():
        raise UserError("a gallery starts its runs itself, one process each: start it without msrun")
    runtime.choose_device(options.device)  # every single run would find out
    jobs = make_jobs(find_recipes(options.recipes, recursive=options.recursive), options.seeds, options.set)
    entries = list({job.entry.recipe: job.entry for job in jobs}.values())
    baseline = find_baseline(entries, options.baseline or "ce")
    if options.baseline is not None and baseline is None:
        names = ", ".join(entry.recipe for entry in entries)
        raise UserError(f"--baseline {options.baseline}: not one recipe of this gallery; there are: {names}")
    runs = Path(options.runs)
    collection = Gallery(
        jobs,
        runs=runs,
        out=Path(options.out or runs),
        overrides=options.set,
        device=options.device,
        reuse=not options.no_reuse,
        baseline=baseline,
        title=f"Gallery of {', '.join(options.recipes)}",
        command=shlex.join(["python", "-m", "ms_longtail", *options.words]),
        console=console,
    )
    if options.dry_run:
        console.table("runs", collection.overview())
        return 0
    status = collection.run()
    if status != 130:
        console.say(f"table: {collection.out / 'gallery.md'}")
    return status
