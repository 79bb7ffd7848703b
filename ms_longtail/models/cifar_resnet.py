"""The residual networks for 32x32 images (He et al., CVPR 2016, section 4.2) as the long-tail literature uses them."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from mindspore import nn, ops

from ..registry import MODELS
from .branches import Block, with_branches
from .classifier import Classifier
from .experts import ExpertLayers, narrowed
from .heads import Head
from .layers import Init, blended, blocked_conv, initialise, leave
from .norm import Norm


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions and a shortcut without parameters ("option A"): stride, then pad channels with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = blocked_conv(inputs, outputs, 3, stride)
        self.bn1 = Norm(outputs, relu=True)
        self.conv2 = blocked_conv(outputs, outputs, 3)
        self.bn2 = Norm(outputs, relu=True)
        # A 1x1 average pool with stride 2 is the slice [::2, ::2], and its gradient runs in both modes.
        self.subsample = nn.AvgPool2d(kernel_size=1, stride=stride) if stride != 1 else nn.Identity()
        self.padding = (outputs - inputs) // 2
        self.changes = stride != 1 or self.padding > 0

    @property
    def closing_norm(self) -> Norm:
        return self.bn2

    def construct(self, x):
        y = self.conv2(self.bn1(self.conv1(x)))
        x = self.subsample(leave(x) if self.changes else x)
        if self.padding:
            side = ops.zeros((x.shape[0], self.padding, x.shape[2], x.shape[3]), x.dtype)
            x = ops.cat((side, x, side), axis=1)  # as many zero channels before as behind
        return self.bn2(y, x)


class CifarResNet(nn.Cell):
    """Depth 6n + 2: a 3x3 convolution, then three layers of n blocks with 16, 32 and 64 channels.

    Args:
        depth: 8, 14, 20, 32, ...
        branches: 2 for the bilateral network, whose last block there is twice (see `branches.Branches`).
        experts: E above 1 for as many second and third layers, each `expert_width` times as wide (see `experts.ExpertLayers`).

    Shapes: (B, 3, 32, 32) -> (B, 64, 8, 8), or (B, 128, 8, 8) with two branches, (B, 48 E, 8, 8) with E experts of width .75.
    """

    shrinks = 4  # sides of the feature map: those of the image divided by this, rounded up

    def __init__(self, depth: int, branches: Literal[1, 2] = 1, experts: int = 1, expert_width: float = 0.75):
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, 32, ...), not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = blocked_conv(3, 16, 3)
        self.bn1 = Norm(16, relu=True)
        self.layer1 = self._layer(16, 16, 1, blocks)
        self.points = ("layer1", "layer2", "layer3") if experts == 1 else ("layer1", "layer3")
        if experts > 1:
            if branches > 1:
                raise ValueError(f"a network has {experts} experts or {branches} branches, not both")
            widths = narrowed(32, expert_width), narrowed(64, expert_width)
            if widths[0] < 16:
                raise ValueError(
                    f"expert_width {expert_width}: {widths[0]} channels behind 16; a shortcut only adds channels"
                )
            self.layer2, self.layer3 = nn.Identity(), nn.Identity()
            self.branches = ExpertLayers(partial(self._late, *widths, blocks), experts)
            self.out_channels = widths[1] * experts
        else:
            self.layer2 = self._layer(16, 32, 2, blocks)
            self.layer3, self.branches = with_branches(self._blocks(32, 64, 2, blocks), branches)
            self.out_channels = 64 * branches

    def _late(self, middle: int, last: int, blocks: int) -> nn.SequentialCell:
        """The layers of one expert."""
        return nn.SequentialCell([self._layer(16, middle, 2, blocks), self._layer(middle, last, 2, blocks)])

    @staticmethod
    def _blocks(inputs: int, outputs: int, stride: int, count: int) -> list[Block]:
        """What builds each block of a layer."""
        first = partial(BasicBlock, inputs, outputs, stride)
        return [first] + [partial(BasicBlock, outputs, outputs, 1)] * (count - 1)

    def _layer(self, inputs: int, outputs: int, stride: int, count: int) -> nn.SequentialCell:
        return nn.SequentialCell([build() for build in self._blocks(inputs, outputs, stride, count)])

    def construct(self, x, point=None, partner=None, blend=None):
        x = leave(self.branches(self.trunk(x, point, partner, blend)))  # (B, D, 8, 8)
        return blended(x, partner, blend) if point == "layer3" else x

    def trunk(self, x, point=None, partner=None, blend=None):
        """All but the branches or experts: the whole network where there is one."""
        x = self.bn1(self.conv1(x))  # (B, 16, 32, 32)
        x = self.layer1(x)
        x = blended(x, partner, blend) if point == "layer1" else x
        x = self.layer2(x)
        x = blended(x, partner, blend) if point == "layer2" else x
        return self.layer3(x)


def _register(depth: int) -> None:
    def build(
        *,
        num_classes: int,
        seed: int = 0,
        head: Head = "linear",
        scale: Annotated[float, Gt(0)] = 1.0,
        branches: Literal[1, 2] = 1,
        experts: Annotated[int, Ge(1), Le(16)] = 1,
        expert_width: Annotated[float, Gt(0), Le(1)] = 0.75,
        dropout: Annotated[float, Ge(0), Lt(1)] = 0.0,
        init: Init = "kaiming",
        zero_gamma: bool = False,
        mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
        std: tuple[float, ...] = (0.2023, 0.1994, 0.2010),
    ) -> Classifier:
        backbone = CifarResNet(depth, branches, experts, expert_width)
        network = Classifier(
            backbone,
            num_classes,
            head=head,
            scale=scale,
            experts=experts,
            dropout=dropout,
            seed=seed,
            mean=mean,
            std=std,
        )
        initialise(network, seed, init, zero_gamma)
        return network

    build.__name__ = f"resnet{depth}_cifar"
    build.__doc__ = (
        f"CIFAR ResNet-{depth} with weights drawn from `seed`, see `layers.initialise`; other settings: `Classifier`."
    )
    MODELS.register(f"resnet{depth}_cifar")(build)


for _depth in (8, 20, 32, 44, 56, 110):
    _register(_depth)
