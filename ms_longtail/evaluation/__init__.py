"""Metrics, plots and the report of a run."""

from .metrics import evaluate, groups, percent

__all__ = ["evaluate", "groups", "percent"]
