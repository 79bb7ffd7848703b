"""Backbones, heads, and the classifier that joins them."""

from .cifar_resnet import CifarResNet
from .classifier import Classifier
from .heads import Cosine, Linear
from .layers import initialise

__all__ = ["CifarResNet", "Classifier", "Cosine", "Linear", "initialise"]
