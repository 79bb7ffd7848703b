"""Metrics, plots and the report of a run."""

from .metrics import GROUP_DEFINITION, evaluate, groups, percent

__all__ = ["GROUP_DEFINITION", "evaluate", "groups", "percent"]
