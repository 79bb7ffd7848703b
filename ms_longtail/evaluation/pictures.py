"""Pictures of what training sees: foregrounds and their moves, the images of a step, what samplers draw. Arrays in, PNG out."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from .plots import _plain, _save, plt

OWN, DRAWN, DISTINCT, COUNTS = "#9e2a2b", "#1b6ca8", "#e09f3e", "#c9c9c9"
CHANGES = ("#58a4d8", "#0a2a43")  # of the first and the last epoch
SMALL = 100  # pixels: images below it are shown pixel by pixel


@dataclass(frozen=True)
class CamRow:
    """One image (H, W, 3) uint8; its map and foreground, (H, W); the box (left, top, right, bottom) or None; the moved images."""

    class_name: str
    count: int
    probability: float
    index: int
    image: np.ndarray
    heat: np.ndarray
    mask: np.ndarray
    box: tuple[int, int, int, int] | None
    moved: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Tile:
    """One image of a step, or the two that are blended inside the network, (H, W, 3) uint8; and what is written below."""

    images: list[np.ndarray]
    lines: list[str]


@dataclass(frozen=True)
class SamplerPanel:
    """What a sampler draws: per class and epoch on average, and different images in all epochs, (C,).

    `changes` holds single epochs of a sampler that changes: name -> draws (C,). `stages` are those of the recipe that use it.
    """

    name: str
    mean: np.ndarray
    distinct: np.ndarray
    epoch_draws: int
    stages: list[str] = field(default_factory=list)
    changes: dict[str, np.ndarray] = field(default_factory=dict)


def cam_figure(path: Path, rows: list[CamRow], title: str) -> None:
    """A row per image: as read, activation map, foreground, and a column for every transformation."""
    columns = ["image", "activation map", "foreground", *rows[0].moved]
    shapes = [float(np.clip(row.image.shape[0] / row.image.shape[1], 0.5, 1.6)) for row in rows]
    cell = 1.6
    width, height = cell * len(columns), cell * sum(shapes)
    figure, axes = plt.subplots(
        len(rows), len(columns), figsize=(width, height), squeeze=False,
        gridspec_kw={"height_ratios": shapes, "wspace": 0.06, "hspace": 0.08, "left": 0, "right": 1, "bottom": 0, "top": 1},
    )  # fmt: skip
    for row, line in zip(rows, axes, strict=True):
        dimmed = np.where(row.mask[..., None] > 0, row.image, row.image // 4)
        for axis, image in zip(
            line, [row.image, overlay(row.image, row.heat), dimmed, *row.moved.values()], strict=True
        ):
            _image(axis, image)
        if row.box is None:
            line[2].set_xlabel("flat map: nothing is moved", fontsize=7)
        else:
            left, top, right, bottom = row.box
            corner, sides = (left - 0.5, top - 0.5), (right - left + 1, bottom - top + 1)
            line[2].add_patch(Rectangle(corner, *sides, fill=False, color="#ffb000", linewidth=2.6, clip_on=False))
        line[2].add_collection(LineCollection(outline(row.mask), colors="#00e5ff", linewidths=1.1, clip_on=False))
        label = textwrap.fill(_plain((row.class_name,))[0], 22)
        images = "1 training image" if row.count == 1 else f"{row.count} training images"
        label += f"\n{images}\nmoved: {100 * row.probability:.0f} % of draws\nimage {row.index}"
        line[0].text(-0.06, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=8)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    _title(figure, title, above=0.4)
    _save(figure, path)


def batch_figure(path: Path, tiles: list[Tile], title: str) -> None:
    """The images of a step in their order, with what they are labelled with below."""
    wide = max(len(tile.images) for tile in tiles)
    across = min(len(tiles), 8 // wide)
    down = -(-len(tiles) // across)
    shape = max(tile.images[0].shape[0] / tile.images[0].shape[1] for tile in tiles)
    tall, text = 1.5 * shape, 0.15 * max(len(tile.lines) for tile in tiles) + 0.15  # inches
    height = down * (tall + text)
    figure, axes = plt.subplots(
        down, across, figsize=(1.6 * wide * across, height), squeeze=False,
        gridspec_kw={"wspace": 0.07, "hspace": text / tall, "left": 0, "right": 1, "bottom": text / height, "top": 1},
    )  # fmt: skip
    for axis in axes.flat[len(tiles) :]:
        axis.set_axis_off()
    for axis, tile in zip(axes.flat, tiles, strict=False):
        height, gap = tile.images[0].shape[0], max(1, tile.images[0].shape[1] // 16)
        parts = [tile.images[0]]
        for image in tile.images[1:]:
            parts += [np.full((height, gap, 3), 255, np.uint8), image]
        _image(axis, np.concatenate(parts, axis=1))
        lines = [textwrap.shorten(line, 26 * wide, placeholder="…") for line in tile.lines]
        axis.text(
            0.5, -0.03, "\n".join(_plain(tuple(lines))), transform=axis.transAxes, ha="center", va="top", fontsize=7
        )
    _title(figure, title)
    _save(figure, path)


def sampler_figure(
    path: Path, counts: np.ndarray, panels: list[SamplerPanel], names: tuple[str, ...], title: str
) -> None:
    """A small histogram for every sampler over the classes by size, all with the same logarithmic axis."""
    order = np.argsort(-np.asarray(counts), kind="stable")
    counts, x = np.asarray(counts)[order], np.arange(len(counts))
    across = 3 if len(panels) > 4 else len(panels)
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(3.6 * across, 2.7 * down), squeeze=False, sharex=True, sharey=True, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    marker, least = "o" if len(x) <= 30 else None, min(panel.mean[panel.mean > 0].min() for panel in panels)
    changing = any(panel.changes for panel in panels)
    axes[0, 0].set_xlim(-0.5 - 0.02 * len(x), len(x) - 0.5 + (0.13 if changing else 0.02) * len(x))
    for axis, panel in zip(axes.flat, panels, strict=False):
        axis.bar(x, counts, width=1.0 if len(x) > 30 else 0.8, color=COUNTS)
        lines = [(panel.mean, {"color": DRAWN}), (panel.distinct, {"color": DISTINCT, "linestyle": "--"})]
        for values, style in lines:
            axis.plot(x, _positive(values)[order], marker=marker, markersize=3, **style)
        for (name, draws), colour in zip(panel.changes.items(), CHANGES, strict=False):
            axis.plot(
                x, _positive(draws)[order], ".", markersize=4, color=colour
            )  # single epochs: lines would be a thicket
            place = (len(x) - 0.5 + 0.02 * len(x), max(draws[order][-max(1, len(x) // 10) :].mean(), least))
            axis.annotate(name, place, fontsize=7, va="center", color=colour)
        _sampler_title(axis, panel)
        axis.set_yscale("log")
        axis.set_ylim(bottom=0.7 * min(1.0, least))  # a whole decade at least, so that ticks have plain numbers
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
        axis.grid(alpha=0.3, axis="y")
        axis.tick_params(labelsize=7)
        if len(names) <= 20:
            axis.set_xticks(
                x, [textwrap.shorten(_plain(names)[i], 14, placeholder="…") for i in order], rotation=60, ha="right"
            )
    handles = [
        Rectangle((0, 0), 1, 1, color=COUNTS),
        plt.Line2D([], [], color=DRAWN, marker=marker, markersize=3),
        plt.Line2D([], [], color=DISTINCT, marker=marker, markersize=3, linestyle="--"),
    ]
    labels = ["training images", "drawn per epoch, mean", "different images drawn in all these epochs"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    axes[-1, (across - 1) // 2].set_xlabel("classes, from most to fewest training images", fontsize=8)
    figure.supylabel("images (logarithmic)", fontsize=8)
    figure.suptitle("\n".join(textwrap.wrap(title, 32 * across)), fontsize=10)
    _save(figure, path)


def _positive(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, values, np.nan)  # a logarithmic axis has no zero


def _sampler_title(axis, panel: SamplerPanel) -> None:
    used = f"\nin {', '.join(panel.stages)}" if panel.stages else ""
    text = f"{panel.name}, {panel.epoch_draws:,} draws an epoch{used}"
    axis.set_title(
        "\n".join(textwrap.shorten(line, 52, placeholder="…") for line in _plain(tuple(text.split("\n")))), fontsize=8
    )
    if panel.stages:
        axis.title.set(color=OWN, fontweight="bold")
        for side in axis.spines.values():
            side.set(color=OWN, linewidth=1.6)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A map (H, W), 0..255, as colours over the grey image (H, W, 3), uint8."""
    colours = colormaps["turbo"](np.clip(heat / 255.0, 0, 1))[..., :3] * 255  # (H, W, 3)
    grey = image.mean(axis=2, keepdims=True)
    return (0.45 * grey + 0.55 * colours).round().astype(np.uint8)


def outline(mask: np.ndarray) -> np.ndarray:
    """The edges between pixels inside and outside of a mask (H, W) as lines (n, 2, 2) of points (x, y)."""
    inside = np.pad(np.asarray(mask) > 0, 1)
    y, x = np.nonzero(inside[1:, 1:-1] != inside[:-1, 1:-1])  # between rows y - 1 and y
    across = np.stack([np.stack([x - 0.5, y - 0.5], 1), np.stack([x + 0.5, y - 0.5], 1)], 1)
    y, x = np.nonzero(inside[1:-1, 1:] != inside[1:-1, :-1])
    down = np.stack([np.stack([x - 0.5, y - 0.5], 1), np.stack([x - 0.5, y + 0.5], 1)], 1)
    return np.concatenate([across, down])


def _image(axis, image: np.ndarray) -> None:
    axis.imshow(image, interpolation="nearest" if min(image.shape[:2]) < SMALL else "antialiased")
    axis.set_xticks([])
    axis.set_yticks([])


def _title(figure, title: str, above: float = 0.12) -> None:
    """Above everything, `above` inches from the axes, whatever the figure's height."""
    width, height = figure.get_size_inches()
    text = "\n".join(textwrap.wrap(_plain((title,))[0], max(40, int(12 * width))))
    figure.text(0.5, 1 + above / height, text, ha="center", va="bottom", fontsize=10)
