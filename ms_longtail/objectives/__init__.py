"""What a stage minimises: cells from batch columns to a loss, each saying which columns it needs."""

from .bilateral import Bilateral
from .classification import Classification
from .meta_sampling import MetaSampling
from .mixture import Mixture
from .teacher import Teacher

__all__ = ["Bilateral", "Classification", "MetaSampling", "Mixture", "Teacher"]
