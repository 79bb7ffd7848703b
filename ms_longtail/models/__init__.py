"""Backbones, heads, and the classifier that joins them."""

from .branches import Branches
from .cifar_resnet import CifarResNet
from .classifier import Classifier
from .embedding import Embedding
from .experts import ExpertHeads, ExpertLayers
from .heads import Cosine, DisAlign, LearnableScale, Linear
from .layers import initialise
from .resnet import ResNet

__all__ = [
    "Branches",
    "CifarResNet",
    "Classifier",
    "Cosine",
    "DisAlign",
    "Embedding",
    "ExpertHeads",
    "ExpertLayers",
    "LearnableScale",
    "Linear",
    "ResNet",
    "initialise",
]
