"""Batch normalisation in training by a compiled operator, with the residual and the rectified linear unit that follow."""

from __future__ import annotations

import functools

from mindspore import ops

from .layout import plain
from .operator import Operator


@functools.cache
def batch_norm(relu: bool, residual: bool) -> Operator:
    """The operator (x, gamma, beta, moving mean, moving variance, settings[, residual]) -> (z, statistics...).

    z = relu(gamma (x - mean) / sqrt(var + eps) + beta + residual) with the batch's own mean and (biased) variance, as
    `nn.BatchNorm2d` in training, the sum and `ops.relu` compute it, but every activation passes through memory once instead of
    four times. `settings` is (eps, share of the old statistics), float32. It returns z, mean, 1 / sqrt(var + eps), and
    the new moving mean and variance (unbiased, as MindSpore has it), which the caller assigns. It is differentiable in x,
    gamma, beta and the residual, through z alone, and once.

    Shapes: x, residual, z (N, C, H, W) or all (N, C / L, H, W, L), see `layout`; all others (C,). float32 only.
    """
    name = "Norm" + "Add" * residual + "Relu" * relu

    def shape(x, *others):
        channels = plain(x)[1:2]
        if len(plain(x)) != 4 or any(tuple(other) != channels for other in others[:4]):
            raise ValueError(f"x must have the shape (N, {others[0][0]}, H, W), got {tuple(x)}")
        if 0 in tuple(x):
            raise ValueError(f"x of shape {tuple(x)} has no values to normalise")
        if residual and tuple(others[5]) != tuple(x):
            raise ValueError(f"the residual must have the shape of x, {tuple(x)}, got {tuple(others[5])}")
        return x, channels, channels, channels, channels

    def back_shape(dz, x, gamma, *others):
        return (x, gamma, gamma, x) if residual else (x, gamma, gamma)

    backward = Operator(f"{name}Backward", back_shape, outputs=4 if residual else 3)

    # What the batch's statistics give is no gradient of theirs: the moving ones are not part of the loss.
    def bprop(x, gamma, beta, mean, variance, settings, out, dout):
        dx, dgamma, dbeta = backward(dout[0], x, gamma, beta, out[1], out[2])
        return dx, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(variance), ops.zeros_like(settings)

    def bprop_residual(x, gamma, beta, mean, variance, settings, added, out, dout):
        dx, dgamma, dbeta, dadded = backward(dout[0], x, gamma, beta, out[1], out[2], out[0])
        return dx, dgamma, dbeta, ops.zeros_like(mean), ops.zeros_like(variance), ops.zeros_like(settings), dadded

    return Operator(f"{name}Forward", shape, bprop_residual if residual else bprop, outputs=5)
