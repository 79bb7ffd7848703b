"""The verb `show`: its words, and what it does with them."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError
from .shared import configs_folder, machine_arguments


def arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    pictures = verb.add_subparsers(dest="picture", required=True, metavar="PICTURE")
    cam = pictures.add_parser("cam", help="image, activation map, foreground and its moves, for some rare classes")
    cam.add_argument("--stage", metavar="NAME", help="stage with cam (default: the first one)")
    cam.add_argument(
        "--classes",
        metavar="N|NAME",
        nargs="+",
        help='the N rarest and the largest, or names of classes ("3," is the class named 3; default: 4)',
    )
    cam.add_argument("--images", metavar="K", type=_positive, default=2, help="images of a class (default: 2)")
    cam.add_argument("--seed", type=_seed, default=0, help="of the choice of images and moves (default: 0)")
    batch = pictures.add_parser("batch", help="the images and labels that a stage feeds the network in one step")
    batch.add_argument("--stage", metavar="NAME", help="default: the first stage")
    batch.add_argument("--epoch", metavar="E", type=_positive, default=1, help="of the stage (default: 1)")
    batch.add_argument("--step", metavar="S", type=_positive, default=1, help="of the epoch (default: 1)")
    batch.add_argument("--images", metavar="N", type=_positive, default=16, help="at most so many (default: 16)")
    sampler = pictures.add_parser("sampler", help="how often every sampler draws each class")
    sampler.add_argument("--epochs", metavar="K", type=_positive, default=10, help="epochs drawn (default: 10)")
    for picture in (cam, batch, sampler):
        what = picture.add_mutually_exclusive_group()
        what.add_argument("--run", metavar="FOLDER", help="run folder, finished or not")
        what.add_argument("--config", metavar="FILE", help="recipe (default: configs/digits_lt/default.yaml)")
        picture.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="with --config")
        name = picture.prog.split()[-1] + ".png"
        picture.add_argument("--out", metavar="FILE", default=name, help=f"default: {name}")
        machine_arguments(picture)
        picture.set_defaults(function=show)
    features = pictures.add_parser(
        "features", help="angles between classes, closeness within them, and the images in 2-D"
    )
    features.add_argument(
        "--run", metavar="FOLDER", required=True, help="run folder with a checkpoint, finished or not"
    )
    features.add_argument(
        "--checkpoint", metavar="NAME", default="last", help="last, best, or stage-K-NAME (default: last)"
    )
    features.add_argument("--part", choices=("test", "validation", "train"), default="test", help="default: test")
    features.add_argument(
        "--out", metavar="FILE", default="features.png", help="default: features.png, its numbers in features.json"
    )
    machine_arguments(features)
    features.set_defaults(function=show_features)
    return verb


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def show(options: argparse.Namespace) -> int:
    from .. import recipe as recipes
    from .. import runtime
    from ..console import Console
    from ..run import folder, show_batch, show_cam, show_sampler
    from ..run import show as subjects

    out = subjects.require_writable(options.out)
    if options.run is not None:
        if options.set:
            raise UserError(
                f"--set {options.set[0]}: a run is shown with the settings it has; use --config to try others"
            )
        home = folder.RunFolder(Path(options.run))
        recipe = recipes.from_map(home.plain_recipe(), source=str(home.path / "recipe.yaml"))
        machine = runtime.start(options.device, debug=options.debug, **asdict(recipe.graph))
        subject = subjects.of_run(home, recipe, machine)
    else:
        recipe = recipes.load(options.config or configs_folder() / "digits_lt" / "default.yaml", options.set)
        machine = runtime.start(options.device, debug=options.debug, **asdict(recipe.graph))
        subject = subjects.of_recipe(recipe, machine, recipe.name)
    settings = {
        "cam": ("stage", "classes", "images", "seed"),
        "batch": ("stage", "epoch", "step", "images"),
        "sampler": ("epochs",),
    }
    draw = {"cam": show_cam.draw, "batch": show_batch.draw, "sampler": show_sampler.draw}[options.picture]
    draw(out, subject, **{name: getattr(options, name) for name in settings[options.picture]})
    Console(quiet=options.quiet).say(str(out))
    return 0


def show_features(options: argparse.Namespace) -> int:
    from .. import recipe as recipes
    from .. import runtime
    from ..console import Console
    from ..run import folder
    from ..run import show_features as features

    if runtime.in_group():
        raise UserError("show features reads and writes for itself: start it without msrun")
    home = folder.RunFolder(Path(options.run))
    out = features.require(options.out, home, options.checkpoint, options.part)
    recipe = recipes.from_map(home.plain_recipe(), source=str(home.path / "recipe.yaml"))
    machine = runtime.start(options.device, debug=options.debug, **asdict(recipe.graph))
    console = Console(quiet=options.quiet)
    features.draw(out, home, recipe, machine, console, checkpoint=options.checkpoint, part=options.part)
    console.say(str(out))
    return 0
