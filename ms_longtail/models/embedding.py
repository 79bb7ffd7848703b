"""What stands behind a network during contrastive training and is thrown away after it: projection and prototypes."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .layers import initialise

Projection = Literal["mlp", "mlp_norm", "linear", "none"]
Prototypes = Literal["classifier", "learned"]


class Perceptron(nn.SequentialCell):
    """Linear, batch normalisation where asked for, ReLU, linear: (N, D) -> (N, E)."""

    def __init__(self, inputs: int, hidden: int, outputs: int, *, norm: bool):
        middle = [nn.BatchNorm1d(hidden, eps=1e-5, momentum=0.9)] if norm else []
        super().__init__([nn.Dense(inputs, hidden), *middle, nn.ReLU(), nn.Dense(hidden, outputs)])


class Embedding(nn.Cell):
    """From a classifier's features (N, D) to embeddings (N, E), and from its classes to prototypes (C, E).

    Args:
        feature_size: D. num_classes: C.
        projection: "mlp" (one hidden layer), "mlp_norm" (with batch normalisation in it, as BCL and PaCo have it), "linear" or
            "none" (the features themselves, E = D).
        hidden_size, embedding_size: of the projection; E.
        prototypes: None, "classifier" (a perceptron of the same kind applied to the classifier's weights, Zhu et al., CVPR 2022,
            section 3.3) or "learned" (free parameters, Wang et al., CVPR 2021).
        seed: of the initial weights.

    Raises:
        ValueError: prototypes of the classifier without a projection for them.
    """

    def __init__(
        self,
        feature_size: int,
        num_classes: int,
        *,
        projection: Projection = "mlp_norm",
        hidden_size: int = 512,
        embedding_size: int = 128,
        prototypes: Prototypes | None = None,
        seed: int = 0,
    ):
        super().__init__()
        sizes = (feature_size, hidden_size, embedding_size)
        self.projection = build_projection(projection, *sizes)
        self.kind = prototypes
        if prototypes == "classifier":
            self.of_classifier = build_projection(projection, *sizes)
        if prototypes == "learned":
            size = feature_size if projection == "none" else embedding_size
            self.learned = Parameter(Tensor(np.zeros((num_classes, size)), ms.float32))
        initialise(self, seed)

    def construct(self, features):
        return self.projection(features)

    def prototypes(self, weight):
        """Prototypes (C, E); `weight` (C, D) is the classifier's."""
        if self.kind == "learned":
            return self.learned
        return self.of_classifier(weight)


def build_projection(kind: Projection, inputs: int, hidden: int, outputs: int) -> nn.Cell:
    if kind == "none":
        return nn.Identity()
    if kind == "linear":
        return nn.Dense(inputs, outputs)
    return Perceptron(inputs, hidden, outputs, norm=kind == "mlp_norm")


def follow(slow, fast, momentum: float):
    """slow = m slow + (1 - m) fast for two lists of parameters in the same order (He et al., MoCo, CVPR 2020, eq. 2)."""
    done = True
    for old, new in zip(slow, fast):  # noqa: B905  (the graph parser knows no `strict`)
        done = ops.depend(done, ops.assign(old, momentum * old + (1.0 - momentum) * new))
    return done
