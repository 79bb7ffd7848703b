"""The networks of `ms_longtail.models` in PyTorch, layer by layer, for the benchmark of a training step."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 to four times the width; `option_a` pads the shortcut's channels with zeros."""

    def __init__(self, inputs: int, width: int, stride: int, expansion: int, option_a: bool):
        super().__init__()
        outputs = width * expansion
        layers = (
            [(width, 3, stride), (width, 3, 1)]
            if expansion == 1
            else [(width, 1, 1), (width, 3, stride), (outputs, 1, 1)]
        )
        self.layers, channels = nn.ModuleList(), inputs
        for after, kernel, step in layers:
            self.layers += [convolution(channels, after, kernel, step)]
            channels = after
        self.stride, self.extra = stride, (outputs - inputs) // 2 if option_a else 0
        project = not option_a and (stride > 1 or inputs != outputs)
        self.shortcut = convolution(inputs, outputs, 1, stride) if project else nn.Identity()

    def forward(self, x):
        y = x
        for layer in self.layers[:-1]:
            y = functional.relu(layer(y))
        y = self.layers[-1](y)
        if self.extra:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return functional.relu(y + self.shortcut(x))


def convolution(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


def network(name: str) -> nn.Module:
    """`resnet32_cifar`, `resnet18` or `resnet50`, ten classes."""
    if name.endswith("_cifar"):
        first, inputs = [convolution(3, 16, 3, 1), nn.ReLU()], 16
        blocks, widths, expansion = [(int(name[6:-6]) - 2) // 6] * 3, (16, 32, 64), 1
    else:
        first, inputs = [convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)], 64
        blocks, widths = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}[name], (64, 128, 256, 512)
        expansion = 4 if name == "resnet50" else 1
    layers = []
    for number, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for place in range(count):
            stride = 2 if number and place == 0 else 1
            layers.append(Block(inputs, width, stride, expansion, name.endswith("_cifar")))
            inputs = width * expansion
    return nn.Sequential(*first, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


def training_step(name: str, batch: int, size: int, channels_last: bool):
    """A function that does one step on random images."""
    torch.manual_seed(0)
    model = network(name)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=2e-4)
    images, labels = torch.rand(batch, 3, size, size), torch.randint(0, 10, (batch,))
    if channels_last:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
