"""Carve a validation part out of the training set: stratified, never emptying a class, near-duplicates together."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from ..errors import DataError


def carve(
    labels: np.ndarray, share: float, *, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (train, validation), each sorted.

    Every class gives round(share * n_c) of its images, at most n_c - 1: one at least is left to train. With `groups`
    (N,), images of one group stay on one side: groups of a class, in a random order, go to validation as long as they
    fit into its number, and the last group of a class stays in train.

    Args:
        labels: (N,).
        share: 0 up to (not including) 1.
        seed: its own, apart from the run's.
        groups: integer group of every image, or None for each image by itself.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share must be in [0, 1), got {share}")
    groups = np.arange(len(labels)) if groups is None else groups
    rng = np.random.default_rng((seed, 0x5EED))
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        room = min(round(share * len(of_class)), len(of_class) - 1)
        names, which, sizes = np.unique(groups[of_class], return_inverse=True, return_counts=True)
        for group in rng.permutation(len(names)):
            if sizes[group] <= room:
                held_out[of_class[which == group]] = True
                room -= sizes[group]
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def group_by_name(names: Sequence[str], labels: np.ndarray, pattern: str) -> np.ndarray:
    """Group number of every image: those of one class whose names give the same match of `pattern` belong together.

    The group is the pattern's first parenthesis, or the whole match where it has none. A name that does not match
    is a DataError: silently treating it as a group of its own would split near-duplicates.

    Example:
        >>> group_by_name(["a/7_1.png", "a/7_2.png", "a/8_1.png"], np.zeros(3, int), r"(\\d+)_\\d+\\.png$")
        array([0, 0, 1])
    """
    compiled = re.compile(pattern)
    keys = []
    for name, label in zip(names, labels, strict=True):
        match = compiled.search(name)
        if match is None:
            raise DataError(f"data.validation.group: the pattern {pattern!r} does not match the file name {name!r}")
        keys.append(f"{label}/{match.group(1) if compiled.groups else match.group(0)}")
    return np.unique(keys, return_inverse=True)[1]
