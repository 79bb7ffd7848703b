"""The pictures of a report, drawn without a screen."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .metrics import FEW, MANY

COLOURS = {"many": "#1b6ca8", "medium": "#e09f3e", "few": "#9e2a2b"}


def _plain(names: tuple[str, ...]) -> list[str]:
    """Names as they are: a dollar sign would begin a formula."""
    return [name.replace("$", r"\$") for name in names]


def _plain_numbers(axis) -> None:
    """Marks of a logarithmic axis at 1, 2, 5, 10 ... only: a short axis would write powers between them, over each other."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def _save(figure, path: Path) -> None:
    # The temporary name keeps a half-written picture from being seen.
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, dpi=130, format="png", bbox_inches="tight")
    plt.close(figure)
    temporary.replace(path)


def learning_curves(path: Path, lines: list[dict]) -> None:
    """Training loss and learning rate, and the accuracy of the watched part, over the epochs of the whole run."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 6), sharex=True)
    epochs = np.arange(1, len(lines) + 1)
    top.plot(epochs, [line["train_loss"] for line in lines], color="#222222", label="training loss")
    top.set_ylabel("training loss")
    rate = top.twinx()
    rate.plot(epochs, [line["lr"] for line in lines], color="#888888", linestyle=":", label="learning rate")
    rate.set_ylabel("learning rate (dotted)")
    rate.set_ylim(bottom=0)
    part = "validation" if any("validation" in line for line in lines) else "test"
    watched = [(epoch, line[part]) for epoch, line in zip(epochs, lines, strict=True) if part in line]
    marker = "." if len(watched) < 40 else None
    x = [epoch for epoch, _ in watched]
    bottom.plot(x, [100 * scores["top1"] for _, scores in watched], color="#222222", marker=marker, label="all, top-1")
    balanced = [(epoch, 100 * scores["balanced"]) for epoch, scores in watched if "balanced" in scores]
    if any(
        abs(value - 100 * scores["top1"]) > 0.01 for (_, value), (_, scores) in zip(balanced, watched, strict=False)
    ):
        bottom.plot(*zip(*balanced, strict=True), color="#222222", linestyle="--", label="mean over classes")
    for group, colour in COLOURS.items():
        if watched and watched[0][1][group] is not None:
            bottom.plot(x, [100 * scores[group] for _, scores in watched], color=colour, marker=marker, label=group)
    bottom.set_ylabel(f"{part} accuracy, %")
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    bottom.set_ylim(-3, 103)
    bottom.legend(loc="lower right")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        for number in range(1, len(lines)):
            if lines[number]["stage"] != lines[number - 1]["stage"]:
                axis.axvline(number + 0.5, color="#555555", linewidth=0.8)
    for number, line in enumerate(lines):
        if number == 0 or line["stage"] != lines[number - 1]["stage"]:
            place = (max(number + 0.6, 1), 1.01)  # above the frame, where no curve is
            top.annotate(line["name"], place, xycoords=("data", "axes fraction"), va="bottom", fontsize=9)
    _save(figure, path)


def accuracy_by_class(path: Path, per_class: list[float | None], counts: np.ndarray, names: tuple[str, ...]) -> None:
    """A point per class: training images on a logarithmic axis, test accuracy on the other."""
    figure, axis = plt.subplots(figsize=(7.5, 4.5))
    counts = np.asarray(counts)
    values = np.array([np.nan if value is None else 100 * value for value in per_class])
    for group, mask in (("many", counts > MANY), ("medium", (counts >= FEW) & (counts <= MANY)), ("few", counts < FEW)):
        if mask.any():
            axis.scatter(
                counts[mask], values[mask], color=COLOURS[group], label=f"{group} ({mask.sum()})", s=24, zorder=3
            )
            if np.isnan(values[mask]).all():
                continue  # no class of the group has a test image
            axis.hlines(
                np.nanmean(values[mask]), counts[mask].min() * 0.9, counts[mask].max() * 1.1,
                color=COLOURS[group], alpha=0.5,
            )  # fmt: skip
    if len(names) <= 20:
        places: dict[tuple[float, float], list[str]] = {}  # classes at one point share a label
        for x, y, name in zip(counts, values, _plain(names), strict=True):
            places.setdefault((float(x), float(y)), []).append(name)
        middle = np.sqrt(float(counts.min()) * counts.max())
        for place, there in places.items():
            side = {"ha": "left", "xytext": (4, 4)} if place[0] <= middle else {"ha": "right", "xytext": (-4, 4)}
            more = f" + {len(there) - 3}" if len(there) > 3 else ""
            axis.annotate(", ".join(there[:3]) + more, place, textcoords="offset points", fontsize=8, **side)
    axis.set_xscale("log")
    _plain_numbers(axis.xaxis)
    axis.set_xlabel("training images of the class (logarithmic)")
    axis.set_ylabel("test accuracy, %")
    axis.set_ylim(-3, 105)
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
    _save(figure, path)


def confusion_matrix(path: Path, matrix: np.ndarray, names: tuple[str, ...], counts: np.ndarray) -> None:
    """Rows are true classes, largest training class first, as shares of the row; many classes become a plain picture."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    matrix = matrix[np.ix_(order, order)]
    share = matrix / np.maximum(1, matrix.sum(axis=1, keepdims=True))
    size = 6.5 if len(names) <= 30 else 8
    figure, axis = plt.subplots(figsize=(size, size))
    picture = axis.imshow(100 * share, cmap="Blues", vmin=0, vmax=100, interpolation="nearest")
    figure.colorbar(picture, ax=axis, fraction=0.046, label="% of the true class")
    if len(names) <= 30:
        labels = [_plain(names)[i] for i in order]
        axis.set_xticks(range(len(labels)), labels, rotation=60, ha="right", fontsize=8)
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
    if len(names) <= 12:
        for row in range(len(names)):
            for column in range(len(names)):
                if matrix[row, column]:
                    colour = "white" if share[row, column] > 0.6 else "#333333"
                    axis.text(column, row, matrix[row, column], ha="center", va="center", color=colour, fontsize=7)
    axis.set_xlabel("predicted (classes from most to fewest training images)")
    axis.set_ylabel("true class")
    _save(figure, path)


def class_histogram(path: Path, counts: np.ndarray, drawn: dict[str, np.ndarray], names: tuple[str, ...]) -> None:
    """Images per class in the training set, and how often each stage drew the class, per epoch."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    x = np.arange(len(counts))
    figure, axis = plt.subplots(figsize=(7.5, 4.5))
    axis.bar(x, np.asarray(counts)[order], color="#c9c9c9", label="training set", width=1.0 if len(x) > 30 else 0.8)
    styles = ["-", "--", ":", "-."]
    for number, (name, draws) in enumerate(drawn.items()):
        line = {"linestyle": styles[number % len(styles)], "marker": "o" if len(x) <= 30 else None, "markersize": 3}
        axis.plot(x, draws[order], label=f"drawn per epoch in {name}", **line)
    if len(names) <= 30:
        axis.set_xticks(x, [_plain(names)[i] for i in order], rotation=60, ha="right", fontsize=8)
    axis.set_yscale("log")
    _plain_numbers(axis.yaxis)
    axis.set_ylabel("images (logarithmic)")
    axis.set_xlabel("class, from most to fewest training images")
    axis.legend(loc="upper right")  # the counts fall from left to right; looking for the best place takes a second
    axis.grid(alpha=0.3, axis="y")
    _save(figure, path)


def learnt_rates(path: Path, rates: np.ndarray, counts: np.ndarray, names: tuple[str, ...]) -> None:
    """A meta-sampler's rates by class over the epochs, and the share of the draws that each class has by them.

    Args:
        rates: sigmoid(w) at the end of every epoch, (E, C).
    """
    counts = np.asarray(counts, np.float64)
    order = np.argsort(-counts, kind="stable")
    x, many = np.arange(len(counts)), len(counts) > 30
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7.5, 7), sharex=True)
    epochs = np.unique(np.linspace(0, len(rates) - 1, min(5, len(rates))).round().astype(int))
    shades = plt.cm.viridis(np.linspace(0.85, 0.1, len(epochs)))
    style = {"marker": None if many else "o", "markersize": 3, "linewidth": 1}
    top.axhline(0.5, color="#888888", linestyle=":", label="at the beginning")
    bottom.plot(
        x, 100 * (counts / counts.sum())[order], color="#888888", linestyle=":", label="at the beginning: as the images"
    )
    bottom.axhline(100 / len(counts), color="#888888", linestyle="--", label="all classes equally often")
    for epoch, colour in zip(epochs, shades, strict=True):
        top.plot(x, rates[epoch][order], color=colour, label=f"after epoch {epoch + 1}", **style)
        share = counts * rates[epoch]
        bottom.plot(x, 100 * (share / share.sum())[order], color=colour, label=f"after epoch {epoch + 1}", **style)
    top.set_ylabel("rate, sigmoid(w)")
    bottom.set_ylabel("share of the draws, %")
    bottom.set_yscale("log")
    _plain_numbers(bottom.yaxis)
    bottom.set_xlabel("class, from most to fewest training images")
    if not many:
        bottom.set_xticks(x, [_plain(names)[i] for i in order], rotation=60, ha="right", fontsize=8)
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, loc="upper right")
    _save(figure, path)
