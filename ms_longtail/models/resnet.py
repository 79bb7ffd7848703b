"""The residual networks for photographs: ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017)."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from mindspore import nn

from ..registry import MODELS
from .branches import Block, with_branches
from .classifier import Classifier
from .experts import ExpertLayers, narrowed
from .heads import Head
from .layers import Init, blended, blocked_conv, initialise, leave, max_pool
from .norm import Norm


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes ("option B")."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base_width: int = 64):
        super().__init__()
        self.conv1, self.bn1 = blocked_conv(inputs, width, 3, stride), Norm(width, relu=True)
        self.conv2, self.bn2 = blocked_conv(width, width, 3), Norm(width, relu=True)
        self.shortcut = shortcut(inputs, width, stride)

    @property
    def closing_norm(self) -> Norm:
        return self.bn2

    def construct(self, x):
        y = self.conv2(self.bn1(self.conv1(x)))
        return self.bn2(y, self.shortcut(x))


class Bottleneck(nn.Cell):
    """1x1, 3x3 (grouped in ResNeXt, and the one with the stride), 1x1 to four times the width."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base_width: int = 64):
        super().__init__()
        outputs = self.expansion * width
        inner = width * base_width // 64 * groups
        self.conv1, self.bn1 = blocked_conv(inputs, inner, 1), Norm(inner, relu=True)
        self.conv2, self.bn2 = blocked_conv(inner, inner, 3, stride, groups=groups), Norm(inner, relu=True)
        self.conv3, self.bn3 = blocked_conv(inner, outputs, 1), Norm(outputs, relu=True)
        self.shortcut = shortcut(inputs, outputs, stride)

    @property
    def closing_norm(self) -> Norm:
        return self.bn3

    def construct(self, x):
        y = self.bn1(self.conv1(x))
        y = self.conv3(self.bn2(self.conv2(y)))
        return self.bn3(y, self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Cell:
    """Nothing where the shape stays, else a 1x1 convolution with normalisation."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.SequentialCell([blocked_conv(inputs, outputs, 1, stride), Norm(outputs)])


def builders(block: type[nn.Cell], inputs: int, width: int, stride: int, count: int, **shape) -> list[Block]:
    """What builds each block of a layer; the first one has the stride."""
    first = partial(block, inputs, width, stride, **shape)
    return [first] + [partial(block, block.expansion * width, width, 1, **shape)] * (count - 1)


def layer(block: type[nn.Cell], inputs: int, width: int, stride: int, count: int, **shape) -> nn.SequentialCell:
    return nn.SequentialCell([build() for build in builders(block, inputs, width, stride, count, **shape)])


def late_layers(block: type[nn.Cell], inputs: int, widths, counts, **shape) -> nn.SequentialCell:
    """The third and fourth layer of one expert."""
    third = layer(block, inputs, widths[0], 2, counts[0], **shape)
    return nn.SequentialCell([third, layer(block, block.expansion * widths[0], widths[1], 2, counts[1], **shape)])


class ResNet(nn.Cell):
    """A 7x7 convolution and a 3x3 maximum, both with stride 2, then four layers of blocks with 64, 128, 256, 512 channels.

    Args:
        block, blocks: what the layers are made of, and how many in each.
        groups, base_width: of a bottleneck's middle convolution (ResNeXt).
        branches: 2 for the bilateral network, whose last block there is twice (see `branches.Branches`).
        experts: E above 1 for as many third and fourth layers, each `expert_width` times as wide (see `experts.ExpertLayers`).

    Shapes: (B, 3, H, W) -> (B, D, H/32, W/32), D = 512 (BasicBlock) or 2048 (Bottleneck) for each branch, 384 E or 1536 E
    with E experts of width .75; sides are divided by `shrinks` and rounded up.
    """

    shrinks = 32

    def __init__(
        self,
        block: type[nn.Cell],
        blocks: tuple[int, int, int, int],
        groups: int = 1,
        base_width: int = 64,
        branches: Literal[1, 2] = 1,
        experts: int = 1,
        expert_width: float = 0.75,
    ):
        super().__init__()
        if experts > 1 and branches > 1:
            raise ValueError(f"a network has {experts} experts or {branches} branches, not both")
        self.conv1, self.bn1 = blocked_conv(3, 64, 7, 2), Norm(64, relu=True)
        self.pool = max_pool(3, stride=2, padding=1)
        shape = {"groups": groups, "base_width": base_width}
        self.layer1 = layer(block, 64, 64, 1, blocks[0], **shape)
        self.layer2 = layer(block, 64 * block.expansion, 128, 2, blocks[1], **shape)
        inputs = 128 * block.expansion
        self.points = ("layer1", "layer2", "layer3", "layer4") if experts == 1 else ("layer1", "layer2", "layer4")
        if experts > 1:
            widths = narrowed(256, expert_width), narrowed(512, expert_width)
            self.layer3, self.layer4 = nn.Identity(), nn.Identity()
            self.branches = ExpertLayers(partial(late_layers, block, inputs, widths, blocks[2:], **shape), experts)
            self.out_channels = widths[1] * block.expansion * experts
        else:
            self.layer3 = layer(block, inputs, 256, 2, blocks[2], **shape)
            last = builders(block, 256 * block.expansion, 512, 2, blocks[3], **shape)
            self.layer4, self.branches = with_branches(last, branches)
            self.out_channels = 512 * block.expansion * branches

    def construct(self, x, point=None, partner=None, blend=None):
        x = leave(self.branches(self.trunk(x, point, partner, blend)))  # (B, D, H/32, W/32)
        return blended(x, partner, blend) if point == "layer4" else x

    def trunk(self, x, point=None, partner=None, blend=None):
        """All but the branches or experts: the whole network where there is one."""
        x = self.pool(self.bn1(self.conv1(x)))  # (B, 64, H/4, W/4)
        x = self.layer1(x)
        x = blended(x, partner, blend) if point == "layer1" else x
        x = self.layer2(x)
        x = blended(x, partner, blend) if point == "layer2" else x
        x = self.layer3(x)
        x = blended(x, partner, blend) if point == "layer3" else x
        return self.layer4(x)


# name -> (block, blocks of the four layers, groups, width of a group's channels in the first layer)
NETWORKS = {
    "resnet10": (BasicBlock, (1, 1, 1, 1), 1, 64),
    "resnet18": (BasicBlock, (2, 2, 2, 2), 1, 64),
    "resnet34": (BasicBlock, (3, 4, 6, 3), 1, 64),
    "resnet50": (Bottleneck, (3, 4, 6, 3), 1, 64),
    "resnet101": (Bottleneck, (3, 4, 23, 3), 1, 64),
    "resnet152": (Bottleneck, (3, 8, 36, 3), 1, 64),
    "resnext50_32x4d": (Bottleneck, (3, 4, 6, 3), 32, 4),
    "resnext101_32x4d": (Bottleneck, (3, 4, 23, 3), 32, 4),
}


def _register(name: str) -> None:
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
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ) -> Classifier:
        backbone = ResNet(*NETWORKS[name], branches=branches, experts=experts, expert_width=expert_width)
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

    build.__name__ = name
    build.__doc__ = f"{name} with weights drawn from `seed`, see `layers.initialise`; other settings: `Classifier`."
    MODELS.register(name)(build)


for _name in NETWORKS:
    _register(_name)
