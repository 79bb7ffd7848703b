"""The verb `posthoc`: its words, and what it does with them."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict
from pathlib import Path

from ..errors import UserError
from .shared import machine_arguments


def arguments(verb: argparse.ArgumentParser) -> argparse.ArgumentParser:
    verb.add_argument(
        "--run", metavar="FOLDER", nargs="+", required=True, help="run folder, or several (seeds) for one table"
    )
    verb.add_argument(
        "--checkpoint", metavar="NAME", default="last", help="last, best, or stage-K-NAME (default: last)"
    )
    verb.add_argument(
        "--methods",
        metavar="NAME",
        nargs="+",
        default=["all"],
        help="all, or some of plain, tau_norm, logit_adjustment, ncm, crt, lws, disalign (default: all)",
    )
    verb.add_argument(
        "--tau", metavar="X", type=_number(0, 10), help="strength (default: chosen on the validation part)"
    )
    verb.add_argument("--keep-bias", action="store_true", help="tau_norm: add the classifier's bias again")
    verb.add_argument("--epochs", metavar="N", type=_whole, default=30, help="crt, lws, disalign: epochs (default: 30)")
    verb.add_argument(
        "--lr", metavar="X", type=_number(0, 100), help="crt, lws, disalign: learning rate (default: 0.1)"
    )
    verb.add_argument("--rho", metavar="X", type=_number(0, 10), default=1.2, help="disalign: exponent (default: 1.2)")
    verb.add_argument("--seed", metavar="N", type=_whole, default=0, help="crt, lws, disalign: of draws (default: 0)")
    verb.add_argument(
        "--out", metavar="FOLDER", help="where the table goes (default: RUN/posthoc/CHECKPOINT of the first run)"
    )
    machine_arguments(verb)
    verb.set_defaults(function=posthoc)
    return verb


def _number(low: float, high: float):
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return read


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)


def posthoc(options: argparse.Namespace) -> int:
    from .. import runtime
    from ..console import Console
    from ..evaluation import posthoc_table as table
    from ..run.folder import write_text
    from ..run.posthoc import RETRAINED, SEARCHED, Settings, choose, numbered, open_run, run_all

    console = Console(quiet=options.quiet)
    settings = Settings(
        methods=choose(options.methods),
        tau=options.tau,
        keep_bias=options.keep_bias,
        epochs=options.epochs,
        lr=options.lr,
        rho=options.rho,
        seed=options.seed,
    )
    if runtime.in_group():
        raise UserError("posthoc reads and writes for itself: start it without msrun")
    unused = {
        "--tau": options.tau is not None and not set(settings.methods) & set(SEARCHED),
        "--keep-bias": options.keep_bias and "tau_norm" not in settings.methods,
        "--lr": options.lr is not None and not set(settings.methods) & set(RETRAINED),
    }
    for option in (name for name, vain in unused.items() if vain):
        raise UserError(f"{option}: none of the methods chosen takes it ({', '.join(settings.methods)})")
    if options.epochs < 1:
        raise UserError("--epochs 0: the trained methods need at least 1")
    runs = [open_run(path) for path in dict.fromkeys(options.run)]
    machine = runtime.start(options.device, debug=options.debug, **asdict(runs[0][1].graph))
    named = "all" not in ",".join(options.methods).split(",")
    results = run_all(runs, machine, settings, options.checkpoint, console, named=named)
    out = Path(options.out or runs[0][0].path / "posthoc" / options.checkpoint.removesuffix(".ckpt"))
    out.mkdir(parents=True, exist_ok=True)
    command = shlex.join(["python", "-m", "ms_longtail", *options.words])
    text = table.markdown(results, checkpoint=options.checkpoint, command=command, keep_bias=options.keep_bias)
    path = numbered(out / "posthoc.md", lambda old: old.read_text().splitlines()[-1:] == text.splitlines()[-1:])
    write_text(path, text)
    first = next(iter(results.values()))
    if any(result.curve for result in first):
        table.curves(path.with_name(path.name.replace("posthoc", "tau")).with_suffix(".png"), first)
    console.table("accuracy on test, %", table.rows(results))
    console.say(f"table: {path}")
    return 0
