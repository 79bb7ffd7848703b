"""Two branches that read two orders: the bilateral-branch network's objective."""

from __future__ import annotations

import math
from typing import Literal

import mindspore as ms
from mindspore import nn, ops

from ..bounds import checked
from ..registry import OBJECTIVES
from .classification import Classification


def conventional_share(progress, decay: str):
    """alpha at the share `progress` = e / E of the epochs that are done: what the conventional branch counts.

    parabolic 1 - p^2, linear 1 - p, cosine cos(pi p / 2), equal 1/2 (Zhou et al., CVPR 2020, section 4.3 and table 4).
    """
    if decay == "parabolic":
        return 1.0 - progress * progress
    if decay == "linear":
        return 1.0 - progress
    if decay == "cosine":
        return ops.cos(progress * (0.5 * math.pi))
    return 0.5 * ops.ones_like(progress)


@OBJECTIVES.register("bilateral")
class Bilateral(Classification):
    """L = alpha L(z, y_c) + (1 - alpha) L(z, y_r),  z = head(2 [alpha f_c, (1 - alpha) f_r])  (cumulative learning).

    BBN: Zhou et al., "BBN: Bilateral-Branch Network with Cumulative Learning for Long-Tailed Visual Recognition", CVPR 2020,
    sections 4.1 to 4.3 (https://arxiv.org/abs/1912.02413). f_c are the conventional branch's features of an image x_c from the
    stage's order, f_r the re-balancing branch's of an image x_r from its second order (reversed in the paper). alpha falls
    with the epoch; at 1/2, where the network is tested, z is the model's own answer. L is any loss: the two labels are the two
    parts of a mixture with shares alpha and 1 - alpha.

    Args:
        model: a classifier of two branches (`branches: 2`).
        loss: a `losses.Loss`.
        teacher: a trained network, for a loss that needs one; it answers for x_c and x_r one by one.
        decay: how alpha falls over the epochs of the stage, "parabolic" by default; see `conventional_share`.

    Shapes: image, second (B, 3, H, W), label, second_label (B,), progress (1,): e / E, e the epochs that are done.

    Raises:
        ValueError: the model has not two branches.
    """

    second_part = "train"

    @checked
    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        decay: Literal["parabolic", "linear", "cosine", "equal"] = "parabolic",
    ):
        super().__init__(model, loss, teacher)
        if not getattr(model, "two_branches", False):
            raise ValueError("bilateral needs a residual network of two branches; set model.branches: 2")
        self.decay = decay
        self.columns = ("image", "label", "second", "second_label", "progress") + (("draw",) if self.random else ())

    def construct(self, image, label, second, second_label, progress, draw=None):
        alpha = conventional_share(progress.astype(ms.float32), self.decay)  # (1,)
        first = self.model.branch_features(image, False)  # (B, D)
        other = self.model.branch_features(second, True)  # (B, D)
        features = 2.0 * ops.cat((alpha * first, (1.0 - alpha) * other), axis=1)  # (B, 2D)
        if self.rests:
            features = ops.stop_gradient(features)
        logits = self.logits(features, draw)  # (B, C)
        numerator, denominator, observed = 0.0, 0.0, 0.0
        for labels, images, share in ((label, image, alpha), (second_label, second, 1.0 - alpha)):
            taught = None if self.teacher is None else self.teacher(images)
            n, d = self.loss.totals(logits, labels, features, taught, draw, share)
            numerator, denominator = numerator + n, denominator + d
            observed = observed + self.loss.observe(logits, labels, share)
        return numerator, denominator, observed
