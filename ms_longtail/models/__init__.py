"""Backbones, heads, and the classifier that joins them."""

from .cifar_resnet import CifarResNet
from .classifier import Classifier
from .heads import Cosine, Linear
from .layers import initialise
from .resnet import ResNet

__all__ = ["CifarResNet", "Classifier", "Cosine", "Linear", "ResNet", "initialise"]
