"""Classifier heads: from features (B, D) to logits (B, C)."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from .experts import ExpertCosines, ExpertHeads
from .layers import of_length_one


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
        return self.scale * ops.matmul(of_length_one(features), of_length_one(self.weight).T)  # (B, C)


class Calibration(nn.Cell):
    """Parameters that correct a classifier's logits, all at a value at which they change nothing.

    Their names hold `calibration`, by which a stage freezes them, a checkpoint without them can be loaded, and weight decay
    passes them over.

    Args:
        values: name -> value that changes nothing.
    """

    def __init__(self, **values: np.ndarray):
        super().__init__()
        self.neutral = {name: np.asarray(value, np.float32) for name, value in values.items()}
        for name, value in values.items():
            setattr(self, name, Parameter(Tensor(np.asarray(value), ms.float32)))


def neutral_values(network: nn.Cell) -> dict[str, np.ndarray]:
    """Parameter name -> value that changes nothing, of every correction in a network."""
    found = [cell for _, cell in network.cells_and_names() if isinstance(cell, Calibration)]
    return {getattr(cell, name).name: value for cell in found for name, value in cell.neutral.items()}


class LearnableScale(Linear):
    """logits_c = (w_c f + b_c) s_c: learnable weight scaling (LWS: Kang et al., "Decoupling
    Representation and Classifier for Long-Tailed Recognition", ICLR 2020, https://arxiv.org/abs/1910.09217).

    Stage 1 trains W and b with `freeze: calibration`, stage 2 the scales alone: `freeze: [backbone, classifier]`. At s = 1,
    where it begins, the logits are those of `Linear`, to the last bit.

    Args:
        in_features: D.
        num_classes: C.

    Shapes: features (B, D) -> logits (B, C); s (C,).

    Example:
        >>> head = LearnableScale(2, 3)
        >>> print(head(Tensor(np.ones((4, 2), np.float32))).shape, head.calibration.scale.asnumpy().tolist())
        (4, 3) [1.0, 1.0, 1.0]
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__(in_features, num_classes)
        self.calibration = Calibration(scale=np.ones(num_classes))

    def construct(self, features):
        return super().construct(features) * self.calibration.scale


class DisAlign(Linear):
    """z'_c = (1 + s_c q(f)) z_c + b_c q(f), q(f) = sigmoid(v f + u): distribution alignment of a trained classifier's logits z.

    Zhang et al., "Distribution Alignment: A Unified Framework for Long-tail Visual Recognition", CVPR 2021
    (https://arxiv.org/abs/2103.16370). Stage 1 trains W and the classifier's bias with `freeze: calibration`, stage 2
    s, b, v and u alone, with `freeze: [backbone, classifier]` and class weights that grow with rarity. s and b begin at 0, so
    that the logits are those of `Linear` to the last bit (the authors' code begins at s = 1, that is at (1 + q) z); v and u
    begin at 0 as well, at a confidence of one half.

    Args:
        in_features: D.
        num_classes: C.

    Shapes: features (B, D) -> logits (B, C); s, b (C,); v (D,), u (1,).

    Example:
        >>> head = DisAlign(2, 3)
        >>> print(head(Tensor(np.ones((4, 2), np.float32))).shape, head.calibration.shift.asnumpy().tolist())
        (4, 3) [0.0, 0.0, 0.0]
    """

    def __init__(self, in_features: int, num_classes: int):
        super().__init__(in_features, num_classes)
        zeros = np.zeros(num_classes)
        self.calibration = Calibration(scale=zeros, shift=zeros, weight=np.zeros(in_features), offset=np.zeros(1))

    def construct(self, features):
        logits = super().construct(features)  # (B, C)
        own = self.calibration
        score = (features * own.weight).sum(axis=1, keepdims=True) + own.offset
        confidence = ops.sigmoid(score)  # (B, 1)
        return (1.0 + own.scale * confidence) * logits + own.shift * confidence


HEADS = {"linear": Linear, "cosine": Cosine, "lws": LearnableScale, "disalign": DisAlign}
Head = Literal["linear", "cosine", "lws", "disalign"]


def build_head(name: Head, in_features: int, num_classes: int, *, scale: float = 1.0, experts: int = 1) -> nn.Cell:
    """The head of a name, one for every expert where there are several.

    Raises:
        ValueError: a scale for a head without one, experts for a head that is not made for them.
    """
    if scale != 1.0 and name != "cosine":
        raise ValueError(f"scale = {scale}: multiplies cosines; set head: cosine, or leave it at 1")
    if experts == 1:
        return Cosine(in_features, num_classes, scale) if name == "cosine" else HEADS[name](in_features, num_classes)
    if name == "cosine":
        return ExpertCosines(in_features, num_classes, experts, scale)
    if name == "linear":
        return ExpertHeads(in_features, num_classes, experts)
    raise ValueError(f"head {name!r} corrects one classifier; with {experts} experts take linear or cosine")
