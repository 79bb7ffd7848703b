"""What the workers of a run tell each other outside the training step. All of them must call these at the same point.

With one worker every function returns what it was given.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from .runtime import in_group


def gather(value: Any) -> list[Any]:
    """Every worker's value, by rank; anything that JSON can carry."""
    if not in_group():
        return [value]
    from mindspore import Tensor, ops

    content = np.frombuffer(json.dumps(value).encode(), np.uint8).astype(
        np.float32
    )  # a type that every collective sends
    length = np.array([content.size], np.float32)
    lengths = ops.AllGather()(Tensor(length)).asnumpy().astype(int)  # (ranks,); exact below 2**24
    padded = np.zeros((1, lengths.max()), np.float32)
    padded[0, : content.size] = content
    rows = ops.AllGather()(Tensor(padded)).asnumpy().astype(np.uint8)  # (ranks, longest)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, lengths, strict=True)]


def from_main(value: Any) -> Any:
    """Rank 0's value on every worker; what the others give is not looked at."""
    return gather(value)[0]


def gather_messages(own: dict[int, str]) -> dict[int, str]:
    """What any worker has to say, by number."""
    return {int(number): text for part in gather(own) for number, text in part.items()}


def any_of(flag: bool) -> bool:
    """Whether some worker says so. Returns when all have been asked, so it is a meeting point, too."""
    if not in_group():
        return bool(flag)
    from mindspore import Tensor, ops

    return bool(ops.AllReduce()(Tensor(np.array([flag], np.float32))).asnumpy()[0])


def broadcast_parameters(cell) -> None:
    """Give every worker rank 0's parameters, in both modes (MindSpore's own broadcast does nothing in PyNative)."""
    if not in_group():
        return
    from mindspore import ops

    broadcast = ops.Broadcast(0)
    for parameter in cell.get_parameters():
        ops.assign(parameter, broadcast((parameter.value(),))[0])  # set_data would not reach compiled graphs


def broadcast_array(array: np.ndarray | None) -> np.ndarray | None:
    """Rank 0's array of bytes (uint8) on every worker; None where it has none."""
    if not in_group():
        return array
    from mindspore import Tensor, ops

    shape = from_main(None if array is None else array.shape)
    if shape is None or 0 in shape:
        return None if shape is None else np.zeros(shape, np.uint8)
    values = np.zeros(shape) if array is None else np.asarray(array)
    return ops.Broadcast(0)((Tensor(values.astype(np.float32)),))[0].asnumpy().astype(np.uint8)
