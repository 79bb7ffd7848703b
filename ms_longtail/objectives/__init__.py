"""What a stage minimises: cells from batch columns to a loss, each saying which columns it needs."""

from .bilateral import Bilateral
from .classification import Classification
from .contrastive import Contrastive
from .experts import Experts
from .meta_sampling import MetaSampling
from .mixture import Mixture
from .momentum_contrast import MomentumContrast
from .teacher import Teacher

__all__ = [
    "Bilateral",
    "Classification",
    "Contrastive",
    "Experts",
    "MetaSampling",
    "Mixture",
    "MomentumContrast",
    "Teacher",
]
