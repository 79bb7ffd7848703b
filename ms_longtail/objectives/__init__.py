"""What a stage minimises: cells from batch columns to a loss, each saying which columns it needs."""

from .classification import Classification
from .mixture import Mixture
from .teacher import Teacher

__all__ = ["Classification", "Mixture", "Teacher"]
