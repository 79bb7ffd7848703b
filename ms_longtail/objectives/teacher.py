"""A trained network that only answers: evaluation mode whatever happens around it, no gradient."""

from __future__ import annotations

from mindspore import nn, ops


class Teacher(nn.Cell):
    """images -> logits of a network that stays as it is.

    `Model.train` sets the whole train network to training mode, where batch normalisation would use the batch's statistics and
    change the running ones; this cell hands that on as evaluation mode.

    Args:
        network: from images (B, 3, H, W) to logits (B, C). Its parameters get the prefix `teacher.` and no gradient.
    """

    def __init__(self, network: nn.Cell):
        super().__init__()
        self.teacher = network
        for parameter in network.get_parameters():
            parameter.requires_grad = False
        self.set_train(False)

    def add_flags_recursive(self, **flags):
        # What `set_train` of a cell around this one calls on its children.
        if "training" in flags:
            flags["training"] = False
        return super().add_flags_recursive(**flags)

    def construct(self, images):
        return ops.stop_gradient(self.teacher(images))
