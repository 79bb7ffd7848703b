"""Balanced contrastive learning: every class weighs the same among what repels, and every class is there."""

from __future__ import annotations

from typing import Annotated, Literal

import mindspore as ms
from annotated_types import Gt
from mindspore import ops

from ..bounds import checked
from ..registry import CONTRASTS
from .base import one_hot
from .contrast import OUT, AnchorMean, Contrast, equal, itself, log_sum


@CONTRASTS.register("balanced_supcon")
class BalancedSupCon(Contrast):
    """L_i = -1/|P(i)| sum_{p in P(i)} [s_ip - log Z_i],  s_ij = z_i . z_j / T,  P(i) the others of the same class among A.

    Zhu et al., "Balanced Contrastive Learning for Long-Tailed Visual Recognition", CVPR 2022, section 3.2, eq. 5
    (https://arxiv.org/abs/2207.09052). A are the views of the batch and, by class complement, a prototype of every class, which
    is never an anchor. With n_c members of class c in A, class averaging takes for Z_i
      L1  sum_{j in A, j != i} exp(s_ij) / (n_{y_j} - [y_j = y_i])    (the paper's)
      L2  sum_c exp(mean of s_ij over the members j != i of class c)
      L3  sum_c exp(z_i . p_c / T), the prototypes alone.

    With `anchor_mean: class` the minimum is the regular simplex for imbalanced batches too; the authors' code takes the plain
    mean over anchors, the default, whose minimum still favours frequent classes.

    Args:
        class_counts: not needed; with them the number of prototypes is checked.
        temperature: T, default .1 (the paper's).
        form: "L1", "L2" or "L3".
        averaging: False for Z_i = sum_{j != i} exp(s_ij) as in SupCon; it is part of L2 and L3.
        complement: whether the prototypes are among A; L3 has no meaning without.
        anchor_mean: "anchor" or "class", see `Contrast`.

    Shapes: embeddings (V, B, E), labels (B,), prototypes (C, E) -> scalar. Memory: a few matrices of
    (V B) x (M + C), M = V B x workers; with `anchor_mean: class`, or without prototypes, also of M x M.

    Raises:
        ValueError: a setting outside its bounds, L3 without prototypes, L2 or L3 without averaging, fewer than two views,
            prototypes missing or of another number of classes.

    Example:
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> z = Tensor(np.array([[[1.0, 0.0], [0.0, 1.0]]] * 2, np.float32))               # two views of two images
        >>> p = Tensor(np.eye(2, dtype=np.float32))
        >>> print(f"{float(BalancedSupCon(temperature=1.0)(z, Tensor([0, 1]), p)):.4f}")   # log(e + 1) - 1
        0.3133
    """

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        temperature: Annotated[float, Gt(0)] = 0.1,
        form: Literal["L1", "L2", "L3"] = "L1",
        averaging: bool = True,
        complement: bool = True,
        anchor_mean: AnchorMean = "anchor",
    ):
        super().__init__(class_counts=class_counts, temperature=temperature, anchor_mean=anchor_mean)
        if form == "L3" and not complement:
            raise ValueError("form L3 has the prototypes alone in its denominator; set complement: true")
        if form != "L1" and not averaging:
            raise ValueError(f"form {form} averages by its formula; set averaging: true, or form: L1")
        self.form, self.averaging, self.complement = form, averaging, complement
        self.needs_prototypes = complement

    def elements(self, anchors, labels, others, other_labels, first, prototypes):
        own = itself(anchors.shape[0], others.shape[0], first)  # (N, M)
        same = equal(labels, other_labels)  # (N, M)
        s = ops.matmul(anchors, others.T) * self.inverse_temperature  # (N, M)
        pulled, count = ((same - own) * s).sum(axis=1), (same - own).sum(axis=1)  # (N,)
        if not self.complement:
            ours = equal(other_labels, other_labels).sum(axis=1)  # n of every other's class, (M,)
            if self.form == "L2":
                top = self.class_means(s, own, labels, other_labels, None)
            elif self.averaging:
                # The members of the anchor's own class are one fewer, since it is none of them.
                top = s - OUT * own - log(ops.maximum(ours - same, 1.0))
            else:
                top = s - OUT * own
            return (log_sum(top) - pulled / ops.maximum(count, 1.0)) * ops.minimum(count, 1.0)
        t = ops.matmul(anchors, prototypes.T) * self.inverse_temperature  # (N, C)
        chosen = one_hot(labels, prototypes.shape[0])  # (N, C)
        pull = (pulled + (chosen * t).sum(axis=1)) / (count + 1.0)
        if self.form == "L3":
            return log_sum(t) - pull
        if self.form == "L2":
            return log_sum(self.class_means(s, own, labels, other_labels, t)) - pull
        if not self.averaging:
            return log_sum(s - OUT * own, t) - pull
        members = one_hot(other_labels, prototypes.shape[0]).sum(axis=0) + 1.0  # n_c, (C,)
        of_others = ops.gather(members, other_labels, 0)  # (M,)
        return log_sum(s - OUT * own - log(of_others - same), t - log(members - chosen)) - pull

    def class_means(self, s, own, labels, other_labels, t):
        """Mean similarity of an anchor to the members of each class but itself, (N, C) or, without prototypes, (N, M) with the
        mean of a class at its first member; a class without members is out."""
        if t is None:
            # Whose class is whose: every column stands for a class, and all but its first member's are left out.
            same = equal(other_labels, other_labels)  # (M, M)
            earlier = (ops.arange(same.shape[0]).expand_dims(1) < ops.arange(same.shape[0]).expand_dims(0)).astype(
                ms.float32
            )
            repeated = ops.minimum((same * earlier).sum(axis=0), 1.0)  # (M,)
            sums, counts = ops.matmul(s * (1.0 - own), same), same.sum(axis=0) - equal(labels, other_labels)
            return sums / ops.maximum(counts, 1.0) - OUT * ops.maximum(repeated, (counts < 0.5).astype(ms.float32))
        chosen = one_hot(other_labels, t.shape[1])  # (M, C)
        counts = chosen.sum(axis=0) + 1.0 - one_hot(labels, t.shape[1])  # (N, C); the prototype is always there
        return (ops.matmul(s * (1.0 - own), chosen) + t) / counts


def log(counts):
    """log n; the same digits wherever the numbers lie in memory, which `ops.log` does not promise."""
    return ops.xlogy(ops.ones_like(counts), counts)
