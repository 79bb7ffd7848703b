"""Classification of mixed images: several labels an image, each with a share."""

from __future__ import annotations

import mindspore as ms
from mindspore import nn, ops

from .classification import Classification


class Mixture(Classification):
    """From batch columns to the sums of L_i = sum_k s_ik L(y_ik): numerator, denominator and what the loss's state learns.

    Every label counts by its share in all three, so class weights, weighted denominators and losses with a memory mean the
    same as without mixing.

    Args:
        model: a classifier with `features` and `head`; with `layer` also `mixed` and `points`.
        loss: a `losses.Loss`.
        teacher: a trained network, for a loss that needs one. It answers for the image that the network sees; where a layer is
            mixed, for the two images one by one.
        parts: labels of an image, K.
        second: whether a second image comes along: blended with the first, or, with `layer`, sent through the network too.
        layer: name of the layer of the model whose output is blended; None for its input.

    Attributes:
        columns: image, labels (B, K), shares (B, K), blend (B,), partner (B,), then second and draw where they are needed.

    Raises:
        ValueError: the model does not know the layer.
    """

    def __init__(
        self,
        model: nn.Cell,
        loss: nn.Cell,
        teacher: nn.Cell | None = None,
        *,
        parts: int = 2,
        second: bool = False,
        layer: str | None = None,
    ):
        super().__init__(model, loss, teacher)
        self.parts, self.second, self.layer = parts, second, layer
        if layer is not None and layer not in model.points:
            raise ValueError(
                f"layer = {layer!r}: the model has no such layer to mix at; there are: {', '.join(model.points)}"
            )
        self.columns = ("image", "labels", "shares", "blend", "partner")
        self.columns += (("second",) if second else ()) + (("draw",) if self.random else ())

    def construct(self, image, labels, shares, blend, partner, *more):
        draw = more[-1] if self.random else None
        if self.second and self.layer is not None:
            image = ops.cat((image, more[0]))  # (2B, 3, H, W)
        elif self.second:
            share = blend.reshape(-1, 1, 1, 1)
            image = share * image.astype(ms.float32) + (1 - share) * more[0].astype(ms.float32)
        teacher_logits = None
        if self.teacher is not None:
            teacher_logits = self.teacher(image)
        if self.layer is None:
            features = self.model.features(image)  # (B, D)
            if self.rests:
                features = ops.stop_gradient(features)
            logits = self.logits(features, draw)  # (B, C)
        else:
            features, logits = self.model.mixed(image, self.layer, partner, blend, draw)
        numerator, denominator, observed = 0.0, 0.0, 0.0
        for k in range(self.parts):
            label, share = labels[:, k], shares[:, k]
            taught = teacher_logits
            if teacher_logits is not None and self.layer is not None:
                taught = teacher_logits[: label.shape[0]] if k == 0 else ops.gather(teacher_logits, partner, 0)
            n, d = self.loss.totals(logits, label, features, taught, draw, share)
            numerator, denominator = numerator + n, denominator + d
            observed = observed + self.loss.observe(logits, label, share)
        return numerator, denominator, observed
