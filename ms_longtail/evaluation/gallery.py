"""Many runs in one table: mean and spread over seeds. Rows in, numbers and text out."""

from __future__ import annotations

import csv
import io
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .metrics import FEW, MANY
from .report import hardware, markdown_table

# Key of a row -> title of its column. All but the seconds are shares of 1.
SCORES = {
    "top1": "top-1",
    "balanced": "balanced",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "worst": "worst class",
    "harmonic_mean": "harmonic mean",
}


@dataclass(frozen=True)
class Row:
    """One run: a recipe with a seed.

    Attributes:
        recipe: how the table calls it. seed: of the run.
        status: "finished", "failed", or "open" (not finished yet).
        folder: of the run, "" while there is none.
        scores: the keys of SCORES, shares of 1; None for a group without classes. Empty unless finished.
        seconds: of training, evaluation apart. reused: stages taken from another run, their time is in `seconds`.
        error: the last line of a failed run.
    """

    recipe: str
    seed: int
    status: str = "open"
    folder: str = ""
    scores: dict[str, float | None] = field(default_factory=dict)
    seconds: float | None = None
    reused: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Entry:
    """A recipe in the table: how it is called, its file, its description, and its optimizer steps in all stages."""

    recipe: str
    path: str
    description: str
    steps: int


@dataclass(frozen=True)
class Summary:
    """A recipe over its finished seeds. `mean` and `spread` have the keys of SCORES and "seconds"."""

    entry: Entry
    n: int
    mean: dict[str, float | None]
    spread: dict[str, float | None]


def scores_of(result: dict[str, Any]) -> dict[str, float | None]:
    """What the table takes from the scores of one evaluation (`metrics.evaluate`)."""
    return {key: result["worst"]["accuracy"] if key == "worst" else result[key] for key in SCORES}


def mean_and_spread(values: list[float | None]) -> tuple[float | None, float | None]:
    """(mean, sample standard deviation with n - 1); None where there is no value, or one only for the deviation.

    Example:
        >>> mean_and_spread([0.5, 0.7])
        (0.6, 0.14142135623730948)
        >>> mean_and_spread([0.5])
        (0.5, None)
    """
    present = [value for value in values if value is not None]
    if not present:
        return None, None
    return statistics.fmean(present), statistics.stdev(present) if len(present) > 1 else None


def summarise(entries: list[Entry], rows: list[Row]) -> list[Summary]:
    """A summary per recipe, the best mean balanced accuracy first, those without a finished run last."""
    result = []
    for entry in entries:
        own = [row for row in rows if row.recipe == entry.recipe and row.status == "finished"]
        values = {key: [row.scores[key] for row in own] for key in SCORES} | {"seconds": [row.seconds for row in own]}
        both = {key: mean_and_spread(numbers) for key, numbers in values.items()}
        mean, spread = ({key: pair[i] for key, pair in both.items()} for i in (0, 1))
        result.append(Summary(entry, len(own), mean, spread))
    return sorted(result, key=lambda s: (s.n == 0, -(s.mean["balanced"] or 0.0)))


def with_spread(mean: float | None, spread: float | None) -> str:
    """'78.25 ± 0.51' in percent; without a spread the mean alone, "n/a" for an empty group."""
    if mean is None:
        return "n/a"
    return f"{100 * mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def markdown(
    *, title: str, summaries: list[Summary], rows: list[Row], environments: list[dict[str, Any]], command: str
) -> str:
    """gallery.md: the table, what did not finish, and how it was made. The picture lies beside it."""
    finished = sum(row.status == "finished" for row in rows)
    seeds = sorted({row.seed for row in rows})
    best = _best(summaries)
    table = []
    for summary in summaries:
        line = {"recipe": f"`{summary.entry.recipe}`", "n": str(summary.n)}
        for key, heading in SCORES.items():
            text = with_spread(summary.mean[key], summary.spread[key]) if summary.n else ""
            line[heading] = f"**{text}**" if (summary.entry.recipe, key) in best else text
        line["steps"] = f"{summary.entry.steps:,}"
        line["time, s"] = "" if summary.mean["seconds"] is None else f"{summary.mean['seconds']:.1f}"
        table.append(line | {"what": summary.entry.description, "file": f"`{summary.entry.path}`"})
    failed = [
        f"- `{row.recipe}`, seed {row.seed} ({row.folder or 'no run folder'}): {row.error}"
        for row in rows
        if row.status == "failed"
    ]
    borrowed = sum(bool(row.reused) for row in rows)
    text = [
        f"# {title}",
        f"{finished} of {len(rows)} runs finished. Recipes: {len(summaries)}, seeds: {', '.join(map(str, seeds))}.",
        "Test accuracy of the last weights in percent: mean ± sample standard deviation (n - 1) over n seeds; best means bold. "
        f"Many: classes with more than {MANY} training images, medium: {FEW} to {MANY}, few: fewer than {FEW}, each the mean of "
        "its per-class accuracies (n/a: no such class). Balanced: the mean over all classes. Steps: optimizer steps in all "
        "stages. Time: seconds of training per run, evaluation apart.",
        markdown_table(table),
        "![mean and spread of every recipe](gallery.png)" if finished else "",
        "## Failed runs\n\n" + "\n".join(failed) if failed else "",
        f"## How\n\n`{command}`",
        "\n\n".join(_machine(environment) for environment in environments),
        f"Stages that several recipes share were trained once: {borrowed} of the runs took theirs from another run of this "
        "folder, bit for bit what they would have come to. Their time counts as if they had trained them."
        if borrowed
        else "",
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def _best(summaries: list[Summary]) -> set[tuple[str, str]]:
    """(recipe, key) of the best means, among the recipes with as many seeds as any; equal ones are all best."""
    most = max((s.n for s in summaries), default=0)
    full = [s for s in summaries if s.n == most and most]
    best = set()
    for key in SCORES:
        means = {s.entry.recipe: s.mean[key] for s in full if s.mean[key] is not None}
        if len(means) > 1 and max(means.values()) > 0:
            best |= {(name, key) for name, mean in means.items() if mean == max(means.values())}
    return best


def _machine(environment: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return (
        f"Commit {environment['commit']}, {environment['device']}, {environment['ranks']} worker(s), "
        f"{hardware(environment)}, Python {environment['python']}, {versions}."
    )


def table_csv(summaries: list[Summary]) -> str:
    """gallery.csv: a line per recipe; accuracies are shares of 1, a value that does not exist is empty."""
    keys = [*SCORES, "seconds"]
    head = [
        "recipe",
        "path",
        "description",
        "n",
        "steps",
        *(f"{key}_{what}" for key in keys for what in ("mean", "sd")),
    ]
    lines = []
    for s in summaries:
        numbers = [value for key in keys for value in (s.mean[key], s.spread[key])]
        lines.append([s.entry.recipe, s.entry.path, s.entry.description, s.n, s.entry.steps, *numbers])
    return _csv(head, lines)


def runs_csv(rows: list[Row]) -> str:
    """runs.csv: a line per run; accuracies are shares of 1."""
    head = ["recipe", "seed", "status", "folder", *SCORES, "seconds", "reused", "error"]
    lines = [
        [
            *(row.recipe, row.seed, row.status, row.folder),
            *(row.scores.get(key) for key in SCORES),
            *(row.seconds, " ".join(row.reused), row.error),
        ]
        for row in rows
    ]
    return _csv(head, lines)


def _csv(head: list[str], lines: list[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(["" if value is None else value for value in line] for line in lines)
    return text.getvalue()


def find_baseline(entries: list[Entry], wanted: str) -> str | None:
    """The recipe that `wanted` names: by its name in the table, else the only one whose file is called so.

    Example:
        >>> find_baseline([Entry("digits/ce", "configs/digits/ce.yaml", "", 10)], "ce")
        'digits/ce'
    """
    exact = [entry.recipe for entry in entries if entry.recipe == wanted]
    by_file = [entry.recipe for entry in entries if Path(entry.path).stem == wanted]
    return exact[0] if exact else by_file[0] if len(by_file) == 1 else None
