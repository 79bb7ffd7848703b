"""Backbones, heads, and the classifier that joins them."""

from .branches import Branches
from .cifar_resnet import CifarResNet
from .classifier import Classifier
from .heads import Cosine, DisAlign, LearnableScale, Linear
from .layers import initialise
from .resnet import ResNet

__all__ = [
    "Branches",
    "CifarResNet",
    "Classifier",
    "Cosine",
    "DisAlign",
    "LearnableScale",
    "Linear",
    "ResNet",
    "initialise",
]
