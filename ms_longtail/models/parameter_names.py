"""What the parameters of residual networks are called elsewhere, and here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Names of what people wrap a network in. Copies for other ends (encoder_k, momentum_encoder, teacher) are not among them.
WRAPPERS = frozenset(
    {"module", "model", "backbone", "encoder", "base_encoder", "encoder_q", "network", "net", "feat_model", "0"}
)
HEAD = re.compile(
    r"(?:classifier\.)?(?:module\.)*(?:head\.fc|fc|head|classifier|last_linear|linear|end_point)\.(weight|bias)"
)
BACKBONE = re.compile(r"(conv1|bn1|layer\d+|branches)\.")
SHORTCUT = frozenset({"downsample", "down_sample", "down_sample_layer", "shortcut"})
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def own_name(name: str) -> str | None:
    """What a parameter is called in the networks here; None for what is no part of one.

    Known are the names of torchvision and timm, of MindSpore's model zoo and MindCV, and our own, within any of `WRAPPERS`.

    Example:
        >>> own_name("module.encoder_q.layer1.0.downsample.1.running_var")
        'backbone.layer1.0.shortcut.1.moving_variance'
        >>> own_name("classifier.weight"), own_name("encoder_k.conv1.weight")
        ('head.weight', None)
    """
    return _split(name)[1]


def by_own_name(found: Iterable[str]) -> dict[str, str]:
    """Name here -> name in a file. Of two that mean the same, the one counts whose wrapping most others share."""
    split = {name: _split(name) for name in found}
    common = Counter(wrapping for wrapping, known in split.values() if known)
    result: dict[str, str] = {}
    for name in sorted(split, key=lambda name: (-common[split[name][0]], name)):
        known = split[name][1]
        if known is not None:
            result.setdefault(known, name)
    return result


def _split(name: str) -> tuple[str, str | None]:
    """(what a parameter is wrapped in, its name here)."""
    steps, depth = name.split("."), 0
    while depth < len(steps) - 1 and steps[depth] in WRAPPERS:
        depth += 1
    wrapping, rest = ".".join(steps[:depth]), steps[depth:]
    text = ".".join(rest)
    if text.startswith("head.calibration."):
        return wrapping, text
    if head := HEAD.fullmatch(text):
        return wrapping, f"head.{head[1]}"
    if not BACKBONE.match(text):
        return wrapping, None
    rest = ["shortcut" if step in SHORTCUT else step for step in rest]
    if len(rest) > 1 and (re.fullmatch(r"bn\d+", rest[-2]) or rest[-3:-1] == ["shortcut", "1"]):
        rest[-1] = NORM.get(rest[-1], rest[-1])
    return wrapping, ".".join(["backbone", *rest])
