"""The facts of an inspection as tables and lines for a person."""

from __future__ import annotations

from typing import Any

from ..console import Console
from ..evaluation.metrics import percent

SHOWN = 5  # examples of a list


def say(console: Console, facts: dict[str, Any]) -> None:
    """Print everything worth reading; the complete lists are in the JSON file."""
    names = facts["class_names"]
    console.table("classes", [_class_row(name, part) for name, part in facts["parts"].items()])
    empty = facts["parts"]["test"]["empty_classes"]
    if empty:
        console.say(f"no test image of {len(empty)} classes: {_some([names[c] for c in empty])}")
    console.table("images", [_image_row(name, part) for name, part in facts["images"].items()])
    for fault in facts["unreadable"][:SHOWN]:
        console.say(f"  {fault['part']}: {fault['message']}")
    _more(console, len(facts["unreadable"]))
    near = facts["search"]["near_bits"]
    console.table(
        f"the same picture more than once (near: up to {near} of 64 bits, cosine {facts['search']['near_cosine']})",
        [
            {
                "kind": kind,
                "pairs": f"{found['pairs']:,}",
                "groups": f"{found['groups']:,}",
                "images in them": f"{found['images']:,}",
                "largest group": f"{found['largest']:,}",
            }
            for kind, found in facts["duplicates"].items()
        ],
    )
    console.table(
        "held-out images that are in train too",
        [
            {
                "part": name,
                "same pixels": f"{leak['exact']:,} ({percent(leak['exact_share'])} %)",
                "same or near": f"{leak['near']:,} ({percent(leak['near_share'])} %)",
            }
            for name, leak in facts["leakage"].items()
        ],
    )
    for name, leak in facts["leakage"].items():
        _pairs(console, f"{name} images that are in train too, the most alike first", leak["list"])
    conflicts = facts["conflicts"]
    if conflicts["near"]:
        console.say(
            f"labels: {conflicts['exact']:,} images have the same pixels as one of another class; {conflicts['near']:,} are "
            "the same as one of another class or near it (look at them: classes may look alike)"
        )
        _pairs(console, "pairs with different labels, the most alike first", conflicts["list"])
    console.say("")
    for advice in facts["advice"]:
        console.say(f"{advice['what']}: {advice['why']}")
        if advice["command"]:
            console.say(f"    {advice['command']}")


def _class_row(name: str, part: dict[str, Any]) -> dict[str, str]:
    factor = part["imbalance_factor"]
    return {
        "part": name,
        "images": f"{part['images']:,}",
        "classes": f"{part['classes']:,}",
        "largest": f"{part['largest']:,}",
        "median": f"{part['median']:g}",
        "smallest": f"{part['smallest']:,}",
        "imbalance": "n/a" if factor is None else f"{factor:.4g}",
        "Gini": f"{part['gini']:.3f}",
        **{f"{g}: classes, images": f"{v['classes']:,}, {v['images']:,}" for g, v in part["groups"].items()},
    }


def _image_row(name: str, part: dict[str, Any]) -> dict[str, str]:
    row = {"part": name, "unreadable": f"{part['unreadable']:,}"}
    for side in ("width", "height"):
        row[f"{side}: min, median, max"] = "n/a" if part[side] is None else ", ".join(f"{v:g}" for v in part[side])
    kinds = {"grey": "grey", "flat": "one colour", "tiny": "side < 16", "elongated": "longer than 4:1"}
    return row | {
        title: f"{part[kind]['images']:,} ({percent(part[kind]['share'])} %)" for kind, title in kinds.items()
    }


def _pairs(console: Console, title: str, pairs: list[dict[str, Any]]) -> None:
    if pairs:
        console.say(f"{title}:")
    for pair in pairs[:SHOWN]:
        bits = f"{pair['bits']} bits" if pair["bits"] else "same hash"
        alike = "same pixels" if pair["same_pixels"] else f"{bits}, cosine {pair['cosine']:.3f}"
        console.say(f"  {_place(pair['image'])}  =  {_place(pair['other'])}  ({alike})")
    _more(console, len(pairs))


def _more(console: Console, count: int) -> None:
    if count > SHOWN:
        console.say(f"  ... and {count - SHOWN:,} more (--out FOLDER writes them)")


def _place(image: dict[str, Any]) -> str:
    return image.get("file") or f"{image['part']} image {image['index']} ({image['class']})"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
