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

    def set_train(self, mode: bool = True):
        return super().set_train(False)

    def construct(self, images):
        return ops.stop_gradient(self.teacher(images))
