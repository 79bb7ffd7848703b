"""Mixup of what a layer of the network makes of two images."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt

from ..bounds import checked
from ..registry import MIXING
from .mixup import Mixup


@MIXING.register("manifold_mixup")
class ManifoldMixup(Mixup):
    """h = l h_i + (1 - l) h_j at the output h of one layer, loss as in mixup, l ~ Beta(a, a) (Verma et al., ICML 2019, sec. 2).

    The partner is an image of the same worker's micro-batch, whose h is there already, so the result depends on how a step
    is divided. With a second sampler its images go through the network as well, up to the layer.

    Args:
        layer: "pool" (default; the pooled features), "fc" (the logits), or a layer that the backbone names, such as "layer1".
            One layer for a whole stage, as in the bag of tricks (Zhang et al., AAAI 2021), which takes "pool".
        alpha: a, default 1.
        seed: the run's seed.

    Shapes: see `Mixing`; K = 2.

    Raises:
        ValueError: alpha is not above 0. An unknown layer is an error where the network is known.

    Example:
        >>> ManifoldMixup(layer="layer3").layer
        'layer3'
    """

    second = False

    @checked
    def __init__(self, *, layer: str = "pool", alpha: Annotated[float, Gt(0)] = 1.0, seed: int = 0):
        super().__init__(alpha=alpha, seed=seed)
        self.layer = layer
