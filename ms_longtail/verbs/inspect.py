"""The verb `inspect`: its words, and what it does with them."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from pathlib import Path

from ..errors import UserError
from .shared import configs_folder, set_argument


def arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("data", metavar="DATA", nargs="?", help="folder of class folders, as `train --data` takes it")
    verb.add_argument(
        "--config", metavar="FILE", help="the data of a recipe instead, with its subset and validation part"
    )
    set_argument(verb)
    verb.add_argument(
        "--out",
        metavar="FOLDER",
        help="write inspection.json, class_sizes.png and near_duplicates.png (default: no file)",
    )
    verb.add_argument(
        "--near",
        metavar="BITS",
        type=_bits,
        default=6,
        help="bits of 64 in which the hashes of near-duplicates may differ, 0 to 12 (default: 6)",
    )
    verb.add_argument(
        "--workers", metavar="N", type=_positive, default=None, help="threads that read (default: all processors)"
    )
    verb.add_argument("--quiet", action="store_true", help="print errors only")
    verb.set_defaults(function=inspect)
    return verb


def _bits(text: str) -> int:
    if not text.isdecimal() or int(text) > 12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 12")
    return int(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 256")
    return int(text)


def inspect(options: argparse.Namespace) -> int:
    from .. import recipe as recipes
    from .. import runtime
    from ..console import Console
    from ..data.image_folder import image_folder
    from ..run import dataset, inspection_words
    from ..run.advice import advise, command
    from ..run.inspection import Describe, advice_facts, facts_of
    from ..run.inspection_files import prepare, write
    from ..run.own_folder import held_out, require_not_packed
    from ..run.survey import survey

    if (options.data is None) == (options.config is None):
        raise UserError("inspect: give a folder of class folders, or --config RECIPE, and not both")
    if options.set and options.config is None:
        raise UserError("inspect: --set changes a recipe, so it needs --config")
    if runtime.in_group():
        raise UserError("inspect reads for itself, with threads: start it without msrun")
    console = Console(quiet=options.quiet)
    out = None if options.out is None else prepare(options.out)
    if options.config is None:
        require_not_packed(options.data, "inspect")
        top = Path(os.path.abspath(options.data))
        splits, title, kind = image_folder(root=options.data), options.data, "image_folder"
        settings = {"root": str(top.parent), "folder": top.name, "imbalance": {"profile": "none"}}
        share = held_out(splits, 0.1)  # as configs/folder/ has it
        settings["validation"] = {"share": share}
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", top.name).strip("_-") or "folder"
        to_train = int(len(splits.train) * (1 - share))
    else:
        recipe = recipes.load(options.config, options.set)
        splits, title, kind, name = dataset.load_data(recipe).splits, options.config, recipe.data.name, None
        to_train = None
        passed = {key: recipe.plain["data"].get(key) for key in ("root", "imbalance", "validation")}
        settings = passed | recipe.data_settings
    total = sum(len(images) for images in splits.parts().values())
    console.start("reading", total, 0, "image")
    try:
        seen = survey(
            splits,
            workers=options.workers or len(os.sched_getaffinity(0)),
            progress=lambda done, rate: console.advance(done, f"{rate:,.0f} images/s"),
        )
    finally:
        console.stop()
    facts, found = facts_of(splits, seen, bits=options.near)
    facts = {"data": title, "command": shlex.join(["python", "-m", "ms_longtail", *options.words]), **facts}
    facts["advice"] = [
        {"what": advice.what, "why": advice.why, "command": command(advice, settings, configs_folder(), name, to_train)}
        for advice in advise(advice_facts(kind, facts))
    ]
    inspection_words.say(console, facts)
    if out is not None:
        for path in write(out, facts, found, Describe(splits, seen), title):
            console.say(f"written: {path}")
    return 0
