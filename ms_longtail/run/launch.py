"""What `run_distribute.sh` does: check everything once, start the workers through `msrun`, watch them.

python -m ms_longtail.run.launch TRAIN.PY CONFIG [WORKERS] [options of train.py ...]
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from .. import runtime
from ..cli import home_folder, load_recipe, status_of, train, train_arguments
from ..console import Console
from ..errors import RecipeError, UserError
from . import check
from .cluster import Cluster, cluster, local_threads
from .dataset import load_data
from .missing import require_images
from .plan import make_plan
from .watch import GRACE, Watch

TAIL = 12  # lines of a failed worker's log that are printed
# Seconds after which a silent machine counts as gone, and a collective that nobody answers as failed.
TIMEOUTS = {"MS_NODE_TIMEOUT": "30", "MS_CPU_COMM_OP_TIMEOUT": "30"}


def main(words: list[str]) -> int:
    script, config, *rest = words
    options = None
    workers = rest.pop(0) if rest and not rest[0].startswith("-") else None
    try:
        if not Path(config).is_file():
            raise UserError(f"CONFIG {config}: no such file")
        arguments = ["--config", config, *rest]
        options = train_arguments(argparse.ArgumentParser(prog="run_distribute.sh")).parse_args(arguments)
        if options.data is not None:
            raise UserError(
                "--data: several workers train a recipe; write one with `data: {name: image_folder, root: ...}`"
            )
        device = runtime.choose_device(options.device)
        place = cluster(workers, device)
        options.words = arguments
        if options.dry_run:
            return train(options)
        return launch(script, arguments, options, place, device)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return status_of(error, options)


def launch(script: str, arguments: list[str], options: argparse.Namespace, place: Cluster, device: str) -> int:
    """Check the recipe here, before any worker starts: a fault is told once, with status 2."""
    console = Console(quiet=options.quiet)
    recipe = load_recipe(options, Console(quiet=True))
    data = load_data(recipe)
    runtime.start("cpu")
    try:
        check.check(recipe, data, resuming=options.resume is not None)
        make_plan(recipe, data, place.workers)
        require_images(recipe, data)  # on this machine; another one may have its own disk
    except RecipeError as error:
        raise RecipeError(error.faults, options.config) from error
    if place.workers == 1:  # msrun would start a scheduler, too, which takes itself for the worker
        os.execve(sys.executable, [sys.executable, script, *arguments], os.environ)
    environment = os.environ | local_threads(place)
    if environment.get("GLOG_v") not in ("0", "1", "2"):
        environment["GLOG_v"] = "3"  # msrun's errors say which worker failed
    for name, seconds in TIMEOUTS.items():
        environment.setdefault(name, seconds)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if not (Path(sys.executable).parent / "python").exists():
        raise UserError(
            f"msrun starts `python`, and there is none beside {sys.executable}; use a virtual environment's"
        )
    if place.main:
        home = home_folder(options, recipe)
        if home.finished:
            home.require_same_recipe(recipe)
            home.require_same_split(data.description)
            if place.nodes == 1:  # on several machines the workers tell each other
                console.say(f"{home.path} is finished already; see {home.report}")
                return 0
        home.path.mkdir(parents=True, exist_ok=True)
        home.lock(".start")
        environment["MSLT_RUN_FOLDER"] = str(home.path)
        parent = home.path / "logs"
    else:  # the run folder is on the first machine, and may be out of reach
        parent = Path(options.runs) / f"logs-of-machine-{place.node}" / f"{recipe.name}-s{recipe.seed}"
    logs = next_folder(parent)
    command = [sys.executable, "-m", "mindspore.parallel.cluster.run"]
    command += [f"--worker_num={place.workers}", f"--local_worker_num={place.here}", f"--master_addr={place.address}"]
    command += [
        f"--master_port={place.port}",
        f"--node_rank={place.node}",
        f"--log_dir={logs}",
        "--worker_log_name=rank",
    ]
    command += ["--join=True", "--cluster_time_out=300", "--tail_worker_log=-2"]
    command += ["--bind_core=True"] if device != "cpu" else []
    where = f"machine {place.node + 1} of {place.nodes}, " if place.nodes > 1 else ""
    console.say(
        f"{where}{place.here} of {place.workers} workers, {device}, {place.address}:{place.port}; logs in {logs}"
    )
    shown = 0 if place.main and not options.quiet else None
    grace = _seconds("MSLT_GRACE", GRACE)
    expected = place.here + place.main
    outcome = Watch([*command, script, *arguments], environment, logs, shown, expected, grace).run()
    if outcome.message:
        print(f"error: {outcome.message}", file=sys.stderr)
    if outcome.rank is not None:
        log = logs / f"rank_{outcome.rank}.log"
        lines = log.read_text(errors="replace").splitlines()[-TAIL:] if log.is_file() else []
        print(f"the last lines of {log}:", *lines, sep="\n  ", file=sys.stderr)
    return outcome.status


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    if text and not text.isdecimal():
        raise UserError(f"{variable} = {text}: must be a whole number of seconds")
    return float(text or default)


def next_folder(parent: Path) -> Path:
    """parent/start-1, or the first number that is free: a resumed run keeps the logs of its earlier parts."""
    number = 1
    while True:
        folder = parent / f"start-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
