"""Settings outside their bounds, refused at construction by what the signature says.

A recipe is checked against the same signatures before anything is built; this is for everybody who constructs a component
in a script of their own.
"""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le, Lt, MinLen

from .registry import nearest

_HOLDS = {
    Ge: (lambda value, bound: value >= bound.ge, lambda bound: f"at least {bound.ge}"),
    Gt: (lambda value, bound: value > bound.gt, lambda bound: f"above {bound.gt}"),
    Le: (lambda value, bound: value <= bound.le, lambda bound: f"at most {bound.le}"),
    Lt: (lambda value, bound: value < bound.lt, lambda bound: f"below {bound.lt}"),
    MinLen: (
        lambda value, bound: len(value) >= bound.min_length,
        lambda bound: f"a list of at least {bound.min_length}",
    ),
}


def checked(function: Callable) -> Callable:
    """Decorator for a constructor: `Annotated[float, Ge(0)]` and `Literal["a", "b"]` are checked when it is called.

    Raises (the decorated function):
        ValueError: 'gamma = -1: must be at least 0'.

    Example:
        >>> class Power:
        ...     @checked
        ...     def __init__(self, gamma: Annotated[float, Ge(0)] = 2.0): self.gamma = gamma
        >>> Power(gamma=-1)
        Traceback (most recent call last):
        ValueError: gamma = -1: must be at least 0
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def checking(*args, **kwargs):
        hints = _hints(function)
        for name, value in signature.bind(*args, **kwargs).arguments.items():
            if name in hints:
                _check(name, value, hints[name])
        return function(*args, **kwargs)

    return checking


@functools.cache
def _hints(function: Callable) -> dict[str, Any]:
    return typing.get_type_hints(function, include_extras=True)


def _check(name: str, value: Any, hint: Any) -> None:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):  # X | None
        choices = [choice for choice in typing.get_args(hint) if choice is not type(None)]
        if value is not None and len(choices) == 1:
            _check(name, value, choices[0])
        return
    wants_number = hint is float or (origin is Annotated and typing.get_args(hint)[0] in (int, float))
    is_number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if wants_number and not (is_number and np.isfinite(value)):
        raise ValueError(f"{name} = {value!r}: must be a finite number")
    if hint is bool and not isinstance(value, bool):
        raise ValueError(f"{name} = {value!r}: must be true or false")
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            text = ", ".join(map(str, choices))
            raise ValueError(f"unknown {name} {value!r}{nearest(value, [str(c) for c in choices])}; choose from {text}")
    elif origin is Annotated:
        kind, *bounds = typing.get_args(hint)
        if kind is int and not isinstance(value, (int, np.integer)):
            raise ValueError(f"{name} = {value!r}: must be a whole number")
        for bound in bounds:
            holds, says = _HOLDS[type(bound)]
            if not holds(value, bound):
                raise ValueError(f"{name} = {value!r}: must be {says(bound)}")
