"""Learning-rate schedules: NumPy functions from steps to factors on the optimizer's `lr`."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from ..registry import SCHEDULES

Share = Annotated[float, Gt(0), Le(1)]
NonNegative = Annotated[float, Ge(0)]


def warm_up(factor: np.ndarray, steps: int, kind: str, start: float) -> np.ndarray:
    """Replace the first `steps` factors: gradual rises linearly per step from `start`, constant stays at `start`."""
    ramp = np.full(len(factor), start)
    if kind == "gradual":
        ramp = start + (1.0 - start) * np.arange(len(factor)) / max(1, steps)
    return np.where(np.arange(len(factor)) < steps, ramp * factor, factor)


def _finish(factor, steps_per_epoch, warmup_epochs, warmup, warmup_start):
    return warm_up(factor, round(warmup_epochs * steps_per_epoch), warmup, warmup_start)


@SCHEDULES.register("constant")
def constant(
    epochs: int,
    steps_per_epoch: int,
    *,
    span: Literal["stage", "run"] = "stage",
    warmup_epochs: NonNegative = 0.0,
    warmup: Literal["gradual", "constant"] = "gradual",
    warmup_start: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> np.ndarray:
    """lr throughout.

    Args:
        epochs, steps_per_epoch: of the stage, or of the whole run with span "run".
        span: "stage": the schedule and the optimizer's state start anew with the stage;
            "run": one schedule over all epochs of the run, and the optimizer keeps its state from the stage before.
        warmup_epochs: length of the warm-up (Goyal et al., 2017); may be a fraction of an epoch.
        warmup: "gradual": linear per step from warmup_start * lr; "constant": warmup_start * lr until it ends.

    Returns:
        a factor on lr for every step, (epochs * steps_per_epoch,).
    """
    factor = np.ones(epochs * steps_per_epoch)
    return _finish(factor, steps_per_epoch, warmup_epochs, warmup, warmup_start)


@SCHEDULES.register("multistep")
def multistep(
    epochs: int,
    steps_per_epoch: int,
    *,
    milestones: list[Annotated[int, Ge(0)]],
    gamma: Share = 0.1,
    span: Literal["stage", "run"] = "stage",
    warmup_epochs: NonNegative = 0.0,
    warmup: Literal["gradual", "constant"] = "gradual",
    warmup_start: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> np.ndarray:
    """lr * gamma^k once k milestones (epochs done, counted from 0) are reached: [160, 180] changes after 160 epochs.

    Span and warm-up: see `constant`.
    """
    epoch = np.arange(epochs * steps_per_epoch) // steps_per_epoch
    factor = gamma ** (epoch[:, None] >= np.asarray(milestones, int).reshape(1, -1)).sum(axis=1)
    return _finish(factor, steps_per_epoch, warmup_epochs, warmup, warmup_start)


@SCHEDULES.register("step")
def step(
    epochs: int,
    steps_per_epoch: int,
    *,
    every: Annotated[int, Ge(1)],
    gamma: Share = 0.1,
    span: Literal["stage", "run"] = "stage",
    warmup_epochs: NonNegative = 0.0,
    warmup: Literal["gradual", "constant"] = "gradual",
    warmup_start: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> np.ndarray:
    """lr * gamma^floor(epoch / every). Span and warm-up: see `constant`."""
    epoch = np.arange(epochs * steps_per_epoch) // steps_per_epoch
    return _finish(gamma ** (epoch // every), steps_per_epoch, warmup_epochs, warmup, warmup_start)


@SCHEDULES.register("cosine")
def cosine(
    epochs: int,
    steps_per_epoch: int,
    *,
    final: Annotated[float, Ge(0), Le(1)] = 0.0,
    span: Literal["stage", "run"] = "stage",
    warmup_epochs: NonNegative = 0.0,
    warmup: Literal["gradual", "constant"] = "gradual",
    warmup_start: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> np.ndarray:
    """final + (1 - final) / 2 * (1 + cos(pi t / T)), t and T counted from the warm-up's end (He et al., CVPR 2019, eq. 1).

    Args:
        final: factor that the cosine ends at.
    """
    warm = round(warmup_epochs * steps_per_epoch)
    t = np.maximum(0, np.arange(epochs * steps_per_epoch) - warm)
    factor = final + (1 - final) / 2 * (1 + np.cos(np.pi * t / max(1, epochs * steps_per_epoch - warm)))
    return _finish(factor, steps_per_epoch, warmup_epochs, warmup, warmup_start)
