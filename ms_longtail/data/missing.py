"""Which files do not exist, found by listing their folders once instead of asking for half a million files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

FEW = 3  # files of a folder that are asked for one by one: opening, listing and closing it are three calls as well


def missing(files: Sequence[str], *, threads: int = 16) -> np.ndarray:
    """Indices of the paths that are no readable file's name, ascending. A broken link counts as missing.

    Args:
        files: (N,) paths.
        threads: folders that are listed at once; a network file system answers many questions as fast as one.
    """
    number: dict[str, int] = {}
    ends = np.fromiter((path.rfind("/") + 1 for path in files), np.int64, len(files))
    which = np.fromiter(
        (number.setdefault(path[:end], len(number)) for path, end in zip(files, ends.tolist(), strict=True)),
        np.int64,
        len(files),
    )
    order = np.argsort(which, kind="stable")
    bounds = np.searchsorted(which[order], np.arange(len(number) + 1))

    def look(folder: str) -> list[int]:
        place = number[folder]
        here = order[bounds[place] : bounds[place + 1]].tolist()
        names = [files[i][len(folder) :] for i in here]
        absent = _absent(folder, set(names))
        return [i for i, name in zip(here, names, strict=True) if name in absent] if absent else []

    with ThreadPoolExecutor(threads) as pool:
        found = [i for some in pool.map(look, number) for i in some]
    return np.sort(np.array(found, np.int64))


def _absent(folder: str, names: set[str]) -> set[str]:
    """Those of the names that are no file in the folder."""
    if len(names) > FEW:
        names = set(names)
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
