"""The few layers that every backbone is made of, and their initial values."""

from __future__ import annotations

import zlib
from functools import partial
from typing import Literal

import numpy as np
from mindspore import nn, ops

from ..kernels import Conv2d, MaxPool2d, leave, matched, reason
from ..parameters import assign

__all__ = ["Init", "blended", "blocked_conv", "conv", "initialise", "joined", "leave", "max_pool", "of_length_one"]


def conv(inputs: int, outputs: int, kernel: int, stride: int = 1, *, groups: int = 1, blocked: bool = False) -> nn.Cell:
    """Convolution without bias, padded so that stride 1 keeps the size.

    Args:
        blocked: see `blocked_conv`.
    """
    cell = nn.Conv2d if reason() else partial(Conv2d, blocked=blocked)
    return cell(inputs, outputs, kernel, stride, pad_mode="pad", padding=kernel // 2, group=groups, has_bias=False)


# `conv` as the backbones here take it: on a CPU its result in training is in blocks of channels (see `kernels.layout`). Another
# convolution, `Norm`, `max_pool`, `blended` and `joined` take it as it is; before anything else comes `leave`.
blocked_conv = partial(conv, blocked=True)


def max_pool(kernel: int, stride: int, padding: int) -> nn.Cell:
    """The maximum over windows, inside the image."""
    if reason():
        return nn.MaxPool2d(kernel_size=kernel, stride=stride, pad_mode="pad", padding=padding)
    return MaxPool2d(kernel, stride, padding)


def joined(outputs):
    """Activations side by side, (N, C_i, H, W) -> (N, sum of C_i, H, W); one at rest may have another layout than the others."""
    return ops.cat(tuple(matched(x, outputs[0]) for x in outputs), axis=1)


def blended(x, partner, blend):
    """b_i x_i + (1 - b_i) x_j with j = partner_i: where mixing happens inside a network.

    Args:
        x: (N, ...), the output of a layer; N is at least B, what comes after the first B rows are partners alone.
        partner: rows of x, (B,) int32.
        blend: b, (B,) float32.

    Returns:
        (B, ...).
    """
    count = blend.shape[0]
    share = blend.reshape((count,) + (1,) * (x.ndim - 1)).astype(x.dtype)
    own = x if x.shape[0] == count else x[:count]
    return share * own + (1 - share) * ops.gather(x, partner, 0)


def of_length_one(rows):
    """Rows (..., D) of length 1; a row of length 0 stays 0, and so does its gradient (the root alone would make it NaN)."""
    return rows / ops.maximum(rows.square().sum(axis=-1, keepdims=True), 1e-24).sqrt()


Init = Literal["kaiming", "kaiming_fan_out", "xavier", "xavier_uniform"]


def initialise(cell: nn.Cell, seed: int, init: Init = "kaiming", zero_gamma: bool = False) -> None:
    """Random numbers for every weight of two or more axes, zero for biases of linear layers.

    The numbers depend on (seed, parameter name) alone: not on the order of construction, the device or the number of
    workers. A parameter may say another `fan_in`. Normalisation parameters and running statistics keep their constants (1 and 0).

    Args:
        init: "kaiming": N(0, 2 / fan_in) (He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10); "kaiming_fan_out":
            N(0, 2 / fan_out) (the same, eq. 14); "xavier": N(0, 2 / (fan_in + fan_out)) and "xavier_uniform": the uniform
            distribution of that variance (Glorot, Bengio, AISTATS 2010, eq. 16). fan_out counts all groups of a convolution.
        zero_gamma: let every residual block begin as its shortcut: the scale of its last normalisation is 0 (Goyal et al.,
            2017, section 5.1).
    """
    for name, parameter in cell.parameters_and_names():
        shape = parameter.shape
        if len(shape) >= 2:
            fan_in = getattr(parameter, "fan_in", None) or int(np.prod(shape[1:]))
            fan_out = shape[0] * int(np.prod(shape[2:]))
            rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
            fan = {"kaiming": fan_in, "kaiming_fan_out": fan_out}.get(init, fan_in + fan_out)
            if init == "xavier_uniform":
                value = np.sqrt(6.0 / fan) * rng.uniform(-1.0, 1.0, shape)
            else:
                value = rng.standard_normal(shape) * np.sqrt(2.0 / fan)
        elif name.endswith("bias"):
            value = np.zeros(shape)
        else:
            continue
        assign(parameter, value)
    if zero_gamma:
        for _, block in cell.cells_and_names():
            if hasattr(block, "closing_norm"):
                assign(block.closing_norm.gamma, np.zeros(block.closing_norm.gamma.shape))
