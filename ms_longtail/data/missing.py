"""Which files do not exist, found by listing their folders once instead of asking for half a million files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np

from .paths import Paths

FEW = 3  # files of a folder that are asked for one by one: opening, listing and closing it are three calls as well


def missing(files: Sequence[str], *, threads: int = 16) -> np.ndarray:
    """Indices of the paths that are no readable file's name, ascending. A broken link counts as missing.

    Args:
        files: (N,) paths.
        threads: folders that are listed at once; a network file system answers many questions as fast as one.
    """
    number: dict[str, int] = defaultdict(count().__next__)
    which = np.array([number[path[: path.rfind("/") + 1]] for path in files], np.int64)
    order, folders = np.argsort(which, kind="stable"), list(number)
    bounds = np.searchsorted(which[order], np.arange(len(folders) + 1))

    def look(places: range) -> list[np.ndarray]:
        found = []
        for place in places:
            here = order[bounds[place] : bounds[place + 1]]
            chosen = files.take(here) if isinstance(files, Paths) else [files[i] for i in here]
            names = [path[len(folders[place]) :] for path in chosen]
            absent = _absent(folders[place], set(names))
            if absent:
                found.append(here[[name in absent for name in names]])
        return found

    # Some folders a task where they are many: a task costs more than a small folder.
    step = min(16, 1 + len(folders) // (4 * threads))
    tasks = [range(first, min(first + step, len(folders))) for first in range(0, len(folders), step)]
    with ThreadPoolExecutor(threads) as pool:
        found = [some for task in pool.map(look, tasks) for some in task]
    return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)


def _absent(folder: str, names: set[str]) -> set[str]:
    """Those of the names that are no file in the folder; the set is used up."""
    if len(names) > FEW:
        try:
            with os.scandir(folder or ".") as entries:
                for entry in entries:
                    if entry.name in names and entry.is_file():  # a look at the disk only for links
                        names.remove(entry.name)
                        if not names:
                            break
        except (FileNotFoundError, NotADirectoryError):
            return names
        except OSError:
            pass  # a folder may be open to those who know a name, and to nobody else
    # What was not listed is asked for: a disk may know a name in another spelling (upper case, composed letters).
    return {name for name in names if not os.path.isfile(folder + name)}
