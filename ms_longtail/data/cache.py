"""Arrays that took a while to make, kept in the user's cache folder and never trusted: what is damaged is made again."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np

TICK = 20_000_000  # ns; file systems may give two changes within some milliseconds the same time


def cache_folder() -> Path:
    """$MSLT_CACHE, else ms_longtail below $XDG_CACHE_HOME, else below ~/.cache; OSError for a user without a home."""
    own = os.environ.get("MSLT_CACHE")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if shared.startswith("~"):
        raise FileNotFoundError(errno.ENOENT, "this user has no home folder", shared)
    return Path(shared) / "ms_longtail"


def key_of(path: str) -> str:
    """A name for what is made of a file: another one once the file is moved, grows, or is written again; OSError if it is gone.

    A file that was written a moment ago is waited for, until a later change must show in its time.
    """
    facts = os.stat(path)
    if 0 <= time.time_ns() - facts.st_mtime_ns < TICK:
        time.sleep(TICK / 1e9)
        facts = os.stat(path)
    text = f"{os.path.realpath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}"
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]


def load(name: str, version: int) -> dict[str, np.ndarray] | None:
    """The arrays of that name, or None where there are none, or none of this version, or the file is damaged."""
    try:
        # Opened here: NumPy would leave a damaged one open.
        with open(cache_folder() / f"{name}.npz", "rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}  # reads all, so the archive's checksums are compared
        return arrays if arrays.pop("version").tolist() == version else None
    except Exception:  # a damaged archive raises many kinds, and all mean the same
        return None


def save(name: str, version: int, arrays: dict[str, np.ndarray]) -> None:
    """Write them under a name that nobody reads, then rename; OSError where the folder cannot be written."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f"{name}.", suffix=".part", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, version=np.array(version), **arrays)
        os.replace(temporary, folder / f"{name}.npz")
    except BaseException:
        os.unlink(temporary)
        raise
