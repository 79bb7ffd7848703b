"""The picture of a network's features: the angles between classes, the images in two dimensions, and the numbers."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Normalize
from threadpoolctl import threadpool_limits

from .. import hashing
from .geometry import rows_by_class, unit
from .metrics import groups
from .plots import COLOURS, _plain, _save, plt

SHOWN = 2000  # images in two dimensions
FEWEST = 30  # with fewer images t-SNE has no neighbourhoods to keep
NAMED = 20  # classes that have a name and a colour of their own
SHORT = 4  # letters of a name that fits among the points


def table_rows(found: dict[str, Any]) -> list[dict[str, str]]:
    """The numbers of `geometry`, a row per group."""

    def text(value: float | None) -> str:
        return "n/a" if value is None else f"{value:.3f}"

    titles = ("cosine, mean", "spread", "largest deviation")
    keys = ("cosine_mean", "cosine_spread", "cosine_deviation")
    return [
        {"group": name, "classes": str(row["classes"]), "images": f"{row['images']:,}"}
        | {"alignment": text(row["alignment"]), "uniformity": text(row["uniformity"])}
        | {title: text(row[key]) for title, key in zip(titles, keys, strict=True)}
        for name, row in found["groups"].items()
    ]


def choose_images(labels: np.ndarray, classes: int, most: int = SHOWN) -> np.ndarray:
    """At most `most` rows, in order: one image of every class, then a second one, and so on, each class in hashed order."""
    key = hashing.bits(0, np.arange(len(labels)), "projection", 1)[:, 0]
    turn = np.empty(len(labels), np.int64)
    for rows in rows_by_class(labels, classes):
        turn[rows[np.argsort(key[rows], kind="stable")]] = np.arange(len(rows))
    return np.sort(np.lexsort((key, turn))[:most])


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
    """((N, 2), name of the method) of the directions: t-SNE (van der Maaten and Hinton, JMLR 2008) from the principal
    components on, or these alone for fewer than `FEWEST` images. The same every time: seed 0, on one thread."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    z = unit(features)
    with threadpool_limits(1):  # sums of several threads differ in the last digit, which t-SNE makes large
        size = min(50, *z.shape)  # as its authors do
        components = PCA(size, svd_solver="full").fit_transform(z)
        if len(z) < FEWEST or np.ptp(components[:, 0]) < 1e-9:
            flat = np.zeros((len(z), 2))
            flat[:, : min(2, size)] = components[:, :2]
            return flat, "PCA"
        start = components[:, :2] / components[:, 0].std() * 1e-4
        perplexity = min(30.0, (len(z) - 1) / 3)
        return TSNE(init=start, perplexity=perplexity, random_state=0).fit_transform(components), "t-SNE"


def geometry_figure(
    path: Path,
    found: dict[str, Any],
    features: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray,
    names: tuple[str, ...],
    title: str,
) -> None:
    """Left the cosines of the class means, right the images, below the numbers.

    Args:
        found: of `geometry`. features: (N, D). labels: (N,). class_counts: training images (C,). names: of the classes.
        title: above all.
    """
    order = np.argsort(-np.asarray(class_counts), kind="stable")
    order = order[np.isin(order, labels)]  # classes without an image have neither angle nor point
    if len(order) <= NAMED:
        palette = colormaps["tab10" if len(order) <= 10 else "tab20"].colors
        colours = {int(c): palette[rank] for rank, c in enumerate(order)}
    else:
        colours = {int(c): COLOURS[group] for group, mask in groups(class_counts).items() for c in np.flatnonzero(mask)}
    figure = plt.figure(figsize=(12, 7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(6, 1.05), hspace=0.04, wspace=0.03)
    left, right, below = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1]), figure.add_subplot(grid[1, :])
    # Long names would hide the points: classes then go by their numbers, which stand before the names on the left.
    keys = {int(c): name for c, name in enumerate(_plain(names))}
    full = {c: textwrap.shorten(name, 24, placeholder="…") for c, name in keys.items()}
    if max(len(names[c]) for c in order) > SHORT:
        keys = {int(c): str(rank) for rank, c in enumerate(order, 1)}
        full = {c: f"{full[c]} ({class_counts[c]})  {key}" for c, key in keys.items()}
    else:
        full = {c: f"{name} ({class_counts[c]})" for c, name in full.items()}
    _heat_map(figure, left, found, order, np.asarray(class_counts), keys, full)
    _points(right, features, labels, order, colours, keys)
    _numbers(below, found)
    figure.suptitle("\n".join(textwrap.wrap(_plain((title,))[0], 110)), fontsize=11)
    _save(figure, path)


def _heat_map(
    figure, axis, found: dict[str, Any], order: np.ndarray, counts: np.ndarray, keys: dict, full: dict
) -> None:
    cosines, simplex = found["cosines"][np.ix_(order, order)], found["simplex"]
    np.fill_diagonal(cosines, np.nan)  # a class with itself
    white = 0.0 if simplex is None else simplex
    colours = colormaps["RdBu_r"].with_extremes(bad="#d9d9d9")
    picture = axis.imshow(cosines, cmap=colours, norm=Normalize(2 * white - 1, 1), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axis, fraction=0.046, pad=0.03)
    bar.ax.set_ylim(-1, 1)
    bar.ax.tick_params(labelsize=8)
    heading = "cosine between two classes, seen from the middle of all"
    if simplex is not None:
        bar.ax.axhline(simplex, color="black", linewidth=1.5)
        heading += f"\nwhite, line in the bar: regular simplex, {simplex:.3f}"
    axis.set_title(heading, fontsize=9)
    if len(order) > NAMED:
        edges = np.cumsum([(mask[order]).sum() for mask in groups(counts).values()])[:-1] - 0.5
        for edge in edges[(edges > 0) & (edges < len(order) - 1)]:
            axis.axhline(edge, color="black", linewidth=0.8)
            axis.axvline(edge, color="black", linewidth=0.8)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("classes, from most to fewest training images (lines: groups)", fontsize=9)
        return
    axis.set_xticks(range(len(order)), [keys[c] for c in order], fontsize=8)
    axis.set_yticks(range(len(order)), [full[c] for c in order], fontsize=8)
    axis.set_xlabel("classes, from most to fewest training images (in brackets)", fontsize=9)
    if len(order) <= 12:
        for row, column in np.argwhere(~np.isnan(cosines)):
            value = cosines[row, column]
            colour = "white" if abs(value - white) > 0.65 * (1 - white) else "#222222"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=7)


def _points(axis, features: np.ndarray, labels: np.ndarray, order: np.ndarray, colours: dict, keys: dict) -> None:
    rows = choose_images(labels, labels.max() + 1)
    (flat, method), own = project(features[rows]), labels[rows]
    axis.scatter(*flat.T, c=[colours[int(c)] for c in own], s=9 if len(rows) > 300 else 16, linewidths=0, alpha=0.75)
    means = {int(c): flat[own == c].mean(axis=0) for c in order if (own == c).any()}
    if len(order) <= NAMED:
        for c, place in means.items():
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colours[c], "alpha": 0.8}
            axis.text(*place, keys[c], ha="center", va="center", fontsize=8, bbox=box)
        hue, what = "class", "in a box: the class, at the mean of its images"
    else:
        size = 30 if len(means) <= 200 else 10
        axis.scatter(
            *np.array(list(means.values())).T, c=[colours[c] for c in means], s=size, edgecolors="black", linewidths=0.6
        )
        for group, colour in COLOURS.items():
            axis.scatter([], [], color=colour, label=group)
        axis.legend(fontsize=8, loc="best")
        hue, what = "group", "framed points: class means"
    axis.set_title(f"{method} of {len(rows):,} of {len(labels):,} images, by {hue}\n{what}", fontsize=9)
    axis.set_box_aspect(1)
    axis.set_xticks([])
    axis.set_yticks([])


def _numbers(axis, found: dict[str, Any]) -> None:
    rows = [row for row in table_rows(found) if row["classes"] != "0"]
    axis.set_axis_off()
    text = [list(row.values()) for row in rows]
    table = axis.table(text, colLabels=list(rows[0]), loc="center", cellLoc="center", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(list(range(len(rows[0]))))
    table.scale(1, 1.15)
    for cell in table.get_celld().values():
        cell.set(edgecolor="#bbbbbb", linewidth=0.8)
