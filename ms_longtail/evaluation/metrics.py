"""Numbers from logits and labels: NumPy in, plain numbers out. scikit-learn's where it has them."""

from __future__ import annotations

from typing import Any

import numpy as np

# SciPy and scikit-learn are imported where they are used: together they take a second that no training has to wait for.

MANY, FEW = 100, 20


def groups(class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Classes of each group, as masks (C,): the thresholds of Liu et al. (CVPR 2019), which all later work uses."""
    counts = np.asarray(class_counts)
    return {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}


def expected_calibration_error(probability: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """sum_b |B_b| / N |accuracy(B_b) - confidence(B_b)| over equal bins of the top confidence (Guo et al., ICML 2017, eq. 5).

    Args:
        probability: (N, C). labels: (N,). bins: half-open to the left, (0, 1/bins], ...
    """
    confidence = probability.max(axis=1)
    correct = probability.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    total = np.bincount(which, minlength=bins)
    gap = np.abs(np.bincount(which, correct, bins) - np.bincount(which, confidence, bins))
    return float(gap[total > 0].sum() / len(labels))


def evaluate(logits: np.ndarray, labels: np.ndarray, class_counts: np.ndarray) -> dict[str, Any]:
    """All numbers of a report, accuracies as shares of 1.

    Args:
        logits: (N, C). labels: (N,). class_counts: TRAINING images per class (C,), which define the groups.

    Returns:
        top1, top5, many, medium, few (mean of the per-class accuracies of the group's classes that the set holds; None
        for an empty group), balanced (mean per class), macro_f1, worst {class, accuracy}, harmonic_mean, ece, n and per_class (C
        entries, None for a class without an image).
    """
    from scipy.special import softmax
    from scipy.stats import hmean
    from sklearn.metrics import f1_score

    classes = len(class_counts)
    predicted = logits.argmax(axis=1)
    everything = np.arange(classes)
    of_class = np.bincount(labels, minlength=classes)
    present = of_class > 0
    right = np.bincount(labels[predicted == labels], minlength=classes)
    accuracy = np.divide(right, of_class, out=np.full(classes, np.nan), where=present)
    k = min(5, classes)
    top5 = (np.argpartition(-logits, k - 1, axis=1)[:, :k] == labels[:, None]).any(axis=1)
    worst = int(np.nanargmin(accuracy))
    members = groups(class_counts)
    by_group = {
        name: float(accuracy[mask & present].mean()) if (mask & present).any() else None
        for name, mask in members.items()
    }
    held = accuracy[present]
    return {
        "n": len(labels),
        "top1": float((predicted == labels).mean()),
        "top5": float(top5.mean()),
        **by_group,
        "group_sizes": {name: int(mask.sum()) for name, mask in members.items()},
        "balanced": float(held.mean()),
        "macro_f1": float(f1_score(labels, predicted, labels=everything[present], average="macro", zero_division=0)),
        "worst": {"class": worst, "accuracy": float(accuracy[worst])},
        "harmonic_mean": float(hmean(held)) if (held > 0).all() else 0.0,
        "ece": expected_calibration_error(softmax(logits.astype(np.float64), axis=1), labels),
        "per_class": [None if np.isnan(a) else float(a) for a in accuracy],
    }


def confusion(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images of class i that were taken for class j, (C, C); scikit-learn's."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, logits.argmax(axis=1), labels=np.arange(logits.shape[1]))


def percent(value: float | None) -> str:
    """A share as a percentage with two digits; "n/a" where there is none (an empty group is not 0)."""
    return "n/a" if value is None else f"{100 * value:.2f}"
