"""What a component must take to be used at all, so that one of somebody's own is refused before training and not during it."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from ..augment import LEVELS
from ..losses import Contrast, Loss
from ..mixing import Mixing
from ..registry import (
    AUGMENT,
    CLASS_WEIGHTS,
    CONTRASTS,
    LOSSES,
    MIXING,
    MODELS,
    OPTIMIZERS,
    SAMPLERS,
    SCHEDULES,
    Registry,
)
from .settings import SUPPLIED, adapter

# What the trainer passes by name, or reads off the settings.
TAKEN: dict[Registry, tuple[str, ...]] = {
    LOSSES: ("class_counts",),
    SAMPLERS: ("labels", "seed", "epoch"),
    MODELS: ("num_classes", "seed", "mean", "std"),
    CLASS_WEIGHTS: ("class_counts",),
    OPTIMIZERS: ("parameters", "learning_rate", "lr", "reference_batch"),
    SCHEDULES: ("epochs", "steps_per_epoch", "span", "warmup_epochs", "warmup", "warmup_start"),
}
BASES = {LOSSES: Loss, CONTRASTS: Contrast, MIXING: Mixing}


def fault_of(registry: Registry, name: str, component: Callable) -> str | None:
    """What is wrong with a component, or None. It must be in the registry."""
    base = BASES.get(registry)
    if base is not None and not (inspect.isclass(component) and issubclass(component, base)):
        return f"must be a class below {base.__module__.rsplit('.', 1)[0]}.{base.__name__}"
    if registry is AUGMENT and getattr(component, "level", None) not in LEVELS:
        return f"must have an attribute `level`, one of {', '.join(map(repr, LEVELS))}"
    try:
        taken = inspect.signature(component).parameters
        for kind, (other, _) in SUPPLIED.items():
            if other is registry:
                adapter(kind, name)
    except Exception as error:  # annotations may be anything, and are looked up here
        return f"its signature cannot be read: {' '.join(str(error).split())}"
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values()):
        return "must name its keywords: they are its settings"
    missing = [key for key in TAKEN.get(registry, ()) if key not in taken]
    if missing:
        return f"must take {', '.join(missing)}; look at one that comes with the package"
    return None
