"""`nn.Conv2d` on the CPU by a compiled operator: the library's own layouts, all threads."""

from __future__ import annotations

import ctypes
import functools
import logging

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from . import layout
from .extension import opened, reason
from .operator import Operator, known

log = logging.getLogger(__name__)


class Conv2d(nn.Conv2d):
    """A 2-D convolution with the arguments, the meaning, the parameters and the initial values of `mindspore.nn.Conv2d`.

    y[n, o] = bias[o] + sum over c, i, j of weight[o, c, i, j] * x[n, c, stride * h + dilation * i - padding, ...]

    Forward, data gradient and weight gradient of float32 run in oneDNN's own layouts, up to 3 times as fast as MindSpore's
    kernels on a CPU (a 1x1 convolution alone gains little); other types, shapes that oneDNN refuses and such as are not
    known when a graph is compiled go to `nn.Conv2d`. The same inputs give the same bits in every run, with any number of
    threads up to that of the processors (or 16). There is no second-order gradient.
    `models.layers.conv` takes it where it can serve; elsewhere the constructor raises RuntimeError with the reason.

    Args:
        blocked: in training, give the result in blocks of channels (see `kernels.layout`) where the processor has such a
            layout and they fit; what takes it must know it. No reordering is left between two convolutions then. x may come in
            blocks whatever this says.

    Raises ValueError when x is no activation of either layout, has other channels than the weight, or no place for the kernel.

    Shapes: x (N, C, H, W) or (N, C / L, H, W, L) -> (N, O, OH, OW), as in `nn.Conv2d`, or (N, O / L, OH, OW, L).

    >>> import numpy as np
    >>> Conv2d(3, 8, 3, stride=2, pad_mode="pad", padding=1)(Tensor(np.ones((4, 3, 32, 32), np.float32))).shape
    (4, 8, 16, 16)
    """

    def __init__(self, *arguments, blocked: bool = False, **keywords):
        super().__init__(*arguments, **keywords)
        if why := reason():
            raise RuntimeError(f"the compiled convolution cannot serve: {why}; use nn.Conv2d")
        padding = (-1,) * 4 if self.pad_mode == "same" else (0,) * 4 if self.pad_mode == "valid" else self.padding
        padding = (padding,) * 4 if isinstance(padding, int) else padding
        if self.weight.dtype != ms.float32:
            _say_half()
        geometry = self.numbers = (*self.stride, *self.dilation, *padding, self.group)
        self.geometry = Tensor(np.array(geometry, np.int64))
        # L of the result in training; at inference the plain layout serves, as it does for MindSpore's own normalisation.
        self.lanes = layout.lanes() if blocked and self.out_channels % layout.lanes() == 0 else 1
        self.fast, self.fast_blocked = _forward(geometry, 1), _forward(geometry, self.lanes)
        self.add_flags(fp16=False, bf16=False)  # `to_float` sets them; the graph parser wants them there from the start

    def add_flags(self, **flags):
        if flags.get("fp16") or flags.get("bf16"):
            _say_half()
        return super().add_flags(**flags)

    def construct(self, x):
        # In PyNative mode x is still float32 here after `to_float`: its operators cast, and ours would get halves.
        half = self.fp16 or self.bf16
        single = not half and x.dtype == ms.float32 and self.weight.dtype == ms.float32
        size = self.lanes if self.training else 1
        if single and known(x.shape) and _accepted(x.shape, self.weight.shape, self.numbers, size):
            fast = self.fast_blocked if self.training else self.fast
            output = fast(x, self.weight, self.geometry)
        else:
            output = self.conv2d(layout.leave(x), self.weight)
        if self.has_bias:
            output = (
                output + self.bias.reshape(1, -1, 1, 1, self.lanes)
                if output.ndim == 5
                else self.bias_add(output, self.bias)
            )
        return output


@functools.cache
def _say_half() -> None:
    """Once a process, whatever the number of layers."""
    log.warning("convolution by MindSpore's own kernels: half precision was asked for")


@ms.constexpr
def _accepted(x: tuple[int, ...], weight: tuple[int, ...], geometry: tuple[int, ...], size: int) -> bool:
    """Whether the compiled operator serves these shapes; known when a graph is compiled."""
    return not _refusal(x, weight, geometry, size)


@functools.lru_cache(4096)
def _refusal(x: tuple[int, ...], weight: tuple[int, ...], geometry: tuple[int, ...], size: int) -> str:
    """'' or why oneDNN does not take the convolution, logged once. Shapes that fit nobody are told where they are inferred."""
    whole = layout.plain(x)
    if len(whole) != 4 or x[0] == 0 or whole[1] != weight[1] * geometry[8]:
        return ""
    y = layout.blocked(result_shape(whole, weight, geometry), size)
    arrays = [(ctypes.c_int64 * len(numbers))(*numbers) for numbers in (x, weight, y, geometry)]
    refused = opened().mslt_accepts(arrays[0], len(x), *arrays[1:3], len(y), arrays[3]) if min(y) > 0 else None
    if not refused:
        return ""
    log.warning("convolution of %s by %s by MindSpore's own kernels: %s", x, weight, refused.decode())
    return refused.decode()


def output_size(size: int, kernel: int, stride: int, dilation: int, before: int, after: int) -> int:
    """Rows or columns of the result; `before` is -1 for pad_mode "same"."""
    if before < 0:
        return -(-size // stride)
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


def result_shape(x, weight, geometry) -> tuple[int, int, int, int]:
    """(N, O, OH, OW)."""
    stride_h, stride_w, dilation_h, dilation_w, top, bottom, left, right, _ = geometry
    height = output_size(x[2], weight[2], stride_h, dilation_h, top, bottom)
    width = output_size(x[3], weight[3], stride_w, dilation_w, left, right)
    return x[0], weight[0], height, width


@functools.cache
def _forward(geometry: tuple[int, ...], size: int):
    """The operator for one stride, dilation, padding, number of groups and layout of the result, with its gradient."""
    groups = geometry[8]

    def shape(x, weight, _):
        whole = layout.plain(x)
        if len(whole) != 4 or whole[1] != weight[1] * groups:
            raise ValueError(f"x must have the shape (N, {weight[1] * groups}, H, W), got {tuple(x)}")
        result = result_shape(whole, weight, geometry)
        if min(result[2:]) < 1:
            raise ValueError(f"x of shape {tuple(x)} leaves nothing for a kernel of {tuple(weight[2:])}")
        return layout.blocked(result, size)

    data, weights = _data(), _weights()

    def bprop(x, weight, geometry, out, dout):
        # Two operators: where nobody asks for the image's gradient, graph mode leaves the first one out.
        dx = data(dout, weight, geometry, x)
        return dx, weights(x, dout, geometry, weight), ops.zeros_like(geometry)

    operator = Operator("ConvForward", shape, bprop)
    # Graph mode keeps inferred shapes by name and attributes: without this, two strides would be taken for one operator.
    operator.add_prim_attr("geometry", (*geometry, size))
    return operator


@functools.cache
def _data():
    def shape(dy, weight, geometry, x):
        return x

    return Operator("ConvData", shape)


@functools.cache
def _weights():
    def shape(x, dy, geometry, weight):
        return weight

    return Operator("ConvWeights", shape)
