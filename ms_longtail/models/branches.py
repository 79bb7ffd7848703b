"""The end of a bilateral-branch network: one trunk, two last blocks."""

from __future__ import annotations

from collections.abc import Callable

from mindspore import nn

from .layers import joined

Block = Callable[[], nn.Cell]


class Branches(nn.Cell):
    """Two residual blocks side by side behind a shared trunk (BBN: Zhou et al., CVPR 2020, section 4.2).

    Seen from outside this is one network with twice as many channels: the conventional branch's, then the re-balancing
    branch's. So features, activation maps, checkpoints and post-hoc corrections need not know that there are two, and the
    answer for an image is that of both branches with equal weight, as the paper tests.

    Args:
        build: makes the block; it is called twice.

    Shapes: the trunk's output (B, d, h, w) -> (B, 2D, h, w).

    Example:
        >>> import numpy as np
        >>> from mindspore import Tensor
        >>> Branches(lambda: nn.Conv2d(4, 6, 3))(Tensor(np.ones((2, 4, 8, 8), np.float32))).shape
        (2, 12, 8, 8)
    """

    def __init__(self, build: Block):
        super().__init__()
        self.conventional = build()
        self.rebalancing = build()

    def construct(self, x):
        return joined((self.conventional(x), self.rebalancing(x)))


def with_branches(blocks: list[Block], branches: int) -> tuple[nn.Cell, nn.Cell]:
    """(the layer that belongs to the trunk, what follows it): the last of the blocks is made twice for two branches.

    Args:
        blocks: what builds each block of a network's last layer, at least one.
        branches: 1 or 2.

    Raises:
        ValueError: another number of branches.
    """
    if branches not in (1, 2):
        raise ValueError(f"branches = {branches}: a network has 1 branch or 2")
    if branches == 1:
        return nn.SequentialCell([build() for build in blocks]), nn.Identity()
    shared = [build() for build in blocks[:-1]]
    return (nn.SequentialCell(shared) if shared else nn.Identity()), Branches(blocks[-1])
