"""The residual networks for photographs: ResNet (He et al., CVPR 2016) and ResNeXt (Xie et al., CVPR 2017)."""

from __future__ import annotations

from functools import partial
from typing import Literal

from mindspore import nn

from ..registry import MODELS
from .branches import with_branches
from .classifier import Classifier
from .heads import Head
from .layers import blended, conv, initialise
from .norm import Norm


class BasicBlock(nn.Cell):
    """Two 3x3 convolutions; the shortcut is a 1x1 convolution where the shape changes ("option B")."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, groups: int = 1, base_width: int = 64):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, width, 3, stride), Norm(width, relu=True)
        self.conv2, self.bn2 = conv(width, width, 3), Norm(width, relu=True)
        self.shortcut = shortcut(inputs, width, stride)

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
        self.conv1, self.bn1 = conv(inputs, inner, 1), Norm(inner, relu=True)
        self.conv2, self.bn2 = conv(inner, inner, 3, stride, groups=groups), Norm(inner, relu=True)
        self.conv3, self.bn3 = conv(inner, outputs, 1), Norm(outputs, relu=True)
        self.shortcut = shortcut(inputs, outputs, stride)

    def construct(self, x):
        y = self.bn1(self.conv1(x))
        y = self.conv3(self.bn2(self.conv2(y)))
        return self.bn3(y, self.shortcut(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Cell:
    """Nothing where the shape stays, else a 1x1 convolution with normalisation."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.SequentialCell([conv(inputs, outputs, 1, stride), Norm(outputs)])


class ResNet(nn.Cell):
    """A 7x7 convolution and a 3x3 maximum, both with stride 2, then four layers of blocks with 64, 128, 256, 512 channels.

    Args:
        block, blocks: what the layers are made of, and how many in each.
        groups, base_width: of a bottleneck's middle convolution (ResNeXt).
        branches: 2 for the bilateral network, whose last block there is twice (see `branches.Branches`).

    Shapes: (B, 3, H, W) -> (B, D, H/32, W/32), D = 512 (BasicBlock) or 2048 (Bottleneck) for each branch.
    """

    points = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[nn.Cell],
        blocks: tuple[int, int, int, int],
        groups: int = 1,
        base_width: int = 64,
        branches: Literal[1, 2] = 1,
    ):
        super().__init__()
        self.conv1, self.bn1 = conv(3, 64, 7, 2), Norm(64, relu=True)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2, pad_mode="pad", padding=1)
        layers, inputs = [], 64
        for number, count in enumerate(blocks):
            width = 64 * 2**number
            builders = []
            for place in range(count):
                stride = 2 if number and place == 0 else 1
                builders.append(partial(block, inputs, width, stride, groups, base_width))
                inputs = block.expansion * width
            layers.append(builders)
        self.layer1, self.layer2, self.layer3 = (nn.SequentialCell([build() for build in b]) for b in layers[:3])
        self.layer4, self.branches = with_branches(layers[3], branches)
        self.out_channels = inputs * branches

    def construct(self, x, point=None, partner=None, blend=None):
        x = self.branches(self.trunk(x, point, partner, blend))  # (B, D, H/32, W/32)
        return blended(x, partner, blend) if point == "layer4" else x

    def trunk(self, x, point=None, partner=None, blend=None):
        """All but the branches: the whole network where there is one."""
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
        branches: Literal[1, 2] = 1,
        mean: tuple[float, ...] = (0.485, 0.456, 0.406),
        std: tuple[float, ...] = (0.229, 0.224, 0.225),
    ) -> Classifier:
        network = Classifier(ResNet(*NETWORKS[name], branches=branches), num_classes, head=head, mean=mean, std=std)
        initialise(network, seed)
        return network

    build.__name__ = name
    build.__doc__ = f"{name} with Kaiming-normal weights drawn from `seed`."
    MODELS.register(name)(build)


for _name in NETWORKS:
    _register(_name)
