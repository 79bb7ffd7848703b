"""Which parts of a network a stage leaves alone: weights, and what batch normalisation does inside them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from mindspore import nn

from ..registry import nearest

# What "classifier" means: the head's own weight and bias, without the corrections that `lws` and `disalign` put behind them.
ALIASES = {"classifier": ("head.weight", "head.bias"), "calibration": ("head.calibration",)}


def parameters_of(network: nn.Cell, part: str) -> frozenset[str]:
    """Names of the parameters that belong to a part of a network.

    Args:
        network: its parameter names are paths, such as backbone.layer1.0.conv1.weight.
        part: "classifier", "calibration", or the beginning of a path: "backbone", "backbone.layer1", "head".

    Raises:
        ValueError: nothing in the network is called so; the message names what is near it.

    Example:
        >>> from ms_longtail.models import CifarResNet, Classifier
        >>> sorted(parameters_of(Classifier(CifarResNet(8), 10), "classifier"))
        ['head.bias', 'head.weight']
    """
    prefixes = ALIASES.get(part, (part,))
    names = [p.name for p in network.get_parameters()]
    found = frozenset(n for n in names if any(n == prefix or n.startswith(f"{prefix}.") for prefix in prefixes))
    if not found:
        known = _parts(names)
        raise ValueError(
            f"{part!r}: the network has no such part{nearest(part, known)}; its parts: {', '.join(known)}, or a longer path"
        )
    return found


def parameters_in(network: nn.Cell, parts: Iterable[str]) -> frozenset[str]:
    """Names of the parameters of several parts."""
    return frozenset().union(*(parameters_of(network, part) for part in parts))


def _parts(names: list[str]) -> list[str]:
    """What is worth naming: parts of one or two steps, and the aliases that mean something here."""
    steps = [name.split(".") for name in names]
    paths = [".".join(path[:depth]) for path in steps for depth in (1, 2) if len(path) > depth]
    aliases = [
        a for a, wanted in ALIASES.items() if any(n == w or n.startswith(f"{w}.") for n in names for w in wanted)
    ]
    return list(dict.fromkeys([*aliases, *paths]))


def freeze(
    network: nn.Cell, parts: Iterable[str], trainable: Iterable[str], norm: Literal["running", "batch"] = "running"
) -> frozenset[str]:
    """Let a network's parts rest, and all others be trained again.

    Batch normalisation in a part that rests works with its running statistics and leaves them as they are, to the last bit, or,
    with norm "batch", with the statistics of the batch, and moves the running ones as usual (as MiSLAS lets them shift: Zhong
    et al., CVPR 2021). It counts as resting where its gamma does.

    Args:
        network: changed in place: `requires_grad` of its parameters, `use_batch_statistics` of its normalisation.
        parts: see `parameters_of`; none to let all be trained.
        trainable: names of the parameters that are trained where nothing rests.
        norm: "running" or "batch".

    Returns:
        names of the parameters that cannot change from now on.

    Raises:
        ValueError: a part does not exist.

    Example:
        >>> from ms_longtail.models import CifarResNet, Classifier
        >>> model = Classifier(CifarResNet(8), 10)
        >>> fixed = freeze(model, ["backbone"], [p.name for p in model.trainable_params()])
        >>> [p.name for p in model.trainable_params()], "backbone.bn1.moving_mean" in fixed
        (['head.weight', 'head.bias'], True)
    """
    resting, trainable = parameters_in(network, parts), frozenset(trainable)
    for parameter in network.get_parameters():
        parameter.requires_grad = parameter.name in trainable and parameter.name not in resting
    fixed = set(resting & trainable)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.BatchNorm2d):
            still = cell.gamma.name in resting and norm == "running"
            cell.use_batch_statistics = False if still else None
            fixed |= {cell.moving_mean.name, cell.moving_variance.name} if still else set()
    return frozenset(fixed)


def rests(network: nn.Cell) -> bool:
    """Whether no weight before the head is trained, so that no gradient need pass it."""
    backbone = getattr(network, "backbone", None)
    return backbone is not None and not any(p.requires_grad for p in backbone.get_parameters())
