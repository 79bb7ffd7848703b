"""Softmax equalization loss: rare classes are left out of other images' softmax, at random."""

from __future__ import annotations

from typing import Annotated

import mindspore as ms
from annotated_types import Ge, Le
from mindspore import Parameter, Tensor, ops

from ..bounds import checked
from ..hashing_ops import bernoulli, column_keys
from ..registry import LOSSES
from .base import Denominator, Loss, expected

_OUT = -1e9  # added to a logit that is left out; no infinity, whose gradient would be NaN


def softmax_equalization(logits, labels, left_out):
    """-log( e^{z_y} / sum_k w_k e^{z_k} ), w_k = 1 - left_out_k (1 - t_k).

    Args:
        logits: z (B, C) float32; labels: (B,) int32; left_out: (B, C) float32 of zeros and ones.

    Returns:
        (loss (B,), weight (B,)), all weights 1.
    """
    own = expected(logits, labels)  # (B,)
    kept = ops.logsumexp(logits + _OUT * left_out, 1)
    # the true class is never left out: add it where the mask has taken it away
    loss = ops.logsumexp(ops.stack((kept, own + _OUT * (1.0 - expected(left_out, labels))), 1), 1) - own
    return loss, ops.ones_like(loss)


@LOSSES.register("seql")
class SEQL(Loss):
    """L_i = -log( e^{z_y} / sum_k w_k e^{z_k} ) with w_k = 1 - beta_ik T(f_k) (1 - t_k).

    T is 1 for classes whose frequency f_k = n_k / N is below lambda; beta_ik is 1 with probability gamma, drawn for every image
    and class.

    Tan et al., "Equalization Loss for Long-Tailed Object Recognition", CVPR 2020, section 3.3,
    eqs. 9 to 11 (https://arxiv.org/abs/2003.05176). Written as a log-sum-exp that cannot overflow.

    The draws are a hash of (seed, draw number, class), so that a resumed run repeats them. Draw numbers are given as `draws`
    (the pipeline's column), which makes them independent of how a batch is cut; without, the cell counts the images it has
    seen in a parameter that is saved with the others, and every worker has numbers of its own.

    Args:
        lambda_: .005 by default; at that value CIFAR-10-LT has one such class at IF 100, and CIFAR-100-LT 52.
        gamma: .9 by default (the paper's on ImageNet-LT; .95 on CIFAR-100-LT). 0 gives cross-entropy.
        seed: of the draws.
        class_counts, class_weights, reduction, denominator: see `Loss`.

    Shapes: logits (B, C), labels (B,) integers -> scalar, or (B,) with reduction "none".

    Raises:
        ValueError: a setting outside its bounds, and what `Loss` refuses.

    Example:
        >>> loss = SEQL(class_counts=[999, 1], gamma=1.0)
        >>> print(f"{float(loss(Tensor([[0.0, 9.0]]), Tensor([0]))):.4f}")        # class 1 is left out
        0.0000
    """

    needs_counts = True
    random = True

    @checked
    def __init__(
        self,
        *,
        class_counts=None,
        lambda_: Annotated[float, Ge(0)] = 0.005,
        gamma: Annotated[float, Ge(0), Le(1)] = 0.9,
        seed: Annotated[int, Ge(0)] = 0,
        class_weights=None,
        reduction: str = "mean",
        denominator: Denominator = "weights",
    ):
        super().__init__(
            class_counts=class_counts, class_weights=class_weights, reduction=reduction, denominator=denominator
        )
        self.gamma = gamma
        self.rare = Tensor(self.counts / self.counts.sum() < lambda_, ms.float32)  # T (C,)
        self.keys = column_keys(seed, "seql", self.num_classes)
        self.drawn = Parameter(Tensor(0, ms.int32), name="seql.drawn", requires_grad=False)

    def mask(self, draws):
        """beta (B, C) float32 for draw numbers (B,)."""
        return bernoulli(draws, self.keys, self.gamma)

    def terms(self, logits, labels, features, teacher_logits, draws):
        if draws is None:
            first = self.drawn + 0  # read before it is moved on
            draws = (first + ops.arange(logits.shape[0]).astype(ms.int32)) * self.ranks + self.rank
            ops.assign(self.drawn, first + logits.shape[0])
        return softmax_equalization(logits, labels, self.mask(draws) * self.rare)
