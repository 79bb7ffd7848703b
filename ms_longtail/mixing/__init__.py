"""Batches whose images have several labels: what is mixed, with which shares. Random choices follow from draw numbers."""

from .base import Mixing, none
from .cutmix import CutMix
from .manifold import ManifoldMixup
from .mixup import Mixup
from .remix import Remix
from .ricap import Ricap

__all__ = ["CutMix", "ManifoldMixup", "Mixing", "Mixup", "Remix", "Ricap", "none"]
