"""What a recipe may say: the sections, their types, bounds and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"

PositiveInt = Annotated[int, Ge(1)]
Batch = Annotated[int, Ge(1), Le(1_000_000)]
Seed = Annotated[int, Ge(0), Le(2**32 - 1)]


@checked(config=STRICT)
class Imbalance:
    """Which long-tailed subset of the training set is taken: see `data/subset.py`.

    The largest class of the profile is the first one, or, with order "size", the one that has the most images.
    """

    profile: Literal["none", "exp", "step", "pareto"] = "none"
    factor: Annotated[float, Ge(1)] = 100.0
    n_max: PositiveInt | None = None
    order: Literal["label", "size"] = "label"
    seed: Seed = 0


@checked(config=STRICT)
class Validation:
    """The share of train that is held out; `group` is a pattern on file names whose matches stay together."""

    share: Annotated[float, Ge(0), Lt(1)] = 0.0
    group: str | None = None
    seed: Seed = 0


@checked(config=STRICT)
class Data:
    """What every data set has in common; the settings of the one that is named stand beside these."""

    name: str
    root: str | None = None
    size: Annotated[int, Ge(8), Le(2048)] = 32
    resize: Annotated[int, Ge(8), Le(4096)] | None = None
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] = field(
        default_factory=lambda: [0.4914, 0.4822, 0.4465]
    )
    std: Annotated[list[Annotated[float, Gt(0)]], Field(min_length=3, max_length=3)] = field(
        default_factory=lambda: [0.2023, 0.1994, 0.2010]
    )
    imbalance: Imbalance = field(default_factory=Imbalance)
    validation: Validation = field(default_factory=Validation)
    on_error: Literal["raise", "skip"] = "raise"
    max_error_share: Annotated[float, Ge(0), Le(1)] = 0.01


@checked(config=STRICT)
class Checkpoint:
    """When the state is written: at every `every_epochs` epochs and every `every_minutes` minutes; `keep` of them stay."""

    every_epochs: PositiveInt = 1
    every_minutes: Annotated[float, Gt(0)] | None = 10.0
    keep: Annotated[int, Ge(1), Le(100)] = 2


@checked(config=STRICT)
class Graph:
    """What the graph compiler is told: its level (None: the device's own default), and whether sums run in one fixed order."""

    jit_level: Literal["O0", "O1", "O2"] | None = None
    deterministic: bool = False


@checked(config=STRICT)
class Pretrained:
    """The file of weights that a run begins with, and its head: taken if it fits, always, or never."""

    path: Annotated[str, Field(min_length=1)]
    head: Literal["auto", "keep", "skip"] = "auto"


@checked(config=STRICT)
class Import:
    """A Python file that registers components, and the SHA-256 of what it held when it was run: see `imports.py`."""

    file: str
    sha256: str


@dataclass(frozen=True)
class Component:
    """A name from a registry and its settings, complete with defaults."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One stage, complete: nothing is left to be inherited."""

    name: str
    epochs: int
    batch: int
    sampler: Component
    augment: tuple[Component, ...]
    loss: Component
    class_weights: Component
    optimizer: Component
    schedule: Component
    mixing: Component = Component("none")
    views: tuple[tuple[Component, ...], ...] = ()
    contrast: Component = Component("none")
    second_sampler: Component | None = None
    objective: Component = Component("classification")
    freeze: tuple[str, ...] = ()
    frozen_norm: str = "running"
    start: str = "last"
    reset: tuple[str, ...] = ()
    teacher: str | None = None

    @property
    def operations(self) -> list[tuple[str, Component]]:
        """(where it stands, augmentation) of all views."""
        lists = [("augment", self.augment), *((f"views.{n}", view) for n, view in enumerate(self.views))]
        return [(where, op) for where, view in lists for op in view]


@dataclass(frozen=True)
class Recipe:
    """A recipe, complete and checked; `plain` is the same as nested maps and lists, as `recipe.yaml` shows it."""

    name: str
    imports: list[Import]
    seed: int
    batch: int
    accumulate: int
    amp: str
    loss_scale: float | str
    clip_norm: float | None
    l1: float
    ema: float | None
    sam: float | None
    best_by: str
    early_stopping: int | None
    drop_last: bool
    sink: bool
    graph: Graph
    sync_batch_norm: bool
    max_bad_steps: int
    evaluate_every: int
    workers: int
    checkpoint: Checkpoint
    pretrained: Pretrained | None
    data: Data
    data_settings: dict[str, Any]
    model: Component
    stages: tuple[Stage, ...]
    plain: dict[str, Any] = field(repr=False, compare=False)


@checked(config=STRICT)
class RunSettings:
    """The settings beside data, model and stages."""

    name: Annotated[str, Field(pattern=NAME)]
    imports: list[Import] = field(default_factory=list)
    seed: Seed = 0
    batch: Batch = 128
    accumulate: PositiveInt = 1
    amp: Literal["O0", "O1", "O2", "O3"] = "O0"
    loss_scale: Annotated[float, Gt(0)] | Literal["dynamic"] | None = None
    clip_norm: Annotated[float, Gt(0)] | None = None
    l1: Annotated[float, Ge(0)] = 0.0
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    sam: Annotated[float, Gt(0)] | None = None
    best_by: Literal["balanced", "top1"] = "balanced"
    early_stopping: PositiveInt | None = None
    drop_last: bool = False
    sink: bool = False
    graph: Graph = field(default_factory=Graph)
    sync_batch_norm: bool = False
    max_bad_steps: PositiveInt = 20
    evaluate_every: PositiveInt = 1
    workers: Annotated[int, Ge(1), Le(512)] = 2
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    pretrained: Pretrained | None = None

    def __post_init__(self):
        if self.loss_scale is None:  # half-precision gradients need one, others do not
            self.loss_scale = 1.0 if self.amp == "O0" else "dynamic"


@checked(config=STRICT)
class StageSettings:
    """The settings of a stage beside its components; `batch` is that of the run unless a stage says another."""

    name: Annotated[str, Field(pattern=NAME)]
    epochs: Annotated[int, Ge(1), Le(100_000)]
    batch: Batch = 128
    freeze: str | list[str] = field(default_factory=list)
    frozen_norm: Literal["running", "batch"] = "running"
    start: str = "last"
    reset: str | list[str] = field(default_factory=list)
    teacher: str | None = None
