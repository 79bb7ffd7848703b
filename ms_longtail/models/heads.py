"""Classifier heads: from features (B, D) to logits (B, C)."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class Linear(nn.Dense):
    """logits = f W^T + b.

    Args:
        in_features: D.
        num_classes: C.

    Shapes: features (B, D) -> logits (B, C); W (C, D), b (C,).
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__(in_features, num_classes)


class Cosine(nn.Cell):
    """logits_c = <f / |f|, w_c / |w_c|>: both sides have length 1, no bias, so the logits lie in [-1, 1].

    The classifier of LDAM (Cao et al., NeurIPS 2019, section 3.2), whose loss multiplies by a scale s; `scale` is for
    losses that do not. Columns of zero length stay zero.

    Args:
        in_features: D.
        num_classes: C.
        scale: factor on the logits, default 1.
    """

    def __init__(self, in_features: int, num_classes: int, scale: float = 1.0):
        super().__init__()
        self.weight = Parameter(Tensor(np.zeros((num_classes, in_features)), ms.float32))  # see `initialise`
        self.scale = scale

    def construct(self, features):
        features = features / ops.maximum(features.square().sum(axis=1, keepdims=True).sqrt(), 1e-12)  # (B, D)
        weight = self.weight / ops.maximum(self.weight.square().sum(axis=1, keepdims=True).sqrt(), 1e-12)  # (C, D)
        return self.scale * ops.matmul(features, weight.T)  # (B, C)


HEADS = {"linear": Linear, "cosine": Cosine}
