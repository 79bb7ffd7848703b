"""The pictures of an inspection: class sizes, and pairs of near-duplicates side by side."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .metrics import FEW, MANY, groups
from .plots import COLOURS, _plain, _save, plt

CONFLICT = "#c1121f"
LOWEST = 0.5  # where a logarithmic axis begins that is to show a single image
CELL = 220  # pixels of the square that an image of a pair is drawn into


@dataclass(frozen=True)
class Pair:
    """Two images (H, W, 3) uint8, what is written below them, and whether their labels differ."""

    left: np.ndarray
    right: np.ndarray
    lines: list[str]
    conflict: bool


def class_sizes(path: Path, parts: dict[str, np.ndarray], names: tuple[str, ...], title: str) -> None:
    """A panel per part: images of every class (C,), sorted by training images, logarithmic, coloured by group."""
    train = np.asarray(parts["train"])
    order = np.argsort(-train, kind="stable")
    x, many = np.arange(len(train)), len(train) > 60
    width = 7.5 if len(train) <= 30 else 10
    figure, axes = plt.subplots(
        len(parts), 1, figsize=(width, 1.1 + 2.9 * len(parts)), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (part, counts) in zip(axes[:, 0], parts.items(), strict=True):
        counts = np.asarray(counts)
        for group, mask in groups(train).items():
            here = x[mask[order]]
            if not len(here):
                continue
            label = f"{group}: {_classes(mask.sum())}, {counts[mask].sum():,} images"
            if many:  # one shape instead of thousands of bars; a group's classes are neighbours
                edges = np.append(here, here[-1] + 1) - 0.5
                axis.stairs(counts[order][here], edges, baseline=LOWEST, fill=True, color=COLOURS[group], label=label)
            else:
                axis.bar(here, counts[order][here], color=COLOURS[group], width=0.8, label=label)
        empty = x[counts[order] == 0]
        if len(empty):
            label, mark = f"no image: {_classes(len(empty))}", "|" if many else "x"
            axis.plot(empty, np.full(len(empty), 0.6), mark, color="#111111", markersize=4, label=label)
        if part == "train":
            for bound in (MANY, FEW):
                axis.axhline(bound, color="#555555", linestyle=":", linewidth=1, zorder=3)
        axis.set_yscale("log")
        axis.set_ylim(LOWEST, 1.6 * max(10, counts.max(initial=1)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_ylabel(f"{part} images")
        axis.set_axisbelow(True)
        axis.grid(alpha=0.3, axis="y")
        axis.legend(fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False)
        axis.set_xlim(-0.7, len(train) - 0.3)
    last = axes[-1, 0]
    last.set_xlabel("classes, from most to fewest training images (dotted: 100 and 20 training images)")
    if not many:
        labels = [textwrap.shorten(_plain(names)[i], 18, placeholder="…") for i in order]
        last.set_xticks(
            x, labels, rotation=60 if len(train) <= 30 else 90, ha="right" if len(train) <= 30 else "center"
        )
        last.tick_params(axis="x", labelsize=8 if len(train) <= 30 else 6)
    figure.suptitle(_plain((title,))[0], fontsize=10)
    _save(figure, path)


def _classes(count: int) -> str:
    return f"{count:,} class" if count == 1 else f"{count:,} classes"


def contact_sheet(path: Path, pairs: list[Pair], title: str, across: int = 4) -> None:
    """Pairs side by side in their order; a red frame where the labels differ."""
    across = min(across, len(pairs))
    down = -(-len(pairs) // across)
    lines = max(len(pair.lines) for pair in pairs)
    tall, wide = 1.3, 2.7
    text = 0.14 * lines + 0.16
    figure, axes = plt.subplots(
        down, across, figsize=(wide * across, (tall + text) * down), squeeze=False,
        gridspec_kw={
            "wspace": 0.08, "hspace": text / tall, "left": 0, "right": 1, "bottom": text / ((tall + text) * down), "top": 1,
        },
    )  # fmt: skip
    for axis in axes.flat[len(pairs) :]:
        axis.set_axis_off()
    gap = np.full((CELL, CELL // 22, 3), 255, np.uint8)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        axis.imshow(np.concatenate([_square(pair.left), gap, _square(pair.right)], axis=1))
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set(color=CONFLICT if pair.conflict else "#bbbbbb", linewidth=2.2 if pair.conflict else 0.8)
        shown = [textwrap.shorten(line, 46, placeholder="…") for line in _plain(tuple(pair.lines))]
        colour = CONFLICT if pair.conflict else "#222222"
        axis.text(
            0.5, -0.04, "\n".join(shown), transform=axis.transAxes, ha="center", va="top", fontsize=7, color=colour
        )
    height = figure.get_size_inches()[1]
    wrapped = "\n".join(textwrap.wrap(_plain((title,))[0], 34 * across))
    figure.text(0.5, 1 + 0.12 / height, wrapped, ha="center", va="bottom", fontsize=9)
    _save(figure, path)


def _square(image: np.ndarray) -> np.ndarray:
    """An image fitted into a grey square, small ones enlarged to whole pixels."""
    height, width = image.shape[:2]
    scale = CELL / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    square = np.full((CELL, CELL, 3), 232, np.uint8)
    top, left = (CELL - size[1]) // 2, (CELL - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = image
    return square
