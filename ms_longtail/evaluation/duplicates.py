"""Which pictures are there twice, which of them on both sides of a split, and which under different labels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .near_duplicates import Groups, near_pairs

# Cosine of the middle frequencies from which two hashes within the distance are called near-duplicates; measured on traffic
# signs, where frames of one recording should be found, and on photographs: docs/inspect.md.
ALIKE = 0.94
KEPT = 1_000_000  # pairs of hashes that are kept for examples; all of them are counted and grouped


@dataclass(frozen=True)
class Pictures:
    """The readable images of all parts, one after the other, each array (N, ...).

    Attributes:
        part, label: numbers. digest: 128 bits of the pixels, uint64 (N, 2). code: perceptual hash, uint64.
        flat: one colour, so that `code` means nothing. details: middle frequencies of length 1, float16 (N, 136).
    """

    part: np.ndarray
    label: np.ndarray
    digest: np.ndarray
    code: np.ndarray
    flat: np.ndarray
    details: np.ndarray


@dataclass
class Duplicates:
    """What was found. Images of one perceptual hash are one node; so are flat images with the same pixels.

    Attributes:
        picture: number of the picture, the same for images with the same pixels, (N,).
        node: number of the node (N,); group: of what hangs together by near-duplicates (N,).
        near_pairs: pairs of images that are near-duplicates, not counting those with the same pixels.
        exact_pairs: pairs of images with the same pixels.
        beside: whether a node has an image of a part in it or near it, bool (nodes, parts).
        lowest, highest: smallest and largest label in a node or near it (nodes,).
        pairs: nodes (a, b), bits, cosine of up to KEPT pairs of different hashes, the most alike first.
    """

    picture: np.ndarray
    node: np.ndarray
    group: np.ndarray
    near_pairs: int
    exact_pairs: int
    beside: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] = field(repr=False)


def find(pictures: Pictures, bits: int, *, parts: int, alike: float = ALIKE) -> Duplicates:
    """Exact and near-duplicates among all images.

    Two images are exact duplicates if height, width and all pixels are equal, in whatever files. They are near-duplicates
    if neither is flat and their hashes are equal, or differ in at most `bits` bits while the middle frequencies of the first
    images with these hashes have a cosine of `alike` or more. Every such pair is found; a pair is between hashes, so
    thousands of images that share a hash cost no more than one.
    """
    count = len(pictures.label)
    keys = np.ascontiguousarray(pictures.digest).view("V16").ravel()
    _, first_of, picture = np.unique(keys, return_index=True, return_inverse=True)
    rough = np.flatnonzero(~pictures.flat)
    codes, first, inverse = np.unique(pictures.code[rough], return_index=True, return_inverse=True)
    node = np.empty(count, np.int64)
    node[rough] = inverse
    smooth = np.flatnonzero(pictures.flat)
    flat_pictures, flat_inverse = np.unique(picture[smooth], return_inverse=True)
    node[smooth] = len(codes) + flat_inverse
    nodes = len(codes) + len(flat_pictures)

    size = np.bincount(node, minlength=nodes)
    holds = np.zeros((nodes, parts), bool)
    holds[node, pictures.part] = True
    lowest, highest = np.full(nodes, np.iinfo(np.int64).max), np.full(nodes, -1)
    np.minimum.at(lowest, node, pictures.label)
    np.maximum.at(highest, node, pictures.label)
    beside, low, high = holds.copy(), lowest.copy(), highest.copy()
    exact = _pairs_within(np.bincount(picture, minlength=len(first_of)))
    near, groups, kept, room = _pairs_within(size) - exact, Groups(nodes), [], KEPT
    details = pictures.details[rough[first]]
    for a, b, distance in near_pairs(codes, bits):
        cosine = np.einsum("ij,ij->i", details[a], details[b], dtype=np.float32)
        a, b, distance, cosine = (column[cosine >= alike] for column in (a, b, distance, cosine))
        near += int((size[a] * size[b]).sum())
        groups.join(a, b)
        for one, other in ((a, b), (b, a)):
            for part in range(parts):
                beside[one[holds[other, part]], part] = True
            np.minimum.at(low, one, lowest[other])
            np.maximum.at(high, one, highest[other])
        kept.append(tuple(column[:room] for column in (a, b, distance, cosine)))
        room -= len(kept[-1][0])
    empty = (np.empty(0, np.int64),) * 2 + (np.empty(0, np.uint8), np.empty(0, np.float32))
    pairs = tuple(np.concatenate(column) for column in zip(empty, *kept, strict=True))
    best_first = np.lexsort((pairs[2], -pairs[3]))
    pairs = tuple(column[best_first] for column in pairs)
    return Duplicates(picture, node, groups.of[node], near, exact, beside, low, high, pairs)


def conflicting(pictures: Pictures, found: Duplicates) -> tuple[np.ndarray, np.ndarray]:
    """Images (N,) with the same pixels as one of another class; images with a near-duplicate of another class."""
    count = int(found.picture.max(initial=-1)) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, found.picture, pictures.label)
    np.maximum.at(high, found.picture, pictures.label)
    near = (found.lowest[found.node] < pictures.label) | (found.highest[found.node] > pictures.label)
    return low[found.picture] != high[found.picture], near


def leaking(pictures: Pictures, found: Duplicates, source: int, part: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of `part` whose pixels are in part `source` too; those with a near-duplicate there (or the same pixels)."""
    here = np.flatnonzero(pictures.part == part)
    exact = np.isin(found.picture[here], found.picture[pictures.part == source])
    return here[exact], here[found.beside[found.node[here], source]]


def partners(
    pictures: Pictures, found: Duplicates, images: np.ndarray, allowed: np.ndarray, differ: np.ndarray | None = None
) -> list[tuple[int, int, int, float]]:
    """(image, other, bits, cosine) for each of `images`: the most alike image among `allowed`, a mask (N,).

    The same pixels come first, then the same hash, then the nearest hash that was kept. `differ` (N,) is what the two
    must differ in, by default their numbers. An image without a partner is left out.
    """
    differ = np.arange(len(allowed)) if differ is None else differ
    nodes = np.unique(found.node[images])
    a, b, bits, cosine = found.pairs
    touch = np.isin(a, nodes) | np.isin(b, nodes)
    beside: dict[int, list[tuple]] = {}
    for one, other, *alike in zip(*(column[touch].tolist() for column in (a, b, bits, cosine)), strict=True):
        beside.setdefault(one, []).append((other, *alike))
        beside.setdefault(other, []).append((one, *alike))
    reached = np.union1d(nodes, np.fromiter(beside, np.int64, len(beside)))
    wanted = np.flatnonzero(allowed & np.isin(found.node, reached))
    by_picture, by_node = _first_two(found.picture, wanted, differ), _first_two(found.node, wanted, differ)

    def other_than(image: int, candidates: list[int]) -> int | None:
        return next((i for i in candidates if differ[i] != differ[image]), None)

    rows = []
    for image in np.asarray(images).tolist():
        node = int(found.node[image])
        if (same := other_than(image, by_picture.get(int(found.picture[image]), []))) is not None:
            rows.append((image, same, 0, 1.0))
        elif (same := other_than(image, by_node.get(node, []))) is not None:
            rows.append((image, same, 0, _cosine(pictures, image, same)))
        else:
            for other, distance, alike in beside.get(node, []):
                if (near := other_than(image, by_node.get(other, []))) is not None:
                    rows.append((image, near, distance, alike))
                    break
    return rows


def _first_two(key: np.ndarray, images: np.ndarray, differ: np.ndarray) -> dict[int, list[int]]:
    """key -> the first two of `images` that have it and differ (one of them may be the image that asks)."""
    rows: dict[int, list[int]] = {}
    for image in images.tolist():
        held = rows.setdefault(int(key[image]), [])
        if not held or (len(held) == 1 and differ[held[0]] != differ[image]):
            held.append(image)
    return rows


def _cosine(pictures: Pictures, a: int, b: int) -> float:
    return float(pictures.details[a].astype(np.float32) @ pictures.details[b].astype(np.float32))


def _pairs_within(sizes: np.ndarray) -> int:
    return int((sizes.astype(np.int64) * (sizes - 1) // 2).sum())
