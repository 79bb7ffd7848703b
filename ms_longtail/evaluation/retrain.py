"""Decoupled classifiers trained on features that were kept: cRT, LWS and DisAlign without a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

Draws = Literal["class_balanced", "instance"]


def _softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


class Retrained(ABC):
    """A classifier's parameters that are trained while features and all else rest.

    Args:
        weight: W (C, D). bias: b (C,).

    Attributes:
        parameters: name -> array, changed by `train`.
        decayed: names of those that weight decay acts on.
        draws: how images are drawn: "class_balanced", or "instance" with each image's weight (1 / pi_y)^rho.
        lr: learning rate that the published recipes begin with.
    """

    draws: Draws = "class_balanced"
    decayed: tuple[str, ...] = ()
    lr = 0.1

    def __init__(self, weight: np.ndarray, bias: np.ndarray, seed: int = 0):
        self.weight, self.bias = weight.astype(np.float64), bias.astype(np.float64)
        self.parameters: dict[str, np.ndarray] = {}

    def given(self, features: np.ndarray) -> np.ndarray:
        """Logits of the classifier as it was, (N, C), of the features' type."""
        return features @ self.weight.T.astype(features.dtype, copy=False) + self.bias.astype(
            features.dtype, copy=False
        )

    @abstractmethod
    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, C)."""

    @abstractmethod
    def gradients(self, features: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
        """By name, from dL/dz (N, C)."""


class ClassifierRetraining(Retrained):
    """cRT: W and b begin anew and are trained on class-balanced draws (Kang et al., ICLR 2020)."""

    decayed = ("weight", "bias")

    def __init__(self, weight: np.ndarray, bias: np.ndarray, seed: int = 0):
        super().__init__(weight, bias, seed)
        new = np.random.default_rng((seed, 1)).standard_normal(weight.shape) * np.sqrt(2.0 / weight.shape[1])
        self.parameters = {"weight": new, "bias": np.zeros(len(bias))}

    def logits(self, features):
        weight, bias = (self.parameters[name].astype(features.dtype, copy=False) for name in ("weight", "bias"))
        return features @ weight.T + bias

    def gradients(self, features, error):
        return {"weight": error.T @ features, "bias": error.sum(axis=0)}


class WeightScaling(Retrained):
    """LWS: z_c = (w_c f + b_c) s_c, s alone is trained, from 1, on class-balanced draws (Kang et al., ICLR 2020)."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray, seed: int = 0):
        super().__init__(weight, bias, seed)
        self.parameters = {"scale": np.ones(len(bias))}

    def logits(self, features):
        return self.given(features) * self.parameters["scale"].astype(features.dtype, copy=False)

    def gradients(self, features, error):
        return {"scale": (error * self.given(features)).sum(axis=0)}


class DistributionAlignment(Retrained):
    """DisAlign: z'_c = (1 + s_c q) z_c + b_c q, q = sigmoid(v f + u); s, b, v, u from 0, on images as they come, weighted by
    (1 / pi_y)^rho (Zhang et al., CVPR 2021)."""

    draws: Draws = "instance"

    def __init__(self, weight: np.ndarray, bias: np.ndarray, seed: int = 0):
        super().__init__(weight, bias, seed)
        classes, size = weight.shape
        self.parameters = {"s": np.zeros(classes), "b": np.zeros(classes), "v": np.zeros(size), "u": np.zeros(1)}

    def _confidence(self, features):
        v, u = (self.parameters[name].astype(features.dtype, copy=False) for name in ("v", "u"))
        return 1 / (1 + np.exp(-(features @ v + u)))[:, None]  # (N, 1)

    def logits(self, features):
        s, b = (self.parameters[name].astype(features.dtype, copy=False) for name in ("s", "b"))
        q = self._confidence(features)
        return (1 + s * q) * self.given(features) + b * q

    def gradients(self, features, error):
        q, z = self._confidence(features), self.given(features)
        pull = (error * (self.parameters["s"] * z + self.parameters["b"])).sum(axis=1, keepdims=True) * q * (1 - q)
        return {
            "s": (error * q * z).sum(axis=0),
            "b": (error * q).sum(axis=0),
            "v": (pull * features).sum(axis=0),
            "u": pull.sum(axis=0),
        }


RETRAINED: dict[str, type[Retrained]] = {
    "crt": ClassifierRetraining,
    "lws": WeightScaling,
    "disalign": DistributionAlignment,
}


def train(
    classifier: Retrained,
    features: np.ndarray,
    labels: np.ndarray,
    *,
    epochs: int = 30,
    batch: int = 512,
    lr: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    rho: float = 1.2,
    seed: int = 0,
) -> Retrained:
    """Cross-entropy by SGD with momentum; the learning rate follows a cosine to 0.

    The images are seen without augmentation, since their features are fixed; a stage of a recipe augments them.

    Args:
        features, labels: of the training images, (N, D), (N,).
        epochs: of N draws each. lr: None for the method's own.
        rho: exponent of DisAlign's weights, 1.2 (ImageNet-LT's) by default.

    Returns:
        the classifier, its parameters changed.

    Example:
        >>> features, labels = np.eye(3).repeat(4, axis=0), np.arange(3).repeat(4)
        >>> classifier = train(ClassifierRetraining(np.ones((3, 3)), np.zeros(3)), features, labels)
        >>> classifier.logits(np.eye(3)).argmax(axis=1).tolist()
        [0, 1, 2]
    """
    counts = np.bincount(labels, minlength=len(classifier.bias)).astype(np.float64)
    order = np.argsort(labels, kind="stable")
    first = np.cumsum(counts) - counts
    present = np.flatnonzero(counts)
    weights = (counts.max() / np.maximum(counts, 1)) ** rho if classifier.draws == "instance" else np.ones(len(counts))
    rng = np.random.default_rng((seed, 2))
    batch = min(batch, len(labels))
    steps = max(1, epochs * len(labels) // batch)
    speed = {name: np.zeros_like(value) for name, value in classifier.parameters.items()}
    peak = classifier.lr if lr is None else lr
    for step in range(steps):
        if classifier.draws == "instance":
            rows = rng.integers(0, len(labels), batch)
        else:
            classes = rng.choice(present, batch)
            rows = order[(first[classes] + rng.random(batch) * counts[classes]).astype(np.int64)]
        x, y = features[rows].astype(np.float64), labels[rows]
        error = _softmax(classifier.logits(x))
        error[np.arange(batch), y] -= 1
        error *= (weights[y] / weights[y].sum())[:, None]
        rate = 0.5 * peak * (1 + np.cos(np.pi * step / steps))
        for name, gradient in classifier.gradients(x, error).items():
            value = classifier.parameters[name]
            if name in classifier.decayed:
                gradient = gradient + weight_decay * value
            speed[name] = momentum * speed[name] + gradient
            value -= rate * speed[name]
    return classifier
