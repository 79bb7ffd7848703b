"""Python files that a recipe names: run before it is checked, so that what they register can be named in it.

A file goes by its content. The run keeps a copy, and its SHA-256 is part of what decides the weights: a run goes on, and is
evaluated, with the code that it began with. So a file stands alone: it imports what is installed, not its neighbours.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import RecipeError
from .settings import shorten


def located(entries: Any, folder: Path) -> Any:
    """`imports` as a recipe in `folder` says it, relative names made absolute; what is no file name stays as it is."""
    if isinstance(entries, list):
        return [located(entry, folder) for entry in entries]
    if isinstance(entries, dict) and "file" in entries:
        return entries | {"file": located(entries["file"], folder)}
    return str(folder.absolute() / entries) if isinstance(entries, str) and entries else entries


def load(entries: Any, source: str = "recipe") -> list[dict[str, str]]:
    """Run every file that has not been run in this process.

    Args:
        entries: None, or one or several of: a file name (relative: to the working directory), {file, sha256}.

    Returns:
        {file: absolute name, sha256} of each.

    Raises:
        RecipeError: no Python file, one that cannot be read or stops with an error, two of the same name, or another
            content than `sha256` says.
    """
    entries = [] if entries is None else entries if isinstance(entries, list) else [entries]
    loaded: list[dict[str, str]] = []
    faults: list[str] = []
    for number, entry in enumerate(entries):
        where = f"imports.{number}"
        given = {"file": entry} if isinstance(entry, str) else entry
        name = given.get("file") if isinstance(given, dict) and set(given) <= {"file", "sha256"} else None
        if not isinstance(name, str) or not name.endswith(".py"):
            faults.append(f"{where} = {shorten(entry)}: must be the name of a Python file, FILE.py")
            continue
        path = Path(name).absolute()
        if any(Path(other["file"]).name == path.name for other in loaded):
            faults.append(f"{where} = {name!r}: a second file of this name; the run folder keeps a copy of each")
            continue
        try:
            code = path.read_bytes()
        except OSError as error:
            faults.append(f"{where} = {name!r}: cannot read this file ({error.strerror})")
            continue
        digest = hashlib.sha256(code).hexdigest()
        if given.get("sha256") not in (None, digest):
            faults.append(
                f"{where} = {name!r}: the file has changed: its SHA-256 is {digest[:12]}..., "
                f"the recipe says {str(given['sha256'])[:12]}...; restore it, or start a new run"
            )
            continue
        problem = _run(path, code, digest)
        faults += [f"{where} = {name!r}: {problem}"] if problem else []
        loaded.append({"file": str(path), "sha256": digest})
    if faults:
        raise RecipeError(faults, source)
    return loaded


def _run(path: Path, code: bytes, digest: str) -> str | None:
    """What went wrong, or None. The very bytes that were hashed are run, whatever happens to the file meanwhile."""
    name = f"ms_longtail_import_{digest[:16]}"
    if name in sys.modules:
        return None
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # classes look for their module there, and so does the compiler of graphs
    try:
        exec(compile(code, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        hint = "; what it does as a script belongs below `if __name__ == '__main__':`"
        place = f"line {line}: " if line else ""
        text = " ".join(str(error).split())
        return f"{place}{type(error).__name__}: {text}{hint if isinstance(error, SystemExit) else ''}"
    return None
