"""Decoupled classifiers and post-hoc corrections of finished runs: chosen on validation, measured on test, one table."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import nn

from .. import runtime
from ..errors import UserError
from ..evaluation import evaluate
from ..evaluation.posthoc import NearestClassMean, balanced_accuracy, logit_adjusted, search, tau_normalised
from ..evaluation.retrain import RETRAINED, train
from ..recipe import Recipe, differences, essence, from_map
from ..registry import nearest
from .features import Outputs, checkpoint_file
from .folder import RunFolder, write_json

SEARCHED = ("tau_norm", "logit_adjustment")  # methods with a strength to be chosen
LINEAR = ("tau_norm", *RETRAINED)  # methods that are defined for a linear classifier
METHODS = ("plain", "tau_norm", "logit_adjustment", "ncm", *RETRAINED)
TAUS = tuple(round(0.1 * step, 1) for step in range(21))


@dataclass(frozen=True)
class Settings:
    """What the methods take beside the run.

    Attributes:
        methods: which, in the table's order. tau: None to search it on the validation part. keep_bias: of tau_norm.
        epochs, lr, rho, seed: of the trained ones; lr None for each one's own.
    """

    methods: tuple[str, ...] = METHODS
    tau: float | None = None
    keep_bias: bool = False
    epochs: int = 30
    lr: float | None = None
    rho: float = 1.2
    seed: int = 0


@dataclass
class Result:
    """One method on one run: its scores on test, how its strength was chosen, and the seconds that applying it took."""

    method: str
    scores: dict[str, Any]
    setting: str = ""
    validation: float | None = None
    curve: list[tuple[float, float]] = field(default_factory=list)
    seconds: float = 0.0


def choose(text: list[str]) -> tuple[str, ...]:
    """The methods that the user's words mean; "all" for every one. `plain` comes first in any case."""
    words = [word for part in text for word in part.split(",") if word]
    for word in words:
        if word not in ("all", *METHODS):
            raise UserError(
                f"--methods {word}: not known{nearest(word, list(METHODS))}; choose from all, {', '.join(METHODS)}"
            )
    wanted = set(METHODS) if "all" in words else {"plain", *words}
    return tuple(method for method in METHODS if method in wanted)


def require(home: RunFolder, recipe: Recipe, settings: Settings, *, named: bool) -> tuple[str, ...]:
    """The methods that this run can take, before any work is done; a UserError where it cannot take what was named.

    Args:
        named: whether the user named the methods one by one; with "all", those that do not fit are left out.
    """
    methods = settings.methods
    if not home.finished:
        raise UserError(f"{home.path} is not finished; let it go on: train --resume {home.path}")
    searching = [method for method in methods if method in SEARCHED and settings.tau is None]
    if searching and recipe.data.validation.share == 0 and not _ships_validation(home):
        raise UserError(
            f"{home.path} has no validation part, on which {' and '.join(searching)} would choose a strength; train it with "
            "data.validation.share above 0, or set the strength by --tau"
        )
    head = recipe.model.settings.get("head", "linear")
    if head in ("linear", "lws"):
        return methods
    unfit = [method for method in methods if method in LINEAR]
    if unfit and named:
        raise UserError(f"{unfit[0]} needs a linear classifier; {home.path} has model.head: {head}")
    return tuple(method for method in methods if method not in unfit)


def require_alike(runs: list[tuple[RunFolder, Recipe]], checkpoint: str) -> None:
    """That all runs have the checkpoint, and differ in nothing but their seeds; a UserError before any work is done."""
    first, recipe = runs[0]
    own = essence(recipe.plain) | {"seed": None}
    for home, other in runs:
        checkpoint_file(home, checkpoint)
        changed = differences(own, essence(other.plain) | {"seed": None})
        if changed:
            raise UserError(
                f"--run {home.path}: one table is of one recipe, and this run differs from {first.path} in {changed[0]}"
            )


def _ships_validation(home: RunFolder) -> bool:
    return "validation" in json.loads((home.path / "split.json").read_text())["counts"]


def open_run(path: str) -> tuple[RunFolder, Recipe]:
    home = RunFolder(Path(path))
    recipe = from_map(home.plain_recipe(), source=str(home.path / "recipe.yaml"))
    return home, recipe


def correct(outputs: Outputs, settings: Settings, methods: tuple[str, ...]) -> list[Result]:
    """Every method on one run. The strength is chosen by balanced accuracy on the validation part; test is only measured."""
    test, counts = outputs.part("test"), outputs.data.class_counts
    validation = outputs.part("validation") if "validation" in outputs.data.splits.parts() else None
    training = outputs.part("train") if {"ncm", *RETRAINED} & set(methods) else None
    results = []
    for method in methods:
        curve: list[tuple[float, float]] = []
        tau = settings.tau
        if method in SEARCHED and tau is None:
            correction = _corrected(method, outputs, validation.logits, settings)
            try:
                tau, curve = search(correction, validation.labels, TAUS)
            except ValueError as error:
                raise UserError(f"{method}: {error}") from error
        try:
            apply, setting = _classifier(method, tau, training, outputs, settings)
        except ValueError as error:
            raise UserError(f"{method}: {error}") from error
        began = time.monotonic()
        logits = apply(test)
        seconds = time.monotonic() - began
        held = None if validation is None else balanced_accuracy(apply(validation), validation.labels)
        scores = evaluate(logits, test.labels, counts)
        if method == "ncm":
            scores["ece"] = None  # distances are no log-probabilities
        results.append(Result(method, scores, setting, held, curve, round(seconds, 4)))
    return results


def _corrected(method: str, outputs: Outputs, logits: np.ndarray, settings: Settings) -> Callable[[float], np.ndarray]:
    """tau -> logits, for the methods that have one."""
    if method == "logit_adjustment":
        return lambda tau: logit_adjusted(logits, outputs.data.class_counts, tau)
    weight, bias = linear_parts(outputs.model.head)
    return lambda tau: tau_normalised(logits, weight, bias, tau, keep_bias=settings.keep_bias)


def _classifier(method: str, tau: float | None, training, outputs: Outputs, settings: Settings):
    """(a part of the data -> logits, the setting in words)."""
    if method == "plain":
        return (lambda kept: kept.logits), ""
    if method in SEARCHED:
        chosen = "" if settings.tau is not None else ", chosen on validation"
        return (lambda kept: _corrected(method, outputs, kept.logits, settings)(tau)), f"tau {tau:g}{chosen}"
    if method == "ncm":
        means = NearestClassMean(training.features, training.labels, outputs.data.splits.train.num_classes)
        return (lambda kept: means.logits(kept.features)), ""
    classifier = RETRAINED[method](*linear_parts(outputs.model.head), seed=settings.seed)
    options = {"epochs": settings.epochs, "lr": settings.lr, "rho": settings.rho, "seed": settings.seed}
    train(classifier, training.features, training.labels, **options)
    rate = classifier.lr if settings.lr is None else settings.lr
    text = f"{settings.epochs} epochs, lr {rate:g}" + (f", rho {settings.rho:g}" if method == "disalign" else "")
    return (lambda kept: classifier.logits(kept.features)), text


def linear_parts(head: nn.Cell) -> tuple[np.ndarray, np.ndarray]:
    """W (C, D) and b (C,) of the linear classifier that a head is, its learnt scales multiplied in; experts' mean is one too."""
    weight, bias = head.weight.asnumpy().astype(np.float64), head.bias.asnumpy().astype(np.float64)
    if (experts := getattr(head, "experts", 1)) > 1:
        return weight / experts, bias.reshape(experts, -1).mean(axis=0)
    scale = head.calibration.scale.asnumpy().astype(np.float64) if hasattr(head, "calibration") else np.ones(len(bias))
    return weight * scale[:, None], bias * scale


def run_all(
    runs: list[tuple[RunFolder, Recipe]],
    machine: runtime.Runtime,
    settings: Settings,
    checkpoint: str,
    console,
    *,
    named: bool,
) -> dict[str, list[Result]]:
    """Run folder -> results of its methods; each run keeps its own in posthoc/CHECKPOINT/posthoc.json, or posthoc-2.json
    and so on for other settings: nothing is overwritten."""
    wanted = [require(home, recipe, settings, named=named) for home, recipe in runs]
    require_alike(runs, checkpoint)
    found: dict[str, list[Result]] = {}
    for (home, recipe), methods in zip(runs, wanted, strict=True):
        outputs = Outputs(home, recipe, machine, checkpoint)
        results = correct(outputs, settings, methods)
        made = f"features of {', '.join(outputs.computed)} computed" if outputs.computed else "features were there"
        console.say(f"{home.path}: {made}, kept in {outputs.path}")
        head = {"weights_sha256": outputs.weights, "settings": {**vars(settings), "methods": list(methods)}}
        path = numbered(outputs.path / "posthoc.json", lambda old, head=head: _begins_with(old, head))
        write_json(path, head | {"results": [vars(result) for result in results]})
        found[str(home.path)] = results
    return found


def numbered(path: Path, same: Callable[[Path], bool]) -> Path:
    """The first of NAME.EXT, NAME-2.EXT, ... that is not there yet, or holds the same as what is to be written."""
    number, candidate = 1, path
    while candidate.is_file() and not same(candidate):
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def _begins_with(path: Path, head: dict[str, Any]) -> bool:
    try:
        found = json.loads(path.read_text())
        return all(found.get(key) == value for key, value in json.loads(json.dumps(head)).items())
    except (OSError, ValueError, AttributeError):
        return False
