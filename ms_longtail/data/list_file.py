"""A list file, taken apart by NumPy: half a million lines "path label" in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import DataError
from .decode import EXTENSIONS
from .listed import further, require_no_repeats
from .paths import Paths

MAX_CLASSES = 1_000_000
MAX_DIGITS = 9
BLANK, DIGIT = (np.isin(np.arange(256), list(characters)) for characters in (b" \t\v\f", b"0123456789"))
NEWLINE, COMMA, ZERO = ord("\n"), ord(","), ord("0")


def read_list(path: str, key: str = "list", prefix: str = "") -> tuple[Paths, np.ndarray]:
    """(paths, labels int32) of a list file; the label is behind the last blank or comma of a line.

    Lines are taken apart all at once by NumPy, and the paths stay where they are in the file's text.
    """
    data = text_of(path, key)
    text = np.frombuffer(data, np.uint8)
    stops = np.flatnonzero(text == NEWLINE)
    if not data.endswith(b"\n"):
        stops = np.append(stops, len(data))
    begins = np.concatenate([[0], stops[:-1] + 1])
    ends = _back(text, begins, stops, BLANK)
    digits = _back(text, begins, ends, DIGIT)
    stems = _back(text, begins, digits, BLANK)
    comma = (stems > begins) & (text[stems - 1] == COMMA)
    stems = _back(text, begins, stems - comma, BLANK)
    starts = _forth(text, begins, stems, BLANK)
    labels = _numbers(text, digits, ends)
    right = (starts < stems) & (stems < digits) & (labels >= 0) & (labels < MAX_CLASSES)
    wrong = np.flatnonzero(~right)
    if len(wrong):
        line = data[begins[wrong[0]] : stops[wrong[0]]].decode()
        last = wrong[0] == len(right) - 1 and not data.endswith(b"\n")
        raise DataError(
            f'{path}, line {wrong[0] + 1}: {line[:80]!r} is not "path label" with a label from 0 up to {MAX_CLASSES - 1}'
            f"{'; it is the last line and has no end: is the file complete?' if last else further(len(wrong) - 1)}"
        )
    files = Paths(data, starts, stems, prefix)
    _require_two_columns(files, text, path)
    require_no_repeats(files, labels, lambda i: f"{path}, line {i + 1}", "label")
    return files, labels


def text_of(path: str, key: str) -> bytes:
    """A text file in UTF-8 whose lines end in "\\n"."""
    try:
        data = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{key}: cannot read {path}: {error.strerror}") from error
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    place, what = data.find(b"\0"), "a byte 0"
    try:
        data.isascii() or data.decode()
    except UnicodeDecodeError as error:
        place, what = error.start, f"not UTF-8, {error.reason}"
    if place >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise DataError(f"{key}: {path} is not a text file (line {line}: {what})")
    if not data or data.isspace():
        raise DataError(f"{key}: {path} holds no line")
    return data


def _back(text: np.ndarray, begins: np.ndarray, ends: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """`ends` moved back over characters of a kind, not beyond `begins`."""
    ends, moving = ends.copy(), np.arange(len(ends))
    while len(moving):
        moving = moving[ends[moving] > begins[moving]]
        moving = moving[kind[text[ends[moving] - 1]]]
        ends[moving] -= 1
    return ends


def _forth(text: np.ndarray, begins: np.ndarray, ends: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """`begins` moved on over characters of a kind, not beyond `ends`."""
    begins, moving = begins.copy(), np.arange(len(begins))
    while len(moving):
        moving = moving[begins[moving] < ends[moving]]
        moving = moving[kind[text[begins[moving]]]]
        begins[moving] += 1
    return begins


def _numbers(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers (N,) int32 whose digits lie there; -1 for none, or for one that is too long."""
    lengths = ends - begins
    numbers = np.where((lengths > 0) & (lengths <= MAX_DIGITS), 0, -1).astype(np.int32)
    for place in range(MAX_DIGITS):
        here = np.flatnonzero((numbers >= 0) & (lengths > place))
        numbers[here] = 10 * numbers[here] + (text[begins[here] + place] - ZERO)
    return numbers


def _require_two_columns(files: Paths, text: np.ndarray, path: str) -> None:
    """A DataError for "a.jpg 3 7": a path may hold blanks, but none goes on with a number behind an image's ending."""
    numbered = np.flatnonzero(DIGIT[text[files.ends - 1]])
    three = []
    for i in numbered.tolist():
        stem = files[i].rstrip("0123456789")
        if stem.rstrip(" \t,") != stem and stem.rstrip(" \t,").lower().endswith(EXTENSIONS):
            three.append(i)
    if three:
        name = files[three[0]].removeprefix(files.prefix)
        raise DataError(
            f'{path}, line {three[0] + 1}: two numbers behind the path, {name[-80:]!r} and the label; a line is "path label"'
            f"{further(len(three) - 1)}"
        )
