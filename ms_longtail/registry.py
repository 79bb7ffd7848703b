"""Names for components: what a recipe writes down and what the code builds meet here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UnknownNameError(ValueError):
    """A name that the registry does not hold; the message lists the names that it does."""


def nearest(name: str, names: list[str]) -> str:
    """' (did you mean X?)' for one of `names` that goes on where `name` ends, else the closest, or '' when none is close."""
    begun = [known for known in names if len(str(name)) > 2 and known.startswith(str(name))]
    close = begun or difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


class Registry:
    """A table name -> class or function for one kind of component.

    Example:
        >>> SHAPES = Registry("shape")
        >>> @SHAPES.register("circle")
        ... class Circle: pass
        >>> SHAPES.get("circle") is Circle
        True
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Callable] = {}

    def register(self, name: str) -> Callable[[Callable], Callable]:
        """Decorator that files a component under `name`; a name taken already is a ValueError."""

        def file(component: Callable) -> Callable:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered already, as {self._entries[name]!r}")
            self._entries[name] = component
            return component

        return file

    def get(self, name: str) -> Callable:
        """The component of that name; an unknown one raises UnknownNameError with all names and the nearest."""
        if name not in self._entries:
            raise UnknownNameError(
                f"unknown {self.kind} {name!r}{nearest(name, self.names())}; known: {', '.join(self.names())}"
            )
        return self._entries[name]

    def names(self) -> list[str]:
        return sorted(self._entries)

    def entries(self) -> dict[str, Callable]:
        """Name -> component, as it is now."""
        return dict(self._entries)

    def remove(self, name: str) -> None:
        """Take a name back; what goes by it is unknown from now on."""
        del self._entries[name]

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    @contextmanager
    def temporary(self, name: str, component: Callable) -> Iterator[None]:
        """File a component for the length of a `with` block (for tests)."""
        self.register(name)(component)
        try:
            yield
        finally:
            self.remove(name)


LOSSES = Registry("loss")
CLASS_WEIGHTS = Registry("class weighting")
SAMPLERS = Registry("sampler")
AUGMENT = Registry("augmentation")
MIXING = Registry("mixing")
MODELS = Registry("model")
DATASETS = Registry("data set")
OPTIMIZERS = Registry("optimizer")
SCHEDULES = Registry("schedule")
OBJECTIVES = Registry("objective")
CONTRASTS = Registry("contrastive loss")
REGISTRIES = (
    LOSSES,
    CLASS_WEIGHTS,
    SAMPLERS,
    AUGMENT,
    MIXING,
    MODELS,
    DATASETS,
    OPTIMIZERS,
    SCHEDULES,
    OBJECTIVES,
    CONTRASTS,
)
