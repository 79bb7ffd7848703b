"""Which of a file's parameters are which of a network's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..registry import MODELS
from .parameter_names import by_own_name
from .resnet import NETWORKS, Bottleneck

Head = Literal["auto", "keep", "skip"]
Shape = tuple[int, ...]
SHOWN = 10  # names of each kind in a message


@dataclass(frozen=True)
class Matched:
    """What of a file goes where in a network.

    Attributes:
        assigned: name in the network -> name in the file. A file's block may go into several copies of it.
        missing: names in the network that the file has nothing for, and shape.
        left_over: names in the file that are not taken, and shape.
        wrong_shape: (name in the network, name in the file, shape in the network, shape in the file).
        head: whether the head is taken, and else why not: '' or a reason.
        strange: those of `left_over` that are called like a part of a backbone.
    """

    assigned: dict[str, str] = field(default_factory=dict)
    missing: dict[str, Shape] = field(default_factory=dict)
    left_over: dict[str, Shape] = field(default_factory=dict)
    wrong_shape: list[tuple[str, str, Shape, Shape]] = field(default_factory=list)
    head: str = ""
    strange: tuple[str, ...] = ()

    @property
    def foreign(self) -> bool:
        """Whether these are the weights of another architecture: the backbone and the file's do not agree name by name.

        Experts may be narrower than the layers they replace (`expert_width`); these begin with new weights.
        """
        lost = [name for name in self.missing if not name.startswith("head.")]
        other = [name for name, *_ in self.wrong_shape if not name.startswith(("head.", "backbone.branches.each."))]
        return bool(lost or other or self.strange)

    @property
    def narrower(self) -> list[str]:
        """Names of the experts' parameters that the file has in another width."""
        return [name for name, *_ in self.wrong_shape if name.startswith("backbone.branches.each.")]


def match(own: Mapping[str, Shape], found: Mapping[str, np.ndarray], head: Head = "auto") -> Matched:
    """Parameters of a file for those of a network, by their names (see `parameter_names`) and never by their order.

    The last block of a network with two branches goes into both, the late layers into every expert. The head is taken whole or
    not at all.

    Args:
        own: name -> shape, of the network.
        found: name -> values, of the file. PyTorch's `num_batches_tracked` is passed over.
        head: "auto" to take it if it fits, "skip" to leave it; what "keep" asks for, `Matched.head` answers.

    Example:
        >>> found = {"module.conv1.weight": np.zeros((16, 3, 3, 3)), "module.fc.weight": np.zeros((100, 64))}
        >>> matched = match({"backbone.conv1.weight": (16, 3, 3, 3), "head.weight": (10, 64)}, found)
        >>> matched.assigned, matched.head
        ({'backbone.conv1.weight': 'module.conv1.weight'}, 'head.weight has shape (100, 64) in the file and (10, 64) here')
    """
    shapes = {name: tuple(value.shape) for name, value in found.items() if not name.endswith("num_batches_tracked")}
    known = by_own_name(shapes)
    why = _head(own, {name: shapes[known[name]] for name in known if name.startswith("head.")}, head)
    assigned, missing, wrong = {}, {}, []
    last = max(_blocks(known), default=0)
    shared = len(_blocks(own).get(last, ()))
    for name, shape in own.items():
        source = known.get(name) or known.get(_original(name, last, shared))
        if source is None or (name.startswith("head.") and head == "skip"):
            missing[name] = tuple(shape)
        elif shapes[source] != tuple(shape):
            wrong.append((name, source, tuple(shape), shapes[source]))
        elif name.startswith("head.") and why:
            missing[name] = tuple(shape)
        else:
            assigned[name] = source
    used = {*assigned.values(), *(source for _, source, *_ in wrong)}
    left_over = {name: shape for name, shape in shapes.items() if name not in used}
    strange = tuple(name for as_, name in known.items() if as_.startswith("backbone.") and name in left_over)
    return Matched(assigned, missing, left_over, wrong, why, strange)


def _head(own: Mapping[str, Shape], found: dict[str, Shape], head: Head) -> str:
    """Why the head is not taken; '' if it is. A correction behind it may be missing, where it changes nothing."""
    wanted = {name for name in own if name.startswith("head.") and not name.startswith("head.calibration.")}
    if head == "skip":
        return "the recipe leaves it out"
    if not found:
        return "the file has none"
    for name in sorted(wanted, key=lambda name: name != "head.weight"):
        if name not in found:
            return f"{name} is missing in the file"
        if found[name] != tuple(own[name]):
            return f"{name} has shape {found[name]} in the file and {tuple(own[name])} here"
    for name in sorted(found):
        if name not in own:
            return f"the file's has a {name}, which this one has no place for"
        if found[name] != tuple(own[name]):
            return f"{name} has shape {found[name]} in the file and {tuple(own[name])} here"
    return ""


def _original(name: str, last: int, shared: int) -> str:
    """What a parameter of a branch or an expert is called in a network that has one of either.

    Args:
        last: number of the file's last layer. shared: blocks of it that both branches have in common.
    """
    if branch := re.fullmatch(r"backbone\.branches\.(?:conventional|rebalancing)\.(.+)", name):
        return f"backbone.layer{last}.{shared}.{branch[1]}"
    if expert := re.fullmatch(r"backbone\.branches\.each\.\d+\.([01])\.(.+)", name):
        return f"backbone.layer{last - 1 + int(expert[1])}.{expert[2]}"
    return name


def _blocks(names: Iterable[str]) -> dict[int, set[int]]:
    """Layer -> numbers of its blocks."""
    found: dict[int, set[int]] = {}
    for step in filter(None, map(re.compile(r"backbone\.layer(\d+)\.(\d+)\.").match, names)):
        found.setdefault(int(step[1]), set()).add(int(step[2]))
    return found


def explain(matched: Matched, *, model: str, found: Mapping[str, np.ndarray]) -> str:
    """Why the weights are those of another architecture: names and shapes of both sides, and whose they may be."""
    missing = [f"{name} {shape}" for name, shape in matched.missing.items() if not name.startswith("head.")]
    strange = [f"{name} {matched.left_over[name]}" for name in matched.strange]
    # Without a single name in common, whatever the file has is worth showing.
    strange = strange or ([] if matched.assigned else [f"{name} {shape}" for name, shape in matched.left_over.items()])
    wrong = [f"{name} {here} is {there} there" for name, _, here, there in matched.wrong_shape if name[:5] != "head."]
    other = architecture(found)
    whose = f": they are those of {other}; set model.name: {other}" if other not in (None, model) else ""
    parts = [f"holds weights of another architecture than {model}{whose}"]
    parts += [_listed("of the network, not in the file", missing)] if missing else []
    parts += [_listed("of another shape", wrong)] if wrong else []
    parts += [_listed("in the file, not of the network", strange)] if strange else []
    return "\n    ".join(parts)


def _listed(what: str, names: list[str]) -> str:
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:SHOWN])}{rest}"


def architecture(found: Mapping[str, np.ndarray]) -> str | None:
    """Which of our residual networks a file's parameters are those of, by blocks and widths; None if none of them."""
    known = {name: tuple(found[source].shape) for name, source in by_own_name(found).items()}
    blocks = _blocks(known)
    counts = tuple(len(blocks[number]) for number in sorted(blocks))
    stem, middle = known.get("backbone.conv1.weight"), known.get("backbone.layer1.0.conv2.weight")
    deep = "backbone.layer1.0.conv3.weight" in known
    if stem == (16, 3, 3, 3) and len(set(counts)) == 1 and len(counts) == 3 and not deep:
        name = f"resnet{6 * counts[0] + 2}_cifar"
        return name if name in MODELS else None
    for name, (block, layers, groups, width) in NETWORKS.items():
        inner = width * groups if block is Bottleneck else 64
        narrow = middle == (inner, inner // groups, 3, 3)
        if stem == (64, 3, 7, 7) and narrow and counts == layers and deep == (block is Bottleneck):
            return name
    return None
