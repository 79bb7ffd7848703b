"""The end of a run: final numbers, logits, pictures, report."""

from __future__ import annotations

import json

import numpy as np

from ..evaluation import evaluate
from ..evaluation.metrics import confusion
from ..evaluation.report import markdown
from ..recipe import to_yaml
from .folder import write_json, write_text
from .handover import load_weights
from .plan import StagePlan, describe
from .reuse import note
from .train import Run


def finish(run: Run) -> dict:
    """Evaluate the last weights (and the best ones on validation) on the test set; write everything that is left.

    Returns:
        {"last": scores, "best": scores (with a validation part)}, as in result.json.
    """
    counts, test = run.data.class_counts, run.data.splits.test
    logits, labels = run.outputs(test)
    scores = {"last": evaluate(logits, labels, counts)}
    best = run.folder.checkpoints / "best.ckpt"
    if run.position.best is not None:
        if run.machine.main:  # the others get the weights when outputs are asked for
            load_weights(run.model, best)
        scores["best"] = evaluate(*run.outputs(test), counts)
        scores["best"]["chosen_by_validation"] = run.position.best
        if run.machine.main:
            load_weights(run.model, run.folder.checkpoints / "last.ckpt")
    if not run.machine.main:
        return scores
    lines = run.folder.read_metrics()
    np.savez_compressed(run.folder.path / ".logits.tmp.npz", logits=logits.astype(np.float32), labels=labels)
    (run.folder.path / ".logits.tmp.npz").replace(run.folder.path / "logits.npz")
    _draw_figures(run, scores, logits, labels, lines)
    environment = json.loads((run.folder.path / "environment.json").read_text())
    named = {f"last of stage {run.plan[-1].stage.name}": scores["last"]}
    if "best" in scores:
        chosen = run.position.best
        how = f"by {chosen.get('by', 'top1')}, stage {chosen['stage']}, epoch {chosen['epoch']}"
        named[f"best on validation ({how})"] = scores["best"]
    report = markdown(
        title=run.folder.path.name,
        description="\n\n".join(filter(None, [run.recipe.plain.get("description", ""), note(run.folder)])),
        results=named,
        counts=counts,
        names=test.class_names,
        split=run.data.description,
        plan=describe(run.plan, lines),
        lines=lines,
        environment=environment,
        recipe=to_yaml(run.recipe),
    )
    write_text(run.folder.report, report)
    # Last: a folder with result.json is a finished one.
    write_json(run.folder.result, scores | {"skipped_steps": lines[-1]["skipped_steps"] if lines else 0})
    return scores


def _draw_figures(run: Run, scores: dict, logits: np.ndarray, labels: np.ndarray, lines: list[dict]) -> None:
    from ..evaluation import plots  # matplotlib takes a second to load; training does not need it

    counts, names = run.data.class_counts, run.data.splits.test.class_names
    folder = run.folder.figures
    plots.learning_curves(folder / "learning_curves.png", lines)
    plots.accuracy_by_class(folder / "accuracy_by_class.png", scores["last"]["per_class"], counts, names)
    trained_on = run.data.splits.train.labels
    drawn = {plan.stage.name: draws_by_class(plan, trained_on, len(names), lines) for plan in run.plan}
    plots.class_histogram(folder / "classes.png", counts, drawn, names)
    for plan in run.plan:
        learnt = [
            line["learnt"]["rate"]
            for line in lines
            if line["stage"] == plan.number + 1 and "rate" in line.get("learnt", {})
        ]
        if learnt:
            plots.learnt_rates(folder / f"rates-{plan.stage.name}.png", np.array(learnt), counts, names)
    if len(names) <= 1000:
        plots.confusion_matrix(folder / "confusion.png", confusion(logits, labels), names, counts)


def draws_by_class(plan: StagePlan, labels: np.ndarray, classes: int, lines: list[dict]) -> np.ndarray:
    """How often a stage drew each class per epoch on average, (C,): from its order, or from the log where it has learnt it."""
    total = np.zeros(classes)
    if plan.follows:
        counted = [line["learnt"]["drawn"] for line in lines if line["stage"] == plan.number + 1]
        return np.mean(counted, axis=0) if counted else total
    # An early end leaves epochs out, a sunk epoch its last draws.
    epochs = max(1, sum(line["stage"] == plan.number + 1 for line in lines))
    for epoch in range(epochs):
        drawn = plan.order(plan.first_epoch + epoch)[: plan.epoch_draws]
        total += np.bincount(labels[drawn], minlength=classes)
    return total / epochs
