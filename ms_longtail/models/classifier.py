"""A backbone and a head as one network that takes pixels."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn, ops
from mindspore import dtype as mstype

from .branches import Branches
from .dropout import Dropout
from .heads import Head, build_head
from .layers import blended, leave


class Classifier(nn.Cell):
    """pixels -> normalise -> backbone -> average pool -> head.

    The network normalises its input itself: batches stay one byte a value until they are on the device, and whoever
    loads a checkpoint later cannot forget it.

    Args:
        backbone: Cell with `out_channels` (D), mapping (B, 3, H, W) to a feature map (B, D, h, w). One that names `points`
            also takes (x, point, partner, blend) and blends the output of the layer named (see `layers.blended`).
        num_classes: C.
        head: "linear", "cosine", "lws" or "disalign", see `heads`.
        scale: factor on the logits of the cosine head.
        experts: parts of equal size that the backbone's channels consist of, each with a classifier of its own.
        dropout: share of the features that `logits` leaves out in training; `seed`: of that choice.
        mean, std: per channel, for pixel values scaled to 0..1.

    Shapes: images (B, 3, H, W), values 0..255, uint8 or float -> logits (B, C) float32.
    """

    def __init__(
        self,
        backbone: nn.Cell,
        num_classes: int,
        *,
        head: Head = "linear",
        scale: float = 1.0,
        experts: int = 1,
        dropout: float = 0.0,
        seed: int = 0,
        mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] = (0.2023, 0.1994, 0.2010),
    ):
        super().__init__()
        self.backbone = backbone
        self.head = build_head(head, backbone.out_channels, num_classes, scale=scale, experts=experts)
        self.experts = experts
        self.dropout = Dropout(dropout, backbone.out_channels, seed) if dropout else None
        self.num_classes = num_classes
        self.feature_size = backbone.out_channels
        self.mean = Tensor(255.0 * np.asarray(mean, np.float32).reshape(1, 3, 1, 1))
        self.inverse_std = Tensor(1.0 / (255.0 * np.asarray(std, np.float32).reshape(1, 3, 1, 1)))

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the layers at whose output mixing can happen."""
        return (*getattr(self.backbone, "points", ()), "pool", "fc")

    def feature_map(self, images):
        """The backbone's last feature map, (B, D, h, w)."""
        # Half precision ends here, and so do blocks of channels.
        return leave(self.backbone(self.normalised(images))).astype(mstype.float32)

    def features(self, images):
        """The pooled features that the head reads, (B, D)."""
        return self.feature_map(images).mean(axis=(2, 3))

    def logits(self, features, draws=None):
        """The head's answer to features (B, D), after dropout in training.

        Args:
            draws: draw numbers (B,), from which it follows what is left out; needed where `dropout` is above 0.
        """
        if self.dropout is not None:
            features = self.dropout(features, draws)
        return self.head(features)  # (B, C)

    @property
    def two_branches(self) -> bool:
        """Whether the backbone is a trunk with a conventional and a re-balancing branch."""
        return isinstance(getattr(self.backbone, "branches", None), Branches)

    def branch_features(self, images, rebalancing: bool):
        """The pooled features of one of two branches, (B, D / 2)."""
        x = self.backbone.trunk(self.normalised(images))
        x = self.backbone.branches.rebalancing(x) if rebalancing else self.backbone.branches.conventional(x)
        return leave(x).astype(mstype.float32).mean(axis=(2, 3))

    def normalised(self, images):
        return (images.astype(mstype.float32) - self.mean) * self.inverse_std

    def mixed(self, images, point, partner, blend, draws=None):
        """(features, logits) where the output of the layer `point` is blended with that of other images, see `blended`."""
        if draws is not None and images.shape[0] > blend.shape[0]:
            draws = ops.cat((draws, -2 - draws))  # the partners behind them leave out others
        if point in ("pool", "fc"):
            features = self.features(images)
        else:
            features = leave(self.backbone(self.normalised(images), point, partner, blend))
            features = features.astype(mstype.float32).mean(axis=(2, 3))
        if point == "fc":
            return blended(features, partner, blend), blended(self.logits(features, draws), partner, blend)
        if point == "pool":
            features = blended(features, partner, blend)
        return features, self.logits(features, None if draws is None else draws[: blend.shape[0]])

    def construct(self, images):
        return self.head(self.features(images))  # (B, C)
