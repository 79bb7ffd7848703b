"""Mixed precision: which parts of a network compute in half precision."""

from __future__ import annotations

from typing import Literal

import mindspore as ms
from mindspore import nn

Level = Literal["O0", "O1", "O2", "O3"]
PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Conv2dTranspose, nn.Dense)
NORMS = (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)


def set_precision(network: nn.Cell, level: Level) -> None:
    """Let the backbone of a classifier compute in float16, as far as the level says.

    O0: nothing. O1: convolutions and linear layers. O2: everything but normalisation. O3: everything. Weights stay float32 and
    are cast where they are used, gradients come back as float32; the head, and with it logits and losses, stays float32: it is
    small, and a softmax over thousands of classes needs the digits (Micikevicius et al., "Mixed Precision Training", ICLR 2018).

    Args:
        network: a classifier with `backbone`; changed in place.
        level: O0, O1, O2 or O3.
    """
    if level == "O0":
        return
    backbone = getattr(network, "backbone", network)
    if level != "O1":
        backbone.to_float(ms.float16)
    for _, cell in backbone.cells_and_names():
        if level == "O1" and isinstance(cell, PRODUCTS):
            cell.to_float(ms.float16)
        if level in ("O1", "O2") and isinstance(cell, NORMS):
            cell.to_float(ms.float32)
