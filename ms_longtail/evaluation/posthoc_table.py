"""The table of post-hoc methods: one run, or the mean and spread over several."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from .metrics import percent
from .report import markdown_table

TITLES = {
    "top1": "top-1",
    "balanced": "balanced",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "harmonic_mean": "harmonic mean",
    "ece": "ECE",
}


def rows(results: dict[str, list[Any]]) -> list[dict[str, str]]:
    """A row per method, in percent of test, over all runs that took it.

    Args:
        results: run -> its results, each with `method`, `setting`, `scores` and `validation`.
    """
    methods = list(dict.fromkeys(result.method for per_run in results.values() for result in per_run))
    table = []
    for method in methods:
        own = [result for per_run in results.values() for result in per_run if result.method == method]
        settings = list(dict.fromkeys(result.setting for result in own))
        row = {"method": method, "setting": " / ".join(settings)} | ({"n": str(len(own))} if len(results) > 1 else {})
        row["validation, balanced"] = mean_and_spread([result.validation for result in own])
        table.append(row | {title: mean_and_spread([r.scores[key] for r in own]) for key, title in TITLES.items()})
    return table


def mean_and_spread(values: list[float | None]) -> str:
    """'71.20', or '71.20 ± 0.83' for several (standard deviation, n - 1); n/a where one is missing."""
    if any(value is None for value in values):
        return "n/a"
    if len(values) == 1:
        return percent(values[0])
    return f"{percent(statistics.mean(values))} ± {100 * statistics.stdev(values):.2f}"


def markdown(results: dict[str, list[Any]], *, checkpoint: str, command: str, keep_bias: bool) -> str:
    """The table as a document."""
    bias = "kept" if keep_bias else "dropped"
    lines = [
        "# Classifiers of finished runs, corrected afterwards",
        f"Runs: {', '.join(f'`{run}`' for run in results)}; checkpoint `{checkpoint}`; accuracy on test in percent"
        + ("; mean ± standard deviation over the runs." if len(results) > 1 else "."),
        markdown_table(rows(results)),
        "Strengths that say so were chosen by balanced accuracy on the validation part; test was measured once. "
        f"`tau_norm` has its bias {bias}. `crt`, `lws` and `disalign` were trained on kept features, without augmentation.",
        f"`{command}`",
    ]
    return "\n\n".join(lines) + "\n"


def curves(path: Path, results: list[Any]) -> None:
    """Balanced accuracy on the validation part over tau, for every method that searched one."""
    from .plots import _save, plt  # matplotlib takes a second to load

    figure, axis = plt.subplots(figsize=(6.5, 4))
    for result in results:
        if result.curve:
            taus, values = zip(*result.curve, strict=True)
            line = axis.plot(taus, [100 * value for value in values], marker=".", label=result.method)[0]
            best = max(result.curve, key=lambda point: (point[1], -point[0]))
            axis.scatter([best[0]], [100 * best[1]], color=line.get_color(), s=70, zorder=3)
    axis.set_xlabel("tau (the large point is chosen)")
    axis.set_ylabel("balanced accuracy on validation, %")
    axis.grid(alpha=0.3)
    axis.legend()
    _save(figure, path)
