"""The command line: train, eval, inspect, gallery, posthoc, show, pack, doctor; given a recipe, a run or a folder of images."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import asdict
from pathlib import Path

from . import __version__
from .errors import RecipeError, TrainingError, UserError
from .runtime import DeviceError
from .verbs import gallery, inspect, pack, posthoc, show
from .verbs.shared import configs_folder, machine_arguments, set_argument


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="ms_longtail", description="Long-tailed image recognition on MindSpore.")
    top.add_argument("--version", action="version", version=f"ms_longtail {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    train_arguments(verbs.add_parser("train", help="train a recipe, or a folder of images"))
    eval_arguments(verbs.add_parser("eval", help="compute a run's numbers again from its checkpoint"))
    inspect.arguments(
        verbs.add_parser("inspect", help="what a data set is like: classes, duplicates, leaks; a recipe for it")
    )
    gallery.arguments(verbs.add_parser("gallery", help="train a folder of recipes over several seeds; one table"))
    posthoc.arguments(
        verbs.add_parser("posthoc", help="decoupled classifiers and corrections of finished runs; one table")
    )
    show.arguments(verbs.add_parser("show", help="draw what cam, a batch or the samplers do, or how features lie"))
    pack.arguments(verbs.add_parser("pack", help="put a data set into tar shards or MindRecord files"))
    doctor_arguments(verbs.add_parser("doctor", help="check versions, devices and the speed of convolution"))
    return top


def train_arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "--config", metavar="FILE", help="recipe (default: the embedded digits, configs/digits_lt/default.yaml)"
    )
    what.add_argument("--data", metavar="FOLDER", help="train on class folders of your own, without a recipe")
    set_argument(verb)
    verb.add_argument("--seed", type=int, help="short for --set seed=N")
    verb.add_argument("--runs", metavar="FOLDER", default="runs", help="where run folders go (default: runs)")
    verb.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const="",
        help="go on with an unfinished run: the newest of this recipe, or the folder named",
    )
    verb.add_argument(
        "--reuse",
        metavar="FOLDER",
        help="begin with the first stages of a run there that agrees in all that decides their weights",
    )
    verb.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, and stop")
    machine_arguments(verb)
    verb.set_defaults(function=train)
    return verb


def eval_arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument("--run", metavar="FOLDER", required=True, help="run folder")
    verb.add_argument(
        "--checkpoint", metavar="NAME", default="last", help="last, best, or stage-K-NAME (default: last)"
    )
    verb.add_argument(
        "--part", choices=("train", "validation", "test"), default="test", help="which images (default: test)"
    )
    machine_arguments(verb)
    verb.set_defaults(function=evaluate)
    return verb


def doctor_arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.set_defaults(function=examine)
    return verb


def main(arguments: list[str] | None = None, *, verb: str | None = None) -> int:
    """Run a command line; returns the exit status: 0, 1 (training failed), 2 (the user's mistake), 130 (stopped)."""
    if verb is None:
        options = parser().parse_args(arguments)
    else:
        add = {"train": train_arguments, "eval": eval_arguments}[verb]
        options = add(argparse.ArgumentParser(prog=f"{verb}.py")).parse_args(arguments)
    options.words = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(
        format="%(message)s", level=logging.ERROR if getattr(options, "quiet", False) else logging.WARNING
    )
    try:
        return options.function(options)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return status_of(error, options)


def status_of(error: Exception, options: argparse.Namespace | None) -> int:
    """Print what went wrong with a command of these options; returns its exit status. A fault of the package is raised again."""
    place = None
    if not isinstance(error, (UserError, DeviceError, TrainingError)):
        from .recipe.own_code import explain

        place = explain(error)
        if getattr(options, "debug", False) or (place is None and not isinstance(error, OSError)):
            raise error
    if place is not None:
        place += f"\n{'' if hasattr(options, 'debug') else 'train.py '}--debug prints all calls that led there."
    print(f"error: {place or error}", file=sys.stderr)
    return 1 if place is None and isinstance(error, (TrainingError, OSError)) else 2


def train(options: argparse.Namespace) -> int:
    from . import recipe as recipes
    from . import runtime
    from .collectives import from_main, gather
    from .console import Console
    from .run import check, dataset, folder, missing, plan, reuse
    from .run.finish import finish
    from .run.train import Interrupted, Run

    console = Console(quiet=options.quiet)
    recipe = load_recipe(options, console)
    data = dataset.load_data(recipe)
    device = "cpu" if options.dry_run else options.device
    machine = runtime.start(device, debug=options.debug, **asdict(recipe.graph))
    runtime.set_seed(recipe.seed)
    if len(set(gather(recipes.fingerprint(recipe)))) > 1:
        raise UserError(
            "the workers were not given the same recipe: the file, or one that it imports, differs between the machines"
        )
    # The main worker alone looks at the disk, and tells the others.
    found = home_folder(options, recipe) if machine.main else None
    path, finished = from_main(None if found is None else (str(found.path), found.finished))
    home = found or folder.RunFolder(Path(path))
    try:
        check.check(recipe, data, resuming=not machine.main or home.begun)
    except RecipeError as error:
        raise RecipeError(error.faults, options.config or options.data or options.resume or recipe.name) from error
    if machine.main and not finished:  # run_distribute.sh has looked on every machine
        missing.require_images(recipe, data)
    if options.dry_run:
        console.say(recipes.to_yaml(recipe))
        console.table("plan", plan.describe(plan.make_plan(recipe, data)))
        return 0
    stages = plan.make_plan(recipe, data, machine.ranks)
    others = None if options.reuse is None else reuse.folder_of_runs(options.reuse, machine.ranks)
    if not machine.main:
        console = Console(quiet=True)
    if finished:
        own = options.resume and not (options.config or options.data or _overrides(options))
        if machine.main and not own:  # of another recipe, or other images, it would not be what was asked for
            home.require_same_recipe(recipe)
            home.require_same_split(data.description)
        console.say(f"{home.path} is finished already; see {home.report}")
        return 0
    if machine.main:
        root = str(Path(dataset.data_root(recipe)).resolve())
        facts = folder.environment(machine.device, machine.ranks, graph=machine.graph, data_root=root)
        if home.begun:
            home.require_same_recipe(recipe)
            home.require_same_split(data.description)
            home.compare_arithmetic(facts)
        else:
            home.create(recipe, data.description, facts)
        home.lock()
    console.say(
        f"{home.path}: {machine.device}, {'graph' if machine.graph else 'PyNative'} mode, {machine.ranks} worker(s)"
    )
    console.table("stages", plan.describe(stages))
    run = Run(recipe, data, stages, home, machine, console)
    try:
        reused = machine.main and reuse.begin(others, recipe, data, stages, home, console)
        run.train(resume=reused or options.resume is not None)
        scores = finish(run)
    except Interrupted as stop:
        console.say(f"{stop}. Continue with: --resume {home.path}")
        return 130
    finally:
        home.unlock()
    _show(console, scores, data)
    console.say(f"report: {home.report}")
    return 0


def load_recipe(options: argparse.Namespace, console):
    """The recipe that the command line means: a file's, a folder's own, a run's, or the default."""
    from . import recipe as recipes
    from .run.folder import RunFolder
    from .run.own_folder import recipe_for

    overrides = _overrides(options)
    if options.data is not None:
        return recipe_for(options.data, overrides, configs_folder(), console)
    own = Path(options.resume or "", "recipe.yaml")  # which may be named, too
    if options.resume and (options.config is None or Path(options.config).resolve() == own.resolve()):
        home = RunFolder(Path(options.resume))
        for assignment in overrides:
            key = assignment.partition("=")[0].split(".")[0]
            if key in recipes.STAGE_KEYS:
                raise UserError(
                    f"--set {assignment}: the recipe of a run has complete stages; use stages.NAME.{key}..."
                )
        return recipes.from_map(home.plain_recipe(), overrides, source=str(home.path / "recipe.yaml"))
    return recipes.load(options.config or configs_folder() / "digits_lt" / "default.yaml", overrides)


def _overrides(options: argparse.Namespace) -> list[str]:
    return options.set + ([f"seed={options.seed}"] if options.seed is not None else [])


def home_folder(options: argparse.Namespace, recipe):
    """The run folder: the one named, the newest of this recipe when resuming, else a new one."""
    from .run.folder import RunFolder, new_run, to_resume

    shared = os.environ.get("MSLT_RUN_FOLDER")  # set by run_distribute.sh, so that all workers agree
    if shared:
        return RunFolder(Path(shared))
    if options.resume:
        home = RunFolder(Path(options.resume))
        home.plain_recipe()  # refuses a folder that is no run
        return home
    parent = Path(options.runs)
    found = to_resume(parent, recipe) if options.resume is not None else None
    return found or new_run(parent, recipe)


def evaluate(options: argparse.Namespace) -> int:
    from . import recipe as recipes
    from . import runtime
    from .console import Console
    from .run import again, folder

    console = Console(quiet=options.quiet)
    home = folder.RunFolder(Path(options.run))
    recipe = recipes.from_map(home.plain_recipe(), source=str(home.path / "recipe.yaml"))
    machine = runtime.start(options.device, debug=options.debug, **asdict(recipe.graph))
    scores, data = again.evaluate_run(home, recipe, machine, checkpoint=options.checkpoint, part=options.part)
    _show(console, {options.checkpoint: scores}, data)
    if options.part == "test":
        console.say(again.compare(home, options.checkpoint, scores))
    return 0


def _show(console, scores: dict, data) -> None:
    from .evaluation.report import group_text, score_row

    names = data.splits.test.class_names
    console.table("accuracy, %", [score_row(label, result, names) for label, result in scores.items()])
    console.say(group_text(scores[next(iter(scores))], data.class_counts))


def examine(_options: argparse.Namespace) -> int:
    from .doctor import run

    return run()
