"""All pairs of 64-bit hashes within a Hamming distance, without looking at all pairs; and what hangs together by pairs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

BITS = 64
MAX_DISTANCE = 12  # beyond it, pictures that have nothing to do with each other are near
CHUNK = 1 << 18  # pairs that are handed over at once

_SORT, _TRY = 2e-7, 2e-8  # seconds: sort one hash, try one pair; only their ratio matters


def near_pairs(codes: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every pair of `codes` with a Hamming distance of at most `distance`, exactly once.

    The 64 bits are cut into distance + r blocks. Two hashes that differ in at most `distance` bits agree in r blocks at
    least, so for every choice of r blocks the hashes are sorted by these, and only those that agree in them are compared
    (Manku et al., "Detecting Near-Duplicates for Web Crawling", WWW 2007). A pair that agrees in more is handed over at
    the first choice only. r is chosen by the number of hashes; r = 0 compares everything with everything. Memory
    is proportional to the number of hashes; the number of pairs may be quadratic, so they come in chunks.

    Args:
        codes: DIFFERENT hashes, uint64 (n,): equal ones would make n^2 pairs; `np.unique` them first.
        distance: 0 to 12.

    Yields:
        (i, j, d): positions, i != j, and distances, each (m,).
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance must be from 0 to {MAX_DISTANCE}, got {distance}")
    codes = np.asarray(codes, np.uint64)
    if len(codes) < 2:
        return
    shared = shared_blocks(len(codes), distance)
    masks = _block_masks(distance + shared)
    held, count = [], 0
    for choice in itertools.combinations(range(len(masks)), shared):
        # Of the blocks before the last chosen one, those not chosen: if one of them agrees too, the pair was found before.
        earlier = [masks[b] for b in range(choice[-1] if choice else 0) if b not in choice]
        mask = np.bitwise_or.reduce([masks[b] for b in choice]) if choice else np.uint64(0)
        for i, j, d in _pairs_that_agree(codes, mask, earlier, distance):
            held.append((i, j, d))
            count += len(i)
            if count >= CHUNK:
                yield tuple(np.concatenate(column) for column in zip(*held, strict=True))
                held, count = [], 0
    if held:
        yield tuple(np.concatenate(column) for column in zip(*held, strict=True))


def shared_blocks(n: int, distance: int) -> int:
    """The r that costs least for n evenly spread hashes: C(d + r, r) sorts, and n^2 / 2 pairs times the chance to agree."""

    def cost(r: int) -> float:
        agree = 2.0 ** -(BITS * r / (distance + r)) if r else 1.0
        return math.comb(distance + r, r) * (n * _SORT + n * n / 2 * agree * _TRY)

    return min(range(0 if distance else 1, 6), key=cost)


def _block_masks(blocks: int) -> list[np.uint64]:
    """Masks of `blocks` disjoint sets of bits, as equal in size as may be; neighbouring frequencies fall into different ones."""
    return [np.uint64(sum(1 << bit for bit in range(start, BITS, blocks))) for start in range(blocks)]


def _pairs_that_agree(codes: np.ndarray, mask: np.uint64, earlier: list[np.uint64], distance: int):
    """Pairs that are equal under `mask`, under none of `earlier`, and near enough."""
    keys = codes & mask
    order = np.argsort(keys, kind="stable")
    keys, ranked = keys[order], codes[order]
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True))  # last place of every run of equal keys
    end = np.repeat(ends, np.diff(ends, prepend=-1))
    place = np.flatnonzero(end > np.arange(len(keys)))
    for step in range(1, len(keys)):
        place = place[end[place] >= place + step]  # those whose run goes on for so many steps
        if not len(place):
            return
        difference = ranked[place] ^ ranked[place + step]
        d = popcount(difference)
        near = d <= distance
        for other in earlier:
            near[near] = (difference[near] & other) != 0
        if near.any():
            first = place[near]
            yield order[first], order[first + step], d[near]


def popcount(values: np.ndarray) -> np.ndarray:
    """Number of bits that are 1, uint64 (n,) -> uint8 (n,)."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(values)
    v = values - ((values >> np.uint64(1)) & np.uint64(0x5555555555555555))
    v = (v & np.uint64(0x3333333333333333)) + ((v >> np.uint64(2)) & np.uint64(0x3333333333333333))
    v = (v + (v >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    with np.errstate(over="ignore"):
        return ((v * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


class Groups:
    """What hangs together by pairs that arrive in chunks; memory is that of the members, whatever the number of pairs.

    Example:
        >>> groups = Groups(4)
        >>> groups.join(np.array([0, 3]), np.array([3, 1]))
        >>> groups.of.tolist()
        [0, 0, 1, 0]
    """

    def __init__(self, size: int):
        self.of = np.arange(size)  # group number of every member, (size,)

    def join(self, first: np.ndarray, second: np.ndarray) -> None:
        """Members first[k] and second[k] belong together."""
        a, b = self.of[first], self.of[second]
        count = int(self.of.max(initial=-1)) + 1
        edges = coo_matrix((np.ones(len(a), np.int8), (a, b)), shape=(count, count))
        self.of = connected_components(edges, directed=False)[1][self.of]
