"""report.md: what was run, on what, and what came out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .metrics import FEW, MANY, groups, percent

COLUMNS = {
    "top1": "top-1",
    "top5": "top-5",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "balanced": "balanced",
    "macro_f1": "macro F1",
    "harmonic_mean": "harmonic mean",
    "ece": "ECE",
}


def score_row(label: str, scores: dict[str, Any], names: tuple[str, ...] = ()) -> dict[str, str]:
    """One line of a table of results, in percent."""
    row = {"weights": label} | {title: percent(scores[key]) for key, title in COLUMNS.items()}
    worst = scores["worst"]
    name = names[worst["class"]] if names else str(worst["class"])
    return row | {"worst class": f"{name} {percent(worst['accuracy'])}"}


def _counted(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items())


def group_text(scores: dict[str, Any], counts: np.ndarray) -> str:
    """The definition of head, middle and tail, and how many classes each has here."""
    sizes = {name: int(mask.sum()) for name, mask in groups(counts).items()}
    return (
        f"classes with many images: more than {MANY} for training ({sizes['many']} of {len(counts)}), "
        f"medium: {FEW} to {MANY} ({sizes['medium']}), few: fewer than {FEW} ({sizes['few']})"
    )


def markdown_table(rows: list[dict[str, str]]) -> str:
    head = list(rows[0])
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(
        lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row.values()) + " |" for row in rows]
    )


def hardware(environment: dict[str, Any]) -> str:
    """What computed, in words."""
    text = f"{environment['processor']} ({environment['cores']} cores)"
    convolution = environment.get("convolution")
    return text if convolution is None else f"{text}, convolution {convolution}"


def markdown(
    *,
    title: str,
    description: str,
    results: dict[str, dict[str, Any]],
    counts: np.ndarray,
    names: tuple[str, ...],
    split: dict[str, Any],
    plan: list[dict[str, str]],
    lines: list[dict[str, Any]],
    environment: dict[str, Any],
    recipe: str,
) -> str:
    """The report as Markdown; its pictures lie in figures/."""
    part = "validation" if "validation" in split["counts"] else "test"
    seconds = sum(line["train_seconds"] for line in lines)
    skipped = lines[-1]["skipped_steps"] if lines else 0
    scores = next(iter(results.values()))
    rows = [score_row(label, result, names) for label, result in results.items()]
    per_class = [
        {
            "class": names[c],
            "training images": str(counts[c]),
            **{label: percent(result["per_class"][c]) for label, result in results.items()},
        }
        for c in np.argsort(-np.asarray(counts), kind="stable")
    ]
    ends = [
        {"after": line["name"], **{key: percent(line["test"][key]) for key in ("top1", "many", "medium", "few")}}
        for line, following in zip(lines, [*lines[1:], {"stage": None}], strict=True)
        if line["stage"] != following["stage"] and "test" in line
    ]
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    text = [
        f"# {title}",
        description,
        f"Test set of {scores['n']} images, in percent. {group_text(scores, counts).capitalize()}; an empty group is n/a. "
        "Group figures are means of per-class accuracies.",
        markdown_table(rows),
        f"## Data\n\n{split['data']}: {_counted(split['images'])} images, imbalance factor {split['imbalance_factor']:g}, "
        f"training indices SHA-256 `{split['train_sha256'][:16]}…`.",
        "![images per class, and what each stage drew](figures/classes.png)",
        f"## Training\n\n{seconds:.0f} s of training (evaluation and saving apart), {skipped} steps left out as not finite, "
        f"{lines[-1]['unreadable_images'] if lines else 0} unreadable images. Curves: {part} part.",
        markdown_table(plan),
        "Test accuracy at the end of each stage:\n\n" + markdown_table(ends) if len(ends) > 1 else "",
        "![learning curves](figures/learning_curves.png)",
        "## By class\n\n![accuracy over class size](figures/accuracy_by_class.png)",
        "![confusion matrix](figures/confusion.png)" if len(names) <= 1000 else "",
        markdown_table(per_class) if len(names) <= 100 else f"The {len(names)} classes' accuracies are in result.json.",
        f"## How\n\n`{environment['command']}`, commit {environment['commit']}, {environment['device']}, "
        f"{environment['ranks']} worker(s), {hardware(environment)}, "
        f"Python {environment['python']}, {versions}.",
        f"```yaml\n{recipe}```",
    ]
    return "\n\n".join(part for part in text if part) + "\n"
