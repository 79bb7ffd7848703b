"""Parametric contrastive learning: a classifier's logits and a queue of keys share one softmax."""

from __future__ import annotations

import math
from typing import Annotated

import mindspore as ms
from annotated_types import Ge, Gt
from mindspore import ops

from ..bounds import checked
from ..registry import CONTRASTS
from .contrast import OUT, Contrast, check_embeddings, equal, itself, log_sum, unit


@CONTRASTS.register("paco")
class PaCo(Contrast):
    """L_i = -1/W_i [beta log P(y_i) + alpha sum_{j in P(i)} log P(j)],  W_i = beta + alpha |P(i)|, with

    log P(c) = u_ic - log Z_i for a class, log P(j) = s_ij - log Z_i for an embedding, s_ij = q_i . k_j / T, and one softmax over
    both: Z_i = sum_c exp u_ic + gamma sum_{j != i} exp s_ij. Anchors are the batch's queries; they meet all queries and keys of the
    batch and the queue, and no gradient reaches keys or queue. u = (z + log pi) / supt are the classifier's logits, shifted by the
    class frequencies.

    Cui et al., "Parametric Contrastive Learning", ICCV 2021, section 3.2, eqs. 5 and 6 (https://arxiv.org/abs/2107.12028).

    Args:
        class_counts: not needed; with them the number of logits is checked.
        temperature: T, default .05 (the paper's for CIFAR; .2 for ImageNet-LT).
        alpha, beta, gamma: .01 (the paper's for CIFAR; .05 for ImageNet-LT), 1 and 1.
        supt: temperature of the classifier's logits, 1.

    Shapes: queries (B, E), keys (B, E), labels (B,), queue (K, E), queue_labels (K,) with -1 where the queue is still empty,
    u (B, C) -> scalar, this worker's part of the mean over the anchors of all workers.

    Raises:
        ValueError: a setting outside its bounds, other shapes, a queue that is smaller than a batch.

    Example:
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> q, u = Tensor(np.array([[1.0, 0.0]], np.float32)), Tensor(np.zeros((1, 2), np.float32))
        >>> queue, empty = Tensor(np.zeros((4, 2), np.float32)), Tensor(-np.ones(4, np.int32))
        >>> loss = PaCo(temperature=1.0, alpha=1.0)(q, q, Tensor([0]), queue, empty, u)
        >>> print(f"{float(loss):.4f}")                                                    # log(2 + e) - 1/2
        1.0514
    """

    queued = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        temperature: Annotated[float, Gt(0)] = 0.05,
        alpha: Annotated[float, Ge(0)] = 0.01,
        beta: Annotated[float, Gt(0)] = 1.0,
        gamma: Annotated[float, Gt(0)] = 1.0,
        supt: Annotated[float, Gt(0)] = 1.0,
    ):
        super().__init__(class_counts=class_counts, temperature=temperature)
        self.alpha, self.beta, self.log_gamma, self.supt = alpha, beta, math.log(gamma), supt

    def construct(self, queries, keys, labels, queue, queue_labels, shifted):
        check_embeddings(queries.expand_dims(0), labels)
        check_embeddings(keys.expand_dims(0), labels)
        if self.num_classes and shifted.shape[1] != self.num_classes:
            raise ValueError(f"u has {shifted.shape[1]} classes, class_counts {self.num_classes}")
        if queue.shape[0] < self.ranks * queries.shape[0]:
            raise ValueError(
                f"the queue has {queue.shape[0]} places, fewer than a batch of {self.ranks * queries.shape[0]}"
            )
        queries, keys, labels = unit(queries), ops.stop_gradient(unit(keys)), labels.astype(ms.int32)
        others, key_others, other_labels, first = queries, keys, labels, 0
        if self.ranks > 1:
            both, other_labels = self.gather(ops.cat((queries, keys), axis=1), labels)
            others, key_others = both[:, : queries.shape[1]], ops.stop_gradient(both[:, queries.shape[1] :])
            first = self.rank * queries.shape[0]
        contrast = ops.cat((others, key_others, queue))  # (M, E)
        contrast_labels = ops.cat((other_labels, other_labels, queue_labels.astype(ms.int32)))  # (M,)
        own = itself(queries.shape[0], contrast.shape[0], first)  # (B, M)
        s = ops.matmul(queries, contrast.T) * self.inverse_temperature  # (B, M)
        out = ops.maximum(own, (contrast_labels < 0).astype(ms.float32))  # an empty place is no negative either
        u = shifted.astype(ms.float32) / self.supt  # (B, C)
        positive = equal(labels, contrast_labels) - own
        count = positive.sum(axis=1)
        true = ops.gather_elements(u, 1, labels.expand_dims(1)).squeeze(1)
        pull = self.beta * true + self.alpha * (positive * s).sum(axis=1)
        losses = log_sum(u, s - OUT * out + self.log_gamma) - pull / (self.beta + self.alpha * count)
        return losses.sum() / (self.ranks * queries.shape[0])
