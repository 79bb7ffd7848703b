"""Several experts behind shared early layers: their late layers, and their classifiers."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .layers import joined, of_length_one


class ExpertLayers(nn.Cell):
    """The late layers of every expert, side by side (RIDE: Wang et al., ICLR 2021, section 3).

    As with two branches, this is one network with as many times the channels seen from outside: features, activation maps and
    checkpoints need not know that there are experts.

    Args:
        build: makes the layers of one expert; it is called `count` times.

    Shapes: (B, d, h, w) -> (B, count D, h', w').
    """

    def __init__(self, build: Callable[[], nn.Cell], count: int):
        super().__init__()
        self.each = nn.CellList([build() for _ in range(count)])

    def construct(self, x):
        outputs = ()
        for layers in self.each:
            outputs += (layers(x),)
        return joined(outputs)


class ExpertHeads(nn.Cell):
    """A linear classifier for every expert; the logits are their mean.

    Args:
        in_features: E D, the features of all experts. num_classes: C. experts: E.

    Shapes: features (B, E D) -> (B, C), and `each` -> (E, B, C). W (C, E D) holds expert e's weights in columns e D to (e + 1) D.
    """

    def __init__(self, in_features: int, num_classes: int, experts: int, *, bias: bool = True):
        super().__init__()
        self.experts, self.size, self.num_classes = experts, in_features // experts, num_classes
        self.weight = Parameter(Tensor(np.zeros((num_classes, in_features)), ms.float32))  # see `initialise`
        self.weight.fan_in = self.size  # an expert sees its own features alone
        if bias:
            self.bias = Parameter(Tensor(np.zeros(experts * num_classes), ms.float32))

    def construct(self, features):
        return self.each(features).mean(axis=0)

    def each(self, features):
        bias = self.bias.reshape(self.experts, 1, self.num_classes)
        return ops.matmul(self.split(features), self.split(self.weight).swapaxes(1, 2)) + bias

    def split(self, rows):
        """(N, E D) -> (E, N, D)."""
        return rows.reshape(rows.shape[0], self.experts, self.size).swapaxes(0, 1)


class ExpertCosines(ExpertHeads):
    """A cosine classifier for every expert: both sides have length 1, no bias; `scale` times the cosines.

    Args:
        in_features, num_classes, experts: as `ExpertHeads`. scale: factor on the cosines, 1 by default.
    """

    def __init__(self, in_features: int, num_classes: int, experts: int, scale: float = 1.0):
        super().__init__(in_features, num_classes, experts, bias=False)
        self.scale = scale

    def each(self, features):
        features, weight = of_length_one(self.split(features)), of_length_one(self.split(self.weight))
        return self.scale * ops.matmul(features, weight.swapaxes(1, 2))  # (E, B, D) and (E, D, C)

    def of_classes(self, labels, features):
        """Weights (B, E D) with which the logit of an image's class is the sum of its features, up to a factor: an expert's
        weights and features count by their direction alone."""
        features, weight = self.split(features), self.split(ops.gather(self.weight, labels, 0))  # (E, B, D)
        lengths = (features.square().sum(axis=2, keepdims=True) * weight.square().sum(axis=2, keepdims=True)).sqrt()
        return (weight / ops.maximum(lengths, 1e-12)).swapaxes(0, 1).reshape(labels.shape[0], -1)


def narrowed(width: int, factor: float) -> int:
    """Channels of an expert's layer that has `width` in a network of one; an even number, since "option A" pads both sides."""
    return max(2, 2 * round(width * factor / 2))
