"""Batch normalisation with what follows it in a residual network."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .. import kernels
from ..kernels import known, leave, matched


class Norm(nn.BatchNorm2d):
    """relu(batch norm(x) + residual); the residual and the rectified linear unit are optional.

    y = gamma (x - mean) / sqrt(var + eps) + beta (Ioffe & Szegedy, "Batch Normalization", ICML 2015, alg. 1). Parameters,
    initial values and running statistics are those of `nn.BatchNorm2d`; MindSpore's momentum is the share of the OLD
    statistics, .9 is PyTorch's .1. On a CPU one compiled operator does all of it in training, elsewhere MindSpore's own.

    Args:
        channels: C.
        relu: let z = max(y, 0) follow.

    Shapes: x, residual (N, C, H, W) -> (N, C, H, W). With x in blocks of channels (see `kernels.layout`) the result is, too; only
    where MindSpore's own operator serves it is not. The compiled operator has no second-order gradient.

    >>> import numpy as np
    >>> x = Tensor(np.ones((4, 8, 2, 2), np.float32))
    >>> Norm(8, relu=True)(x, residual=x).shape
    (4, 8, 2, 2)
    """

    def __init__(self, channels: int, *, relu: bool = False, eps: float = 1e-5, momentum: float = 0.9):
        super().__init__(channels, eps=eps, momentum=momentum)
        self.relu = relu
        self.fused = not kernels.reason()
        self.settings = Tensor(np.array([eps, momentum], np.float32))
        # `to_float` sets these; the graph parser wants them there from the start.
        self.add_flags(fp16=False, bf16=False)
        if self.fused:
            self.alone, self.with_residual = kernels.batch_norm(relu, False), kernels.batch_norm(relu, True)

    def construct(self, x, residual=None):
        batch = self.training if self.use_batch_statistics is None else self.use_batch_statistics
        # In PyNative mode x is still float32 here after `to_float`: its operators cast, and ours would get halves.
        single = not (self.fp16 or self.bf16) and x.dtype == ms.float32 and self.gamma.dtype == ms.float32
        if self.fused and batch and single and known(x.shape):
            return self._in_one(x, residual)
        x = leave(x)
        if batch:
            y = self.bn_train(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        else:
            y = self.bn_infer(x, self.gamma, self.beta, self.moving_mean, self.moving_variance)[0]
        if residual is not None:
            y = y + leave(residual)
        return ops.relu(y) if self.relu else y

    def _in_one(self, x, residual):
        old = self.moving_mean, self.moving_variance
        if residual is None:
            z, _, _, mean, variance = self.alone(x, self.gamma, self.beta, *old, self.settings)
        else:
            residual = matched(residual, x).astype(ms.float32)
            z, _, _, mean, variance = self.with_residual(x, self.gamma, self.beta, *old, self.settings, residual)
        ops.assign(self.moving_mean, mean)
        ops.assign(self.moving_variance, variance)
        return z


def synchronise(network: nn.Cell) -> str:
    """Let every `Norm` take its statistics over all workers; call it after the group of workers was joined.

    Returns:
        '' or, where the device has no operator for it, the reason why they stay each worker's own.
    """
    device = ms.get_context("device_target")
    if device != "Ascend":
        return f"MindSpore has SyncBatchNorm for Ascend, not for {device}"
    for _, cell in network.cells_and_names():
        if isinstance(cell, Norm):
            # Its operator knows the group; the parameters stay where they are.
            cell.bn_train = nn.SyncBatchNorm(cell.num_features, eps=cell.eps, momentum=1.0 - cell.momentum).bn_train
    return ""
