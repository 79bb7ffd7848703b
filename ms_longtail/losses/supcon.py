"""Supervised contrastive learning: views of the same class attract each other, all others repel."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from mindspore import ops

from ..bounds import checked
from ..registry import CONTRASTS
from .contrast import OUT, AnchorMean, Contrast, equal, itself, log_sum


@CONTRASTS.register("supcon")
class SupCon(Contrast):
    """L_i = -1/|P(i)| sum_{p in P(i)} [s_ip - log sum_{a != i} exp s_ia],  s_ij = z_i . z_j / T.

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, eq. 2, L_out (https://arxiv.org/abs/2004.11362). P(i) are the
    other views of the same class, of the same image or another. An anchor that has none counts 0.

    Args:
        temperature: T, default .1 (the paper's).
        anchor_mean: "anchor" (the paper's) or "class", see `Contrast`.

    Shapes: embeddings (V, B, E), labels (B,) -> scalar. Memory: a few matrices of (V B) x M, M = V B x workers; with
    `anchor_mean: class` also one of M x M.

    Raises:
        ValueError: a setting outside its bounds, fewer than two views.

    Example:
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> z = Tensor(np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]], np.float32))  # two views of two images
        >>> print(f"{float(SupCon(temperature=1.0)(z, Tensor([0, 1]))):.4f}")              # log(e + 2) - 1
        0.5514
    """

    @checked
    def __init__(
        self,
        *,
        temperature: Annotated[float, Gt(0)] = 0.1,
        anchor_mean: AnchorMean = "anchor",
    ):
        super().__init__(temperature=temperature, anchor_mean=anchor_mean)

    def elements(self, anchors, labels, others, other_labels, first, prototypes):
        own = itself(anchors.shape[0], others.shape[0], first)
        s = ops.matmul(anchors, others.T) * self.inverse_temperature  # (N, M)
        positive = equal(labels, other_labels) - own
        count = positive.sum(axis=1)
        loss = log_sum(s - OUT * own) - (positive * s).sum(axis=1) / ops.maximum(count, 1.0)
        return loss * ops.minimum(count, 1.0)
