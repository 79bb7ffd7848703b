"""`nn.MaxPool2d` for activations in blocks of channels."""

from __future__ import annotations

import functools

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from .extension import reason
from .layout import SIZES, in_blocks, leave
from .operator import Operator


class MaxPool2d(nn.MaxPool2d):
    """The maximum over windows, with the meaning of `nn.MaxPool2d` with pad_mode "pad".

    z[n, c, i, j] = max over a, b < kernel of x[n, c, stride i - padding + a, stride j - padding + b], inside the image.
    A float32 activation in blocks (see `layout`) stays in blocks, at a tenth of the time forward; another one goes to
    `nn.MaxPool2d`, in the plain layout. The gradient goes to the first of equal numbers; in blocks it has none of its own.

    Args:
        kernel, stride, padding: of both axes; padding is at most half the kernel.

    Shapes: x (N, C, H, W) or (N, C / L, H, W, L) -> z (N, C, OH, OW) or (N, C / L, OH, OW, L) with
    OH = (H + 2 padding - kernel) // stride + 1.

    >>> import numpy as np
    >>> MaxPool2d(3, 2, 1)(Tensor(np.ones((4, 2, 9, 9, 8), np.float32))).shape
    (4, 2, 5, 5, 8)
    """

    def __init__(self, kernel: int, stride: int, padding: int = 0):
        if why := reason():
            raise RuntimeError(f"the compiled maximum cannot serve: {why}; use nn.MaxPool2d")
        if padding > kernel // 2:
            raise ValueError(f"padding = {padding} is more than half of a window of {kernel}")
        super().__init__(kernel_size=kernel, stride=stride, pad_mode="pad", padding=padding)
        self.settings = Tensor(np.array([kernel, stride, padding], np.int64))
        self.blocks = _forward(kernel, stride, padding)
        self.add_flags(fp16=False, bf16=False)  # see conv2d.py

    def construct(self, x):
        if in_blocks(x) and x.dtype == ms.float32 and not (self.fp16 or self.bf16):
            return self.blocks(x, self.settings)
        return super().construct(leave(x))


@functools.cache
def _forward(kernel: int, stride: int, padding: int) -> Operator:
    def shape(x, _):
        sizes = tuple((size + 2 * padding - kernel) // stride + 1 for size in x[2:4])
        if len(x) != 5 or x[4] not in SIZES or min(sizes) < 1:
            raise ValueError(
                f"x must have the shape (N, G, H, W, 8 or 16) and room for windows of {kernel}, got {tuple(x)}"
            )
        return (*x[:2], *sizes, x[4])

    backward = _backward()

    def bprop(x, settings, out, dout):
        return backward(dout, x, out, settings), ops.zeros_like(settings)

    operator = Operator("MaxPoolForward", shape, bprop)
    operator.add_prim_attr("settings", (kernel, stride, padding))  # see conv2d.py
    return operator


@functools.cache
def _backward() -> Operator:
    def shape(dz, x, z, settings):
        return x

    return Operator("MaxPoolBackward", shape)
