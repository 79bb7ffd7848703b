"""An error that arose in a file which a recipe imports: whose it is, and on which line."""

from __future__ import annotations

import itertools
import linecache
import re
import sys
import traceback

from .imports import PREFIX

LONGEST = 800  # characters of a message


def explain(error: BaseException) -> str | None:
    """`FILE line N, "the line": Type: message`, or None for an error that no file of a recipe has to do with.

    The innermost line of theirs counts. The frames of the error are looked at, then those of what caused it, and then their
    texts: a graph is compiled, and the input pipeline works, where no frame leads to, but both write down the lines they came along.
    """
    files = [str(module.__file__) for name, module in list(sys.modules.items()) if name.startswith(PREFIX)]
    for link in _chain(error):
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            if frame.filename in files:
                return _sentence(frame.filename, frame.lineno or 0, link)
    for link in _chain(error):
        places = [
            (match.start(), file, int(match.group(1)))
            for file in files
            for match in re.finditer(rf'[Ff]ile "?{re.escape(file)}"?(?::|, line )(\d+)', _text(link))
        ]
        if places:
            _, file, line = max(places)
            return _sentence(file, line, link)
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """The error and what it was raised from, outermost first. What was being dealt with when it came up did not cause it."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and all(link is not other for other in chain):
        chain.append(link)
        link = link.__cause__
    return chain


def _text(error: BaseException) -> str:
    try:
        return str(error).strip()
    except Exception:  # an error of somebody's own may fail at this, too
        return ""


def _sentence(file: str, line: int, error: BaseException) -> str:
    code = linecache.getline(file, line).strip()
    return f"{file} line {line}{f', `{code}`' if code else ''}: {_message(error)}"


def _message(error: BaseException) -> str:
    """Type and text; of a graph without the lists of calls, of the input pipeline that of the error in the worker."""
    first, *parts = _text(error).split("\n\n---")
    text = f"{type(error).__name__}{': ' if first else ''}{first}"
    for part in parts:
        if "- Python Call Stack:" in part:
            # Its own lines come after the indented ones of the last call.
            calls = part.rpartition('\n  File "')[2].splitlines()[1:]
            below = list(itertools.dropwhile(lambda line: line.startswith(" "), calls))
            text = " ".join(below) or text
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
