"""What `inspect --out FOLDER` writes: the facts as JSON, the class sizes, and a sheet of near-duplicates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, UserError
from ..evaluation.duplicates import Duplicates
from ..evaluation.inspection_plot import Pair, class_sizes, contact_sheet
from .folder import write_text
from .inspection import Describe

FILES = ("inspection.json", "class_sizes.png", "near_duplicates.png")
SHOWN = 24  # pairs on the sheet


def prepare(out: str) -> Path:
    """The folder, made if need be, before anything is read.

    Raises:
        UserError: it cannot be made, or holds an inspection already.
    """
    folder = Path(out)
    there = [name for name in FILES if (folder / name).exists()]
    if there:
        raise UserError(
            f"--out {out}: {', '.join(there)} there already, and nothing is overwritten; name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".inspection.tmp"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"--out {out}: cannot write there ({error.strerror}); name another folder") from error
    return folder


def write(out: Path, facts: dict[str, Any], found: Duplicates, describe: Describe, title: str) -> list[Path]:
    """Write everything; returns the files. Without near-duplicates there is no sheet."""
    path = out / FILES[0]
    write_text(path, json.dumps(facts, indent=1) + "\n")
    counts = {name: np.asarray(part["counts"]) for name, part in facts["parts"].items()}
    train = facts["parts"]["train"]
    headline = (
        f"{title}: {train['images']:,} training images in {train['classes']} classes of {train['largest']:,} down to "
        f"{train['smallest']}; imbalance factor {train['imbalance_factor']:.4g}, Gini {train['gini']:.2f}"
    )
    class_sizes(out / FILES[1], counts, tuple(facts["class_names"]), headline)
    pairs = [
        pair
        for pair in map(lambda row: _pair(row, describe), examples(found, describe.survey.pictures.label, SHOWN))
        if pair is not None
    ]
    if not pairs:
        return [path, out / FILES[1]]
    headline = (
        f"{title}: {len(pairs)} of {found.near_pairs:,} near-duplicate pairs and exact ones; red, and first: labels differ; "
        "then from the least to the most alike"
    )
    contact_sheet(out / FILES[2], pairs, headline)
    return [path, *(out / name for name in FILES[1:])]


def examples(found: Duplicates, labels: np.ndarray, count: int) -> list[tuple[int, int, int, float]]:
    """(image, other, bits, cosine) of at most `count` pairs: a third with different labels, if there are, then others.

    Both kinds are evenly taken from the least to the most alike. Of two hashes the first images stand for all; of one hash,
    the first two images with different pixels.
    """
    order = np.argsort(found.node, kind="stable")
    nodes, starts = np.unique(found.node[order], return_index=True)
    first = dict(zip(nodes.tolist(), order[starts].tolist(), strict=True))
    rows = [(first[a], first[b], *alike) for a, b, *alike in zip(*(c.tolist() for c in found.pairs), strict=True)][::-1]
    other = order[found.picture[order] != found.picture[order[starts]][np.searchsorted(nodes, found.node[order])]]
    _, second = np.unique(found.node[other], return_index=True)
    rows += [(first[int(found.node[image])], int(image), 0, 1.0) for image in other[second]]
    differ = [row for row in rows if labels[row[0]] != labels[row[1]]]
    agree = [row for row in rows if labels[row[0]] == labels[row[1]]]
    conflicts = _evenly(differ, max(count // 3, count - len(agree)))
    return conflicts + _evenly(agree, count - len(conflicts))


def _evenly(rows: list, count: int) -> list:
    return rows if len(rows) <= count else [rows[k] for k in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _pair(row: tuple[int, int, int, float], describe: Describe) -> Pair | None:
    """The images of a pair, read again; None where a file has gone meanwhile."""
    a, b, bits, cosine = row
    left, right = describe.image(a), describe.image(b)
    try:
        images = describe.read(a), describe.read(b)
    except DataError:
        return None
    alike = "same hash" if bits == 0 else f"{bits} bits, cosine {cosine:.3f}"
    lines = [alike, *(f"{entry['part']}/{entry['class']}/{_last(entry)}" for entry in (left, right))]
    return Pair(*images, lines, left["class"] != right["class"])


def _last(entry: dict[str, Any]) -> str:
    return Path(entry["file"]).name if "file" in entry else str(entry["index"])
