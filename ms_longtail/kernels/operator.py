"""A compiled function as an operator of MindSpore."""

from __future__ import annotations

import mindspore as ms
from mindspore import ops

from .extension import compiled, reason


@ms.constexpr(check=False)  # it is there for what is no constant
def known(shape: tuple[int | None, ...] | None) -> bool:
    """Whether these are all sizes; a graph that is compiled for any batch, say, has None or -1 there."""
    return shape is not None and all(size is not None and size >= 0 for size in shape)


def _its_own(kind):
    return kind


class Operator(ops.Custom):
    """The function `name` of the extension; `shape` maps the inputs' shapes to the output's (or a tuple of them).

    All outputs are float32, or with `any_type` of the type of the input. It has no state, so a copied network
    keeps it; `ops.Custom` itself cannot be copied. Raises RuntimeError with the reason where the extension cannot serve.
    """

    def __init__(self, name: str, shape, bprop=None, outputs: int = 1, any_type: bool = False):
        if why := reason():
            raise RuntimeError(f"the compiled operator {name} cannot serve: {why}")
        kind = ms.float32 if outputs == 1 else (ms.float32,) * outputs
        kind = _its_own if any_type else kind
        super().__init__(f"{compiled()}:{name}", shape, kind, func_type="aot", bprop=bprop)

    def __deepcopy__(self, memo):
        return self
