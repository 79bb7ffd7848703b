"""Long-tailed subsets: how many images each class keeps, and which."""

from __future__ import annotations

import hashlib

import numpy as np

PROFILES = ("none", "exp", "step", "pareto")


def profile_counts(profile: str, num_classes: int, n_max: float, factor: float) -> np.ndarray:
    """Target images per class, largest first, for an imbalance factor IF = n_max / n_min.

    exp (Cui et al., CVPR 2019; Cao et al., NeurIPS 2019): n_i = int(n_max * (1/IF)^(i/(C-1)))
    step (Buda et al., 2018): the first half of the classes n_max, the others int(n_max / IF)
    pareto (power 6, as ImageNet-LT, Liu et al., CVPR 2019): n_i = int(n_max * (1 + i (IF^(1/6) - 1)/(C-1))^-6)

    Example:
        >>> profile_counts("exp", 10, 5000, 100).tolist()
        [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    if profile not in PROFILES[1:]:
        raise ValueError(f"unknown profile {profile!r}; choose from {', '.join(PROFILES[1:])}")
    # A power that should give 50 may give 49.999999: the formula's int() means the exact value.
    return np.floor(n_max * profile_shares(profile, num_classes, factor) + 1e-9).astype(np.int64)


def profile_shares(profile: str, num_classes: int, factor: float) -> np.ndarray:
    """n_i / n_max before rounding, (C,), from 1 down to 1 / IF."""
    place = np.arange(num_classes) / max(1, num_classes - 1)
    if profile == "exp":
        return np.power(1.0 / factor, place)
    if profile == "step":
        return np.where(np.arange(num_classes) < num_classes / 2, 1.0, 1.0 / factor)
    return (1 + place * (factor ** (1 / 6) - 1)) ** -6.0


def choose(labels: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Indices of the images kept: the first counts[c] of one shuffle of each class, classes in order.

    All shuffles come from one `RandomState(seed)` stream, which picks the very images of the LDAM-DRW release (Cao et
    al., 2019) when applied to CIFAR's official order. A class with fewer images keeps all of them.
    """
    stream = np.random.RandomState(seed)
    kept = []
    for label, count in enumerate(counts):
        of_class = np.flatnonzero(labels == label)
        stream.shuffle(of_class)
        kept.append(of_class[:count])
    return np.concatenate(kept)


def checksum(indices: np.ndarray) -> str:
    """SHA-256 over the chosen indices as little-endian 64-bit integers, in order."""
    return hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()


def imbalance_factor(counts: np.ndarray) -> float:
    """Largest class over smallest class that has an image."""
    present = counts[counts > 0]
    return float(present.max() / present.min())
