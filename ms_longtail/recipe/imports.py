"""Python files that a recipe names: run before it is checked, so that what they register can be named in it.

A file goes by its content. The run keeps a copy, and its SHA-256 is part of what decides the weights: a run goes on, and is
evaluated, with the code that it began with. So a file stands alone: it imports what is installed, not its neighbours.

What is registered belongs to the recipe: while it is the last one that was loaded, the names of its files are known, and
those of other recipes' files are not. So recipes of one gallery do not lend each other code, and two states of a file do not meet.
"""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import RecipeError
from ..registry import REGISTRIES, Registry
from .contracts import fault_of
from .settings import adapter, parameters, shorten

PREFIX = "ms_longtail_import_"  # of the modules' names; the rest is the hash


def located(entries: Any, folder: Path) -> Any:
    """`imports` as a recipe in `folder` says it, relative names made absolute; what names no Python file stays as it is."""
    if isinstance(entries, list):
        return [located(entry, folder) for entry in entries]
    if isinstance(entries, dict) and "file" in entries:
        return entries | {"file": located(entries["file"], folder)}
    return str(folder.absolute() / entries) if isinstance(entries, str) and entries.endswith(".py") else entries


def load(entries: Any, source: str = "recipe") -> list[dict[str, str]]:
    """Run every file that has not been run in this process, and register what these files register, and no others'.

    Args:
        entries: None, or one or several of: a file name (relative: to the working directory), {file, sha256}.

    Returns:
        {file: absolute name, sha256} of each.

    Raises:
        RecipeError: no Python file, one that cannot be read or stops with an error, two of the same name, another content than
            `sha256` says, or a component that could not be used.
    """
    entries = [] if entries is None else entries if isinstance(entries, list) else [entries]
    loaded: list[dict[str, str]] = []
    faults: list[str] = []
    _forget()
    for number, entry in enumerate(entries):
        try:
            path, code, digest = _read(entry, [Path(other["file"]).name for other in loaded])
            loaded.append({"file": str(path), "sha256": digest})
            _register(path, code, digest)
        except ValueError as error:
            name = entry.get("file", entry) if isinstance(entry, dict) else entry
            shown = repr(name) if isinstance(name, str) else shorten(name)
            faults.append(f"imports.{number} = {shown}: {error}")
    if faults:
        _forget()
        raise RecipeError(faults, source)
    return loaded


def _read(entry: Any, others: list[str]) -> tuple[Path, bytes, str]:
    """(absolute path, content, SHA-256), or a ValueError that says what is wrong."""
    given = {"file": entry} if isinstance(entry, str) else entry
    name = given.get("file") if isinstance(given, dict) and set(given) <= {"file", "sha256"} else None
    if not isinstance(name, str) or not name.endswith(".py"):
        raise ValueError("must be the name of a Python file, FILE.py")
    path = Path(name).absolute()
    if path.name in others:
        raise ValueError("a second file of this name; the run folder keeps a copy of each")
    try:
        code = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read this file ({error.strerror})") from error
    digest = hashlib.sha256(code).hexdigest()
    if given.get("sha256") not in (None, digest):
        then = str(given["sha256"])[:12]
        raise ValueError(
            f"the file has changed: its SHA-256 is {digest[:12]}..., here it says {then}...; restore it, or start a new run"
        )
    return path, code, digest


def _forget() -> None:
    """Take back what files of recipes have registered."""
    for name, module in list(sys.modules.items()):
        for registry, key, component in getattr(module, "registered", ()) if name.startswith(PREFIX) else ():
            if registry.entries().get(key) is component:
                _remove(registry, key)


def _remove(registry: Registry, key: str) -> None:
    registry.remove(key)
    parameters.cache_clear()  # they go by names
    adapter.cache_clear()


def _register(path: Path, code: bytes, digest: str) -> None:
    """Run a file, or, if that was done, register again what it has registered. A ValueError says what is wrong."""
    module = sys.modules.get(PREFIX + digest[:16])
    if module is not None:
        for registry, key, component in module.registered:
            registry.register(key)(component)
        return
    module = ModuleType(PREFIX + digest[:16])
    module.__file__ = str(path)
    before = [registry.entries() for registry in REGISTRIES]
    sys.modules[module.__name__] = module  # classes look for their module there, and so does the compiler of graphs
    try:
        _execute(module, code)
        module.registered = [
            (registry, key, component)
            for registry, known in zip(REGISTRIES, before, strict=True)
            for key, component in registry.entries().items()
            if key not in known
        ]
        for registry, key, component in module.registered:
            if problem := fault_of(registry, key, component):
                raise ValueError(f"{registry.kind} {key!r}: {problem}")
    except BaseException:
        del sys.modules[module.__name__]
        for registry, known in zip(REGISTRIES, before, strict=True):
            for key in set(registry.entries()) - set(known):
                _remove(registry, key)
        raise


def _execute(module: ModuleType, code: bytes) -> None:
    path = str(module.__file__)
    try:
        # The compiler of graphs asks for the source of a class when it meets it, stages later maybe: it gets these very lines,
        # whatever has happened to the file by then. Without a time of change an entry is not looked up again.
        lines = importlib.util.decode_source(code).splitlines(keepends=True)
        linecache.cache[path] = (len(code), None, lines, path)
        exec(compile(code, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        line = next((f.lineno for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == path), None)
        if isinstance(error, SyntaxError) and error.filename == path:
            line = error.lineno
        hint = "; what it does as a script belongs below `if __name__ == '__main__':`"
        place = f"line {line}: " if line else ""
        text = " ".join(str(error).split())
        raise ValueError(
            f"{place}{type(error).__name__}: {text}{hint if isinstance(error, SystemExit) else ''}"
        ) from error
