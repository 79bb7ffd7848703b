"""What a stage minimises: cells from batch columns to a loss, each saying which columns it needs."""

from .classification import Classification

__all__ = ["Classification"]
