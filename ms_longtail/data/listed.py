"""What published lists must hold, whatever their form: no image twice, no empty class; and a word about shared images."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from ..errors import DataError
from .image_set import ImageSet
from .paths import Paths

log = logging.getLogger(__name__)


def further(count: int) -> str:
    """' (and 3 more like it)', or nothing where the fault is the only one of its kind."""
    return f" (and {count} more like it)" if count else ""


def require_no_repeats(paths: Paths, labels: np.ndarray, say: Callable[[int], str], kind: str) -> None:
    """A DataError with the first path that stands in a list twice, both places, and whether the labels agree.

    Args:
        paths, labels: of the list, (N,).
        say: entry number -> where it is ("train.txt, line 12").
        kind: what a class is called there ("label").
    """
    later, earlier = paths.repeats()
    if not len(later):
        return
    i, j = later[0], earlier[0]
    same = labels[i] == labels[j]
    place = say(j).rpartition(", ")[2]
    how = f"with the same {kind} {labels[i]}" if same else f"with another {kind}, {labels[j]}, and {labels[i]} here"
    name = paths[i].removeprefix(paths.prefix)
    raise DataError(f"{say(i)}: {name!r} is in {place} already, {how}{further(len(later) - 1)}; list an image once")


def require_known_labels(train: ImageSet, other: ImageSet, lists: tuple[str, str]) -> None:
    """A DataError with the first image of another part whose label no training image has. `lists`: the files of both."""
    unknown = np.flatnonzero(train.class_counts[other.labels] == 0)
    if len(unknown):
        raise DataError(
            f"{other.origin(int(unknown[0]))}: label {other.labels[unknown[0]]} has no image in {lists[0]}"
            f"{further(len(unknown) - 1)}"
        )


def warn_of_shared(parts: dict[str, ImageSet]) -> None:
    """One line in the log where images stand in more than one list: a score on them says nothing about new ones.

    It is no error: some published sets share images between parts, and their scores are to be compared with others'.
    """
    hashes = {name: part.files.hashes() for name, part in parts.items()}
    names, found = list(parts), []
    for place, one in enumerate(names):
        for two in names[place + 1 :]:
            shared, i, j = np.intersect1d(hashes[one], hashes[two], return_indices=True)
            if len(shared):
                first = i.argmin()
                here, there = parts[one].name(int(i[first])), parts[two].origin(int(j[first]))
                found.append(f"{len(shared)} image(s) of {one} are in {two} too, the first: {here} and {there}")
    if found:
        log.warning("%s", "; ".join(found))
