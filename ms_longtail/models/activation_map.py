"""Where in an image a network sees its class: class activation maps."""

from __future__ import annotations

from mindspore import nn, ops


class ActivationMaps(nn.Cell):
    """M = sum_k W_ck F_k for the true class c, min-max normalised image by image (Zhou et al., CVPR 2016, eq. 2).

    F (D, h, w) is the network's last feature map, W (C, D) the weight of its linear classifier, whose bias would only add a
    constant. A flat map becomes 0.

    Args:
        model: a classifier with `feature_map` and `head.weight`.

    Shapes: images (B, 3, H, W), label, index (B,) -> maps (B, h * w) float32 of whole numbers 0..255, label, index: what
    `training.predict.Collect` gathers.
    """

    def __init__(self, model: nn.Cell):
        super().__init__(auto_prefix=False)
        self.model = model
        # A classifier whose parts have lengths of their own says how its logit is made of the features.
        self.by_image = hasattr(getattr(model, "head", None), "of_classes")

    def construct(self, image, label, index):
        feature_map = self.model.feature_map(image)  # (B, D, h, w)
        batch, channels, height, width = feature_map.shape
        if self.by_image:
            weight = self.model.head.of_classes(label, feature_map.mean(axis=(2, 3)))  # (B, D)
        else:
            weight = ops.gather(self.model.head.weight, label, 0)  # (B, D)
        maps = ops.matmul(weight.expand_dims(1), feature_map.reshape(batch, channels, height * width)).squeeze(
            1
        )  # (B, h w)
        low, high = maps.min(axis=1, keepdims=True), maps.max(axis=1, keepdims=True)
        return ops.round(255.0 * (maps - low) / ops.maximum(high - low, 1e-12)), label, index
