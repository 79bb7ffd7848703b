"""The picture of a gallery: every recipe's mean and spread on one axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .gallery import Summary, with_spread
from .plots import COLOURS, _plain, _save, plt


def gallery(path: Path, summaries: list[Summary], baseline: str | None = None) -> None:
    """A row per recipe, the best on top: balanced accuracy with its spread, and the three groups as coloured marks.

    Args:
        summaries: recipes without a finished run are left out.
        baseline: the recipe whose mean is drawn as a line through all rows.
    """
    shown = [s for s in summaries if s.n]
    shown.sort(key=lambda s: s.mean["balanced"])
    rows = np.arange(len(shown))
    figure, axis = plt.subplots(figsize=(9, 1.3 + 0.42 * len(shown)))
    axis.set_axisbelow(True)
    axis.grid(alpha=0.3, axis="x")
    for row in rows[::2]:
        axis.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", zorder=0)
    means = np.array([100 * s.mean["balanced"] for s in shown])
    spreads = np.array([100 * (s.spread["balanced"] or 0.0) for s in shown])
    seeds = sorted({s.n for s in shown})
    count = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    axis.errorbar(
        means, rows + 0.15, xerr=spreads, fmt="o", color="#111111", ecolor="#111111", markersize=6, capsize=3, elinewidth=1.4,
        label=f"balanced accuracy, mean ± spread of {count} seed{'s' if seeds[-1] > 1 else ''}", zorder=4,
    )  # fmt: skip
    reference = next((s for s in shown if s.entry.recipe == baseline), None)
    if reference is not None:
        label = f"balanced accuracy of {_plain((baseline,))[0]}"
        axis.axvline(
            100 * reference.mean["balanced"], color="#444444", linestyle="--", linewidth=1, label=label, zorder=2
        )
    # The groups have a line of their own below the mean, or a mark of theirs could lie hidden under it.
    for row, s in enumerate(shown):
        present = [100 * s.mean[group] for group in COLOURS if s.mean[group] is not None]
        axis.hlines(row - 0.2, min(present), max(present), color="#bbbbbb", linewidth=1.2, zorder=2)
    for group, colour in COLOURS.items():
        marks = [(100 * s.mean[group], row - 0.2) for row, s in enumerate(shown) if s.mean[group] is not None]
        if marks:
            x, y = zip(*marks, strict=True)
            axis.scatter(x, y, color=colour, s=20, label=f"{group}, mean", zorder=3)
    axis.set_yticks(rows, _plain(tuple(s.entry.recipe for s in shown)))
    axis.set_ylim(-0.6, len(shown) - 0.4)
    axis.set_xlabel("test accuracy, %")
    for label, s in zip(axis.get_yticklabels(), shown, strict=True):
        label.set_fontweight("bold" if s is reference else "normal")
    numbers = axis.secondary_yaxis("right")  # the numbers themselves, where no mark can cover them
    numbers.set_yticks(rows, [with_spread(s.mean["balanced"], s.spread["balanced"]) for s in shown])
    numbers.tick_params(length=0)
    axis.annotate("balanced, %", (1.01, 1.0), xycoords="axes fraction", va="bottom", fontsize=8.5)
    numbers.spines["right"].set_visible(False)
    axis.legend(loc="lower left", bbox_to_anchor=(-0.01, 0.995), ncols=3, fontsize=8.5, frameon=False)
    _save(figure, path)
