"""Activations in blocks of channels, as oneDNN's convolutions like them, between the layers that know both layouts.

An activation (N, C, H, W) then is a tensor (N, C / L, H, W, L), L = 8 or 16 by the processor: element [n, g, h, w, l] is channel
g L + l. Its five axes say it to whoever takes it. Adding, blending and whatever else goes number by number or image by image need
not know; what goes by axes (a mean, a factor a channel, a flattening) must `leave` first. A graph that is compiled for shapes that
are not known has no such activation.
"""

from __future__ import annotations

import functools

from .extension import opened
from .operator import Operator, known

SIZES = 8, 16


@functools.cache
def lanes() -> int:
    """L of this processor; 1 where oneDNN likes none of the two layouts. Only where `extension.reason()` is empty."""
    return opened().mslt_lanes()


def plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """(N, C, H, W) of an activation of either layout; another shape stays."""
    blocks = len(shape) == 5 and shape[4] in SIZES
    return (shape[0], shape[1] * shape[4], *shape[2:4]) if blocks else tuple(shape)


def blocked(shape: tuple[int, int, int, int], size: int) -> tuple[int, ...]:
    """(N, C / size, H, W, size) of (N, C, H, W); size 1 is the plain layout."""
    return tuple(shape) if size == 1 else (shape[0], shape[1] // size, *shape[2:], size)


@functools.cache
def _reorder(size: int) -> Operator:
    """x of any layout in blocks of `size` channels, 1 for none; the other layout's operator is the gradient."""

    def shape(x):
        if len(plain(x)) != 4:
            raise ValueError(f"x must have the shape (N, C, H, W) or (N, G, H, W, 8 or 16), got {tuple(x)}")
        return blocked(plain(x), size)

    def bprop(x, out, dout):
        return (matched(dout, x),)

    operator = Operator("Reorder", shape, bprop, any_type=True)
    operator.add_prim_attr("lanes", size)
    return operator


def in_blocks(x) -> bool:
    """Whether x has five axes. Where its shape is not known it has not, or the operators would be in every such graph."""
    return known(x.shape) and x.ndim == 5


def leave(x):
    """An activation of either layout in the plain one, (N, C, H, W)."""
    return _reorder(1)(x) if in_blocks(x) else x


def matched(x, like):
    """x, an activation of either layout, in that of `like`."""
    if in_blocks(x) and not in_blocks(like):
        return leave(x)
    if in_blocks(like) and not in_blocks(x):
        return _reorder(like.shape[4])(x)
    return x
