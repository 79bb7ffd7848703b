"""Operators of our own for the CPU, where MindSpore's are slow."""

from .batch_norm import batch_norm
from .conv2d import Conv2d
from .extension import BUILD, UNBUILT, description, reason
from .layout import leave, matched
from .max_pool import MaxPool2d
from .operator import known

__all__ = [
    "BUILD",
    "UNBUILT",
    "Conv2d",
    "MaxPool2d",
    "batch_norm",
    "description",
    "known",
    "leave",
    "matched",
    "reason",
]
