"""Setting parameters from outside a graph."""

from __future__ import annotations

import numpy as np
from mindspore import Parameter, Tensor, ops


def assign(parameter: Parameter, value: np.ndarray | float) -> None:
    """Give a parameter a value that compiled graphs see too.

    `Parameter.set_data` (and `load_param_into_net`, which uses it) gives the parameter new memory: a graph that has run
    before goes on with the old, and what it computes from then on never shows in the parameter.
    """
    array = np.array(value).reshape(parameter.shape)  # a copy: a loaded checkpoint must not alias the network
    ops.assign(parameter, Tensor(array, parameter.dtype))
