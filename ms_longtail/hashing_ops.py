"""The hash of `hashing.py` in spirit, as operators: random choices inside a network, from numbers and not from hidden state.

MindSpore's own random operators keep a state that no checkpoint holds. Here every random choice is a function of
(key, draw number, column): 32-bit integers, multiplied with wrap-around (checked on the CPU; not tried on other devices).
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import hashing

_GOLDEN = 0x9E3779B1 - (1 << 32)  # an odd constant near 2**32 over the golden ratio
_A, _B = 0x7FEB352D, 0x846CA68B - (1 << 32)  # multipliers of Wellons' low-bias 32-bit hash, as signed integers


def column_keys(seed: int, stream: str, count: int) -> Tensor:
    """(count,) odd int32 constants, one for every column (a class, a feature …) of a random table."""
    words = hashing.bits(seed, np.arange(count), stream, 1)[:, 0] >> np.uint64(32)
    return Tensor((words | np.uint64(1)).astype(np.uint32).view(np.int32))


def row_keys(draws):
    """(B, 1) int32 for draw numbers (B,) of any integer dtype, of which the lower 32 bits count."""
    return _mix(draws.astype(ms.int32).expand_dims(1) * _GOLDEN)


def bound(probability: float) -> int:
    """What a uniform int32 lies below with this probability, met to 2**-32."""
    return max(-(2**31), min(2**31 - 1, round(probability * 2**32) - 2**31))


def below(rows, columns, bounds):
    """Random choices: whether the table's entries lie below their bounds.

    An entry is the product of a row's and a column's key modulo 2**32, both hashed before: one operation, since tables are
    large, and a bijection of the row for every column, so that every entry is uniform.

    Args:
        rows: `row_keys` (B, 1); columns: `column_keys`, (1, C); bounds: `bound`, a number or (1, C) int32.

    Returns:
        (B, C) bool.
    """
    return rows * columns < bounds


def _mix(x):
    x = ops.bitwise_xor(x, _shifted(x, 16)) * _A
    x = ops.bitwise_xor(x, _shifted(x, 15)) * _B
    return ops.bitwise_xor(x, _shifted(x, 16))


def _shifted(x, places: int):
    """x >> places without copies of the sign."""
    return ops.bitwise_and(ops.bitwise_right_shift(x, places), (1 << (32 - places)) - 1)
