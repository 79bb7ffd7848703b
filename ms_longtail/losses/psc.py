"""Prototypical supervised contrastive learning: views against one learned prototype a class."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Gt
from mindspore import ops

from ..bounds import checked
from ..registry import CONTRASTS
from .base import one_hot
from .contrast import OUT, AnchorMean, Contrast, log_sum


@CONTRASTS.register("psc")
class PSC(Contrast):
    """L_i = -log [exp(z_i . p_y / T) / sum_{c != y} exp(z_i . p_c / T)].

    Wang et al., "Contrastive Learning based Hybrid Networks for Long-Tailed Image Classification", CVPR 2021, section 3.3
    (https://arxiv.org/abs/2103.14267). The true class is not in the denominator, so the loss has no lower bound of 0. Memory
    grows with B x C, not with B x B, and one view is enough.

    Args:
        class_counts: not needed; with them the number of prototypes is checked.
        temperature: T, default .1 (the paper's).
        anchor_mean: "anchor" (the paper's) or "class", see `Contrast`.

    Shapes: embeddings (V, B, E), labels (B,), prototypes (C, E) -> scalar.

    Raises:
        ValueError: a setting outside its bounds, prototypes missing or of another number of classes.

    Example:
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> z, p = Tensor(np.eye(3, dtype=np.float32)[None]), Tensor(np.eye(3, dtype=np.float32))
        >>> print(f"{float(PSC(temperature=1.0)(z, Tensor([0, 1, 2]), p)):.4f}")           # log 2 - 1
        -0.3069
    """

    min_views = 1
    needs_prototypes = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        temperature: Annotated[float, Gt(0)] = 0.1,
        anchor_mean: AnchorMean = "anchor",
    ):
        super().__init__(class_counts=class_counts, temperature=temperature, anchor_mean=anchor_mean)

    def elements(self, anchors, labels, others, other_labels, first, prototypes):
        s = ops.matmul(anchors, prototypes.T) * self.inverse_temperature  # (N, C)
        chosen = one_hot(labels, prototypes.shape[0])
        return log_sum(s - OUT * chosen) - (chosen * s).sum(axis=1)
