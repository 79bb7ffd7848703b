"""Random numbers that are a pure function of what they are for: (seed, draw number, stream), never of hidden state.

Every image drawn in a run has a running draw number. Hashing it gives the random choices about that image, the same
for any number of threads or workers and after any resume. `stream` keeps the choices of different augmentations apart.
"""

from __future__ import annotations

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def stream_id(name: str) -> int:
    """A stable number for a stream's name (Python's own `hash` of a string changes from run to run)."""
    return zlib.crc32(name.encode())


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 (Steele, Lea, Flood, 2014): every input bit reaches every output bit."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    return x ^ (x >> np.uint64(31))


def bits(seed: int, draws: np.ndarray, stream: str, count: int) -> np.ndarray:
    """`count` 64-bit words for every draw number.

    Args:
        seed: the run's seed.
        draws: draw numbers, any integer dtype, shape (B,).
        stream: what the numbers are for, e.g. "crop".
        count: how many words per draw.

    Returns:
        uint64 array (B, count).

    Example:
        >>> bits(0, np.arange(3), "crop", 2).shape
        (3, 2)
    """
    with np.errstate(over="ignore"):
        key = _mix(np.uint64(seed) * _GOLDEN + np.uint64(stream_id(stream)))  # ()
        row = _mix(np.asarray(draws).astype(np.uint64) * _GOLDEN + key)  # (B,)
        column = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN  # (count,)
        return _mix(row[:, None] + column[None, :])  # (B, count)


def uniform(seed: int, draws: np.ndarray, stream: str, count: int) -> np.ndarray:
    """Uniform numbers in [0, 1): float64 array (B, count), from the upper 53 bits of `bits`."""
    return (bits(seed, draws, stream, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def integers(seed: int, draws: np.ndarray, stream: str, count: int, high: int) -> np.ndarray:
    """Integers in [0, high): int64 array (B, count). The bias is below high / 2**53."""
    return (uniform(seed, draws, stream, count) * high).astype(np.int64)
