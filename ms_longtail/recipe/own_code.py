"""An error that arose in a file which a recipe imports: whose it is, and on which line."""

from __future__ import annotations

import linecache
import re
import sys
import traceback
from collections.abc import Iterator

from .imports import PREFIX

LONGEST = 800  # characters of a message


def explain(error: BaseException) -> str | None:
    """`FILE line N, "the line": Type: message`, or None for an error that no file of a recipe has to do with.

    The innermost line of theirs counts. The frames of the error and of what caused it are looked at, and then its text: a
    graph is compiled, and the input pipeline works, where no frame leads to, but both write down the lines they came along.
    """
    files = [str(module.__file__) for name, module in sys.modules.items() if name.startswith(PREFIX)]
    for link in _chain(error):
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if frame.filename in files:
                return _sentence(frame.filename, frame.lineno or 0, link)
    for link in _chain(error):
        places = [
            (match.start(), file, int(match.group(1)))
            for file in files
            for match in re.finditer(rf'[Ff]ile "?{re.escape(file)}"?(?::|, line )(\d+)', str(link))
        ]
        if places:
            _, file, line = max(places)
            return _sentence(file, line, link)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The first cause first."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _sentence(file: str, line: int, error: BaseException) -> str:
    code = linecache.getline(file, line).strip()
    return f"{file} line {line}{f', `{code}`' if code else ''}: {_message(error)}"


def _message(error: BaseException) -> str:
    """Type and text; of a graph without the lists of calls, of the input pipeline that of the error in the worker."""
    first, *parts = str(error).strip().split("\n\n---")
    worker = next((part for part in parts if "- Python Call Stack:" in part), None)
    if worker is None:
        text = f"{type(error).__name__}: {first}"
    else:  # below its calls, which are indented
        text = next(line for line in reversed(worker.splitlines()) if line[:1].strip())
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
