"""The verb `pack`: its words, and what it does with them."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from ..errors import UserError
from .shared import configs_folder, set_argument


def arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--config", metavar="FILE", help="recipe whose data set is packed, whole")
    what.add_argument("--data", metavar="FOLDER", help="class folders of your own")
    verb.add_argument("--to", metavar="FOLDER", required=True, help="new folder, or one that the same command began")
    verb.add_argument("--format", choices=("tar", "mindrecord"), default="tar", help="of the shards (default: tar)")
    verb.add_argument(
        "--shard-mb",
        metavar="N",
        type=_megabytes,
        default=256.0,
        help="images in a shard, in 10^6 bytes (default: 256)",
    )
    verb.add_argument(
        "--size",
        metavar="N",
        type=_pixels,
        help="store images whose shorter side is longer than N pixels at that size, as JPEG (default: bytes as they are)",
    )
    verb.add_argument(
        "--check", action="store_true", help="read every image back, also where the folder is packed already"
    )
    verb.add_argument("--quiet", action="store_true", help="print errors only")
    set_argument(verb)
    verb.set_defaults(function=pack)
    return verb


def _megabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.001 <= value <= 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.001 to 65536")
    return value


def _pixels(text: str) -> int:
    if not text.isdecimal() or not 8 <= int(text) <= 8192:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 8 to 8192")
    return int(text)


def pack(options: argparse.Namespace) -> int:
    from .. import recipe as recipes
    from .. import runtime
    from ..console import Console
    from ..run.dataset import data_root, load_whole
    from ..run.own_folder import recipe_for
    from ..run.pack import Packing
    from ..run.pack_check import check_folder
    from ..run.pack_plan import make_plan, require_apart

    console = Console(quiet=options.quiet)
    to = Path(options.to)
    if runtime.in_group():
        raise UserError("pack reads and writes for itself: start it without msrun")
    if options.config is None and options.data is None:
        if not options.check:
            raise UserError(
                "pack: name what is to be packed, --config RECIPE or --data FOLDER (or --check a packed one)"
            )
        check_folder(to, console)
        return 0
    if options.data is not None:
        recipe = recipe_for(options.data, options.set, configs_folder(), console)
    else:
        recipe = recipes.load(options.config, options.set)
    runtime.single_threaded_opencv()
    require_apart(to, recipe)
    splits = load_whole(recipe)
    plan = make_plan(recipe, splits, format=options.format, shard_mb=options.shard_mb, size=options.size)
    packing, began = Packing(to, plan, console), time.monotonic()
    packing.begin()
    try:
        if packing.finished:
            console.say(f"{to} is packed already")
            if options.check:
                check_folder(to, console)
            return 0
        skip = recipe.data.on_error == "skip"
        content = packing.run(
            splits, data_root(recipe), workers=recipe.workers, skip=skip, most=recipe.data.max_error_share
        )
    finally:
        packing.close()
    seconds = time.monotonic() - began
    images, size = (sum(part[key] for part in content["parts"].values()) for key in ("images", "bytes"))
    left_out = sum(len(part["left_out"]) for part in content["parts"].values())
    console.say(
        f"{to}: {images:,} images, {size:,} bytes, {seconds:.1f} s, {images / seconds:,.0f} images/s"
        + (f"; {left_out} unreadable ones left out, named in packed.json" if left_out else "")
    )
    console.say(f"to train on it: --config RECIPE --set data.name=packed data.root={to}")
    return 0
