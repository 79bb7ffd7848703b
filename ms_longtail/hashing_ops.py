"""The hash of `hashing.py` in spirit, as operators: random bits inside a network, from numbers and not from hidden state.

MindSpore's own random operators keep a state that no checkpoint holds. Here every random choice is a function of
(key, draw number, column); 32-bit integers, since every device multiplies them with wrap-around.
"""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from . import hashing

_GOLDEN = 0x9E3779B1 - (1 << 32)  # an odd constant near 2**32 over the golden ratio
_A, _B = 0x7FEB352D, 0x846CA68B - (1 << 32)  # multipliers of Wellons' low-bias 32-bit hash, as signed integers


def column_keys(seed: int, stream: str, count: int) -> Tensor:
    """(count,) int32 constants, one for every column (a class, a feature …) of the random table."""
    words = hashing.bits(seed, np.arange(count), stream, 1)[:, 0]
    return Tensor((words >> np.uint64(32)).astype(np.uint32).view(np.int32))


def random_bits(draws, columns):
    """A table of random 32-bit words.

    Args:
        draws: draw numbers (B,), any integer dtype; their lower 32 bits count.
        columns: `column_keys` (C,).

    Returns:
        (B, C) int32, uniform over all of them; as with every multiplicative hash, the upper bits are the best.
    """
    rows = _mix(draws.astype(ms.int32).expand_dims(1) * _GOLDEN)  # (B, 1)
    # Rows and columns are mixed well already, so one round is enough for the table, where every operation counts.
    x = ops.bitwise_xor(rows, columns.expand_dims(0)) * _A
    return ops.bitwise_xor(x, _shifted(x, 15)) * _B


def bernoulli(draws, columns, probability: float):
    """(B, C) float32 of ones with the probability given, else zeros; the probability is met to 2**-32."""
    if probability >= 1.0:
        return ops.ones((draws.shape[0], columns.shape[0]), ms.float32)
    bound = int(probability * 2**32) - 2**31
    return (random_bits(draws, columns) < bound).astype(ms.float32)


def _mix(x):
    x = ops.bitwise_xor(x, _shifted(x, 16)) * _A
    x = ops.bitwise_xor(x, _shifted(x, 15)) * _B
    return ops.bitwise_xor(x, _shifted(x, 16))


def _shifted(x, places: int):
    """x >> places without copies of the sign."""
    return ops.bitwise_and(ops.bitwise_right_shift(x, places), (1 << (32 - places)) - 1)
