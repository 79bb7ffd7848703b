"""Where what is read once and used again is kept: the cache folder of the user."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


def cache_folder() -> Path | None:
    """$MSLT_CACHE, else $XDG_CACHE_HOME/ms_longtail, else ~/.cache/ms_longtail; made if it is not there.

    None, and a line in the log, where it cannot be made or written: what would be kept is then made anew each time.
    """
    named = os.environ.get("MSLT_CACHE")
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(named) if named else Path(base) / "ms_longtail"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: nobody's home
        log.warning("no cache (%s): set MSLT_CACHE to a folder that can be written", error)
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        log.warning("no cache: %s cannot be written; set MSLT_CACHE to a folder that can", folder)
        return None
    return folder


def keep(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a file that appears under its name when it is whole; a full disk costs a line in the log."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        log.warning("not kept in the cache: %s (%s)", path, error.strerror or error)
