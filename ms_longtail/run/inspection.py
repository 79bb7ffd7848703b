"""A data set's facts as one plain map: classes, images, duplicates, leaks, conflicts. What `inspect` prints and writes."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..data import ImageSet, Splits
from ..evaluation import duplicates
from ..evaluation.inspection import class_facts, size_facts
from ..evaluation.metrics import groups
from .advice import Facts
from .survey import Survey

LISTED = 1000  # entries of a list in the JSON file; all are counted
MEMBERS = 20  # images of a group that are listed


def facts_of(splits: Splits, survey: Survey, *, bits: int) -> tuple[dict[str, Any], duplicates.Duplicates]:
    """(everything that is found, the duplicates for a picture of them).

    Args:
        bits: Hamming distance up to which perceptual hashes are compared.
    """
    parts, pictures = splits.parts(), survey.pictures
    found = duplicates.find(pictures, bits, parts=len(parts))
    describe = Describe(splits, survey)
    counts = splits.train.class_counts
    facts: dict[str, Any] = {"class_names": list(splits.train.class_names), "parts": {}, "images": {}}
    for number, (name, images) in enumerate(parts.items()):
        of_part = pictures.part == number
        facts["parts"][name] = class_facts(images.class_counts, counts) | {"counts": images.class_counts.tolist()}
        facts["images"][name] = {
            "unreadable": sum(part == number for part, _, _ in survey.unreadable),
            **size_facts(*(v[of_part] for v in (survey.height, survey.width, survey.grey, pictures.flat))),
        }
    facts["unreadable"] = [
        {"part": survey.names[part], "index": index, "message": message} for part, index, message in survey.unreadable
    ]
    facts["duplicates"] = _duplicates(found, describe)
    facts["leakage"] = {
        name: _leak(pictures, found, describe, list(parts).index("train"), number)
        for number, name in enumerate(parts)
        if name != "train"
    }
    facts["conflicts"] = _conflicts(pictures, found, describe)
    facts["search"] = {
        "near_bits": bits,
        "near_cosine": duplicates.ALIKE,
        "read_seconds": round(survey.seconds, 1),
        "images_per_second": round(len(pictures.label) / max(survey.seconds, 1e-9), 1),
    }
    return facts, found


class Describe:
    """How images are spoken of: part, class, and file or number."""

    def __init__(self, splits: Splits, survey: Survey):
        self.parts: list[ImageSet] = list(splits.parts().values())
        self.survey = survey

    def image(self, row: int) -> dict[str, Any]:
        """The readable image `row` as an entry of a list."""
        number, index = int(self.survey.pictures.part[row]), int(self.survey.index[row])
        images = self.parts[number]
        name = {"file": images.files[index]} if images.images is None else {}
        label = images.class_names[images.labels[index]]
        return {"part": self.survey.names[number], "index": index, "class": label, **name}

    def read(self, row: int) -> np.ndarray:
        return self.parts[self.survey.pictures.part[row]].read(int(self.survey.index[row]))

    def pairs(self, rows: list[tuple], picture: np.ndarray) -> list[dict[str, Any]]:
        """Rows of `partners` as entries; `picture` numbers the different pictures (N,)."""
        return [
            {
                "image": self.image(a),
                "other": self.image(b),
                "same_pixels": bool(picture[a] == picture[b]),
                "bits": int(bits),
                "cosine": round(float(cosine), 4),
            }
            for a, b, bits, cosine in rows
        ]


def _duplicates(found: duplicates.Duplicates, describe: Describe) -> dict[str, Any]:
    """Groups of the same pixels, and groups that hang together by near-duplicates (those of the same pixels too)."""
    report: dict[str, Any] = {}
    for name, key, pairs in (("exact", found.picture, found.exact_pairs), ("near", found.group, found.near_pairs)):
        sizes = np.bincount(key) if len(key) else np.zeros(0, np.int64)
        large = np.flatnonzero(sizes > 1)
        large = large[np.argsort(-sizes[large], kind="stable")]
        order = np.argsort(key, kind="stable")
        starts = np.concatenate([[0], np.cumsum(sizes)])
        members = {g: order[starts[g] : starts[g + 1]] for g in large[:LISTED].tolist()}
        report[name] = {
            "pairs": pairs,
            "groups": len(large),
            "images": int(sizes[large].sum()),
            "largest": int(sizes.max(initial=0)) if len(large) else 0,
            "list": [
                {"count": len(rows), "images": [describe.image(row) for row in rows[:MEMBERS].tolist()]}
                for rows in members.values()
            ],
        }
    return report


def _leak(pictures, found, describe: Describe, train: int, part: int) -> dict[str, Any]:
    exact, near = duplicates.leaking(pictures, found, train, part)
    total = max(1, int((pictures.part == part).sum()))
    rows = duplicates.partners(pictures, found, _those_first(exact, near), pictures.part == train)
    rows.sort(key=lambda row: (found.picture[row[0]] != found.picture[row[1]], -row[3]))
    return {
        "exact": len(exact),
        "exact_share": len(exact) / total,
        "near": len(near),
        "near_share": len(near) / total,
        "list": describe.pairs(rows, found.picture),
    }


def _conflicts(pictures, found, describe: Describe) -> dict[str, Any]:
    exact, near = (np.flatnonzero(mask) for mask in duplicates.conflicting(pictures, found))
    everything = np.ones(len(pictures.label), bool)
    rows = duplicates.partners(pictures, found, _those_first(exact, near), everything, differ=pictures.label)
    seen, once = set(), []
    for row in rows:  # a pair is listed once, not from both of its ends
        if frozenset(row[:2]) not in seen:
            seen.add(frozenset(row[:2]))
            once.append(row)
    once.sort(key=lambda row: (found.picture[row[0]] != found.picture[row[1]], -row[3]))
    return {"exact": len(exact), "near": len(near), "list": describe.pairs(once, found.picture)}


def _those_first(first: np.ndarray, all_of_them: np.ndarray) -> np.ndarray:
    """At most LISTED images, those of `first` before the others."""
    return np.concatenate([first, np.setdiff1d(all_of_them, first)])[:LISTED]


def advice_facts(kind: str, facts: dict[str, Any]) -> Facts:
    """What the rules of `advice` look at, out of everything."""
    train, leaks = facts["parts"]["train"], facts["leakage"]
    counts = np.asarray(train["counts"])
    shorter = facts["images"]["train"]["shorter"]
    return Facts(
        kind=kind,
        images=train["images"],
        classes=len(counts),
        imbalance_factor=train["imbalance_factor"],
        smallest=train["smallest"],
        few=float(groups(counts)["few"].mean()),
        side=0.0 if shorter is None else shorter[1],
        untested=len(facts["parts"]["test"]["empty_classes"]),
        unreadable=len(facts["unreadable"]),
        conflicts=facts["conflicts"]["exact"],
        leaks=sum(leak["exact"] for leak in leaks.values()),
        near_leaks=max(leak["near_share"] for leak in leaks.values()),
    )
