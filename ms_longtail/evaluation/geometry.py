"""How the features of a trained network lie: angles between classes, closeness within a class, spread over the sphere.

Every feature is taken as a direction, z = f / |f| (a feature of zeros stays zero). Groups are those of `metrics.groups`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import hashing
from .metrics import groups

MOST = 5000  # images whose pairs are looked at for the uniformity
BLOCK = 512  # rows of the matrix of all pairs that are in memory at a time
CENTRE = 1e-12  # a class mean that is nearer to the middle of all has no direction


def unit(features: np.ndarray) -> np.ndarray:
    """z = f / |f| in float64, (N, D); zeros stay zeros."""
    features = features.astype(np.float64)
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm > 0, norm, 1.0)


def rows_by_class(labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """The rows of each class, in the set's order."""
    ends = np.cumsum(np.bincount(labels, minlength=classes))
    return np.split(np.argsort(labels, kind="stable"), ends[:-1])


def class_means(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The mean direction of each class, (C, D); a row of NaN for a class without an image."""
    means = np.full((classes, features.shape[1]), np.nan)
    for c, rows in enumerate(rows_by_class(labels, classes)):
        if len(rows):
            means[c] = unit(features[rows]).mean(axis=0)
    return means


def mean_cosines(means: np.ndarray) -> np.ndarray:
    """cos(m_i - m, m_j - m), with m the mean of the class means: the angles in which classes see each other from the middle.

    Papyan, Han and Donoho, "Prevalence of neural collapse during the terminal phase of deep learning training", PNAS 2020
    (https://arxiv.org/abs/2008.08186), property NC2. At collapse the C class means are the corners of a regular simplex, whose
    cosines are all -1 / (C - 1). There features are as they come and m is the mean of all images, of which every class has as
    many. Here features are directions, and every class counts once: else the largest classes would be the middle.

    Args:
        means: (C, D), of `class_means`; rows of NaN are classes that are not there.

    Returns:
        (C, C); NaN where a class is not there, or lies in the middle itself.

    Example:
        >>> mean_cosines(np.eye(3)).round(6)
        array([[ 1. , -0.5, -0.5],
               [-0.5,  1. , -0.5],
               [-0.5, -0.5,  1. ]])
    """
    centred = means - means[~np.isnan(means[:, 0])].mean(axis=0)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    direction = centred / np.where(norm > CENTRE, norm, np.nan)
    return np.clip(direction @ direction.T, -1.0, 1.0)


def compare_angles(cosines: np.ndarray, simplex: float | None, members: np.ndarray) -> dict[str, float | None]:
    """Mean and standard deviation of the cosines between the classes `members` (C,), and the largest |cosine - simplex|.

    None for all three where there is no such pair, or no simplex to compare with.
    """
    own = cosines[np.ix_(members, members)]
    pairs = own[np.triu_indices(len(own), 1)]
    pairs = pairs[~np.isnan(pairs)]
    if simplex is None or not len(pairs):
        return dict.fromkeys(("cosine_mean", "cosine_spread", "cosine_deviation"))
    deviation = np.abs(pairs - simplex).max()
    return {
        "cosine_mean": float(pairs.mean()),
        "cosine_spread": float(pairs.std()),
        "cosine_deviation": float(deviation),
    }


def alignment(features: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """mean of |z_i - z_j|^2 over the pairs i < j of images of the same class, (C,): 0 where all are in one direction.

    Wang and Isola, "Understanding contrastive representation learning through alignment and uniformity on the hypersphere",
    ICML 2020 (https://arxiv.org/abs/2005.10242), eq. 1 with alpha = 2, where the pairs are views of the same image; images of
    one class are the supervised counterpart. No pair is looked at: the mean over all of them is 2 / (n - 1) times the sum
    of the squared distances to their mean.

    Args:
        features: (N, D). labels: (N,).

    Returns:
        (C,); NaN for a class with fewer than two images.

    Example:
        >>> alignment(np.array([[1.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), np.array([0, 0, 1]), 2)
        array([ 2., nan])
    """
    result = np.full(classes, np.nan)
    for c, rows in enumerate(rows_by_class(labels, classes)):
        if len(rows) > 1:
            z = unit(features[rows])  # (n, D)
            result[c] = 2.0 * ((z - z.mean(axis=0)) ** 2).sum() / (len(rows) - 1)
    return result


def uniformity(features: np.ndarray, most: int = MOST) -> float | None:
    """log of the mean of exp(-2 |z_i - z_j|^2) over all pairs i < j, whatever their class: 0 where all are in one direction.

    Wang and Isola, ICML 2020, eq. 2 with t = 2. The lower, the more evenly the images are spread over the sphere.

    Args:
        features: (N, D). most: of more images those are taken whose position has the smallest hashes, always the same ones.

    Returns:
        None for fewer than two images.

    Example:
        >>> round(uniformity(np.eye(2)), 6)
        -4.0
    """
    z = unit(features[some_rows(len(features), most)])  # (n, D)
    if len(z) < 2:
        return None
    square, total = (z**2).sum(axis=1), 0.0
    for first in range(0, len(z), BLOCK):
        rows, others = slice(first, first + BLOCK), slice(first, None)
        distance = square[rows, None] + square[None, others] - 2 * z[rows] @ z[others].T
        total += np.triu(np.exp(-2 * np.maximum(distance, 0)), 1).sum()
    return float(np.log(total / (len(z) * (len(z) - 1) / 2)))


def some_rows(count: int, most: int) -> np.ndarray:
    """At most `most` of `count` rows, in order, by the hash of their position."""
    order = np.argsort(hashing.bits(0, np.arange(count), "geometry", 1)[:, 0], kind="stable")
    return np.sort(order[:most])


def geometry(features: np.ndarray, labels: np.ndarray, class_counts: np.ndarray) -> dict[str, Any]:
    """All numbers of a set of images.

    Args:
        features: (N, D). labels: (N,). class_counts: TRAINING images per class (C,), which define the groups.

    Returns:
        simplex: -1 / (C - 1) for the C classes that have an image; None for two, whose cosine is -1 whatever they do.
        groups: "all", "many", "medium" and "few", each with classes and images (that there are), alignment (mean over the
        classes that have one), uniformity (over the group's images), uniformity_images (of how many), and of the angles between
        its class means cosine_mean, cosine_spread, cosine_deviation; None where a number does not exist.
        alignment (C,) and cosines (C, C): NaN where a class has none.

    Raises:
        ValueError: fewer than two classes have an image, or a feature is not a number.
    """
    classes = len(class_counts)
    images = np.bincount(labels, minlength=classes)
    there = int((images > 0).sum())
    if there < 2:
        raise ValueError(f"{'only 1' if there else 'no'} class has an image; there are no angles between classes")
    if not np.isfinite(features).all():
        raise ValueError("some features are not finite numbers; the network has diverged")
    simplex = -1 / (there - 1) if there > 2 else None
    cosines = mean_cosines(class_means(features, labels, classes))
    aligned = alignment(features, labels, classes)
    found = {}
    for name, mask in ({"all": np.ones(classes, bool)} | groups(class_counts)).items():
        rows, own = np.flatnonzero(mask[labels]), aligned[mask & (images > 1)]
        found[name] = {
            "classes": int((mask & (images > 0)).sum()),
            "images": len(rows),
            "alignment": float(own.mean()) if len(own) else None,
            "uniformity": uniformity(features[rows[some_rows(len(rows), MOST)]]),
            "uniformity_images": min(len(rows), MOST),
        } | compare_angles(cosines, simplex, mask)
    return {"simplex": simplex, "groups": found, "alignment": aligned, "cosines": cosines}
