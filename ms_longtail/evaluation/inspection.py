"""How uneven a data set is, and how large its images are: NumPy in, plain numbers out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .metrics import groups

TINY = 16  # pixels of the shorter side, below which little is to be seen
ELONGATED = 4.0  # longer over shorter side, above which a square crop shows a fraction of the image


def gini(counts: np.ndarray) -> float:
    """Gini coefficient of class sizes: 0 where all are equal, near 1 where one class has everything.

    G = sum_i sum_j |n_i - n_j| / (2 C sum_i n_i), computed from the sorted sizes n_(1) <= ... <= n_(C) as
    G = 2 sum_i i n_(i) / (C sum_i n_i) - (C + 1) / C; at most 1 - 1 / C.

    Example:
        >>> gini(np.array([5, 5, 5])), gini(np.array([0, 0, 9]))
        (0.0, 0.6666666666666666)
    """
    ordered = np.sort(np.asarray(counts, np.float64))
    total, classes = ordered.sum(), len(ordered)
    if not total or ordered[0] == ordered[-1]:
        return 0.0
    return float(2 * (np.arange(1, classes + 1) @ ordered) / (classes * total) - (classes + 1) / classes)


def class_facts(counts: np.ndarray, train_counts: np.ndarray) -> dict[str, Any]:
    """Sizes of the classes of a part (C,), and how many classes and images of it are many-, medium- and few-shot.

    Returns:
        images; classes with an image; of those largest, smallest and median size, imbalance_factor = largest / smallest and
        gini; groups: {many, medium, few: {classes, images}} by TRAINING images; empty_classes: numbers of those without.
    """
    counts = np.asarray(counts)
    present = counts[counts > 0]
    members = groups(train_counts)
    return {
        "images": int(counts.sum()),
        "classes": len(present),
        "largest": int(present.max(initial=0)),
        "smallest": int(present.min()) if len(present) else 0,
        "median": float(np.median(present)) if len(present) else 0.0,
        "imbalance_factor": float(present.max() / present.min()) if len(present) else None,
        "gini": gini(present) if len(present) else 0.0,
        "groups": {
            name: {"classes": int((mask & (counts > 0)).sum()), "images": int(counts[mask].sum())}
            for name, mask in members.items()
        },
        "empty_classes": np.flatnonzero(counts == 0).tolist(),
    }


def size_facts(heights: np.ndarray, widths: np.ndarray, grey: np.ndarray, flat: np.ndarray) -> dict[str, Any]:
    """Of the readable images of a part, each (N,): min, median and max of the sides, and shares of the odd ones.

    Returns:
        width, height, shorter: [min, median, max] or None without an image; grey, flat, tiny, elongated: {images, share}.
        tiny: the shorter side is below 16 pixels; elongated: the longer side is over 4 times the shorter.
    """
    shorter, longer = np.minimum(heights, widths), np.maximum(heights, widths)
    odd = {"grey": grey, "flat": flat, "tiny": shorter < TINY, "elongated": longer > ELONGATED * shorter}
    sides = {"width": widths, "height": heights, "shorter": shorter}
    return {
        **{name: _spread(values) for name, values in sides.items()},
        **{
            name: {"images": int(mask.sum()), "share": float(mask.mean()) if len(mask) else 0.0}
            for name, mask in odd.items()
        },
    }


def _spread(values: np.ndarray) -> list[float] | None:
    return [float(f(values)) for f in (np.min, np.median, np.max)] if len(values) else None
