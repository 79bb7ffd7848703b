"""Corrections of a trained classifier that need no training: NumPy functions on features and logits that were kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np


def tau_normalised(
    logits: np.ndarray, weight: np.ndarray, bias: np.ndarray | None, tau: float, *, keep_bias: bool = False
) -> np.ndarray:
    """z_c = w_c . f / |w_c|^tau: the tau-normalised classifier, from logits and not from features.

    Kang et al., "Decoupling Representation and Classifier for Long-Tailed Recognition", ICLR 2020 (https://arxiv.org/abs/1910.09217).

    Since w_c . f = z_c - b_c, a new tau costs no product with the features.

    Args:
        logits: (N, C). weight: W (C, D). bias: b (C,) or None.
        tau: 0 leaves the weights as they are, 1 makes them all as long.
        keep_bias: add b again; by default it is dropped, as the authors' code does.

    Raises:
        ValueError: a class's weight is 0, so that it has no direction.

    Example:
        >>> tau_normalised(np.array([[4.0, 1.0]]), np.array([[2.0, 0.0], [0.0, 1.0]]), None, 1.0)
        array([[2., 1.]])
    """
    norm = np.linalg.norm(weight.astype(np.float64), axis=1)
    if not norm.all():
        raise ValueError(f"the weight of class {int(norm.argmin())} is 0: it has no direction that could be normalised")
    factor = norm**-tau
    offset = np.zeros_like(norm) if bias is None else bias * (float(keep_bias) - factor)
    corrected = logits * factor.astype(logits.dtype)
    corrected += offset.astype(logits.dtype)  # in place: the array may be large
    return corrected


def logit_adjusted(logits: np.ndarray, class_counts: np.ndarray, tau: float) -> np.ndarray:
    """z_c - tau log pi_c, pi the training set's class frequencies.

    Menon et al., "Long-Tail Learning via Logit Adjustment", ICLR 2021, the post-hoc form (https://arxiv.org/abs/2007.07314).

    Args:
        logits: (N, C), of a classifier trained with cross-entropy. class_counts: (C,).
        tau: 0 changes nothing; 1 is the paper's.

    Example:
        >>> logit_adjusted(np.zeros((1, 2)), np.array([1, 1]), 1.0).round(4)
        array([[0.6931, 0.6931]])
    """
    counts = np.asarray(class_counts, np.float64)
    return logits - (tau * np.log(counts / counts.sum())).astype(logits.dtype)


class NearestClassMean:
    """z_c = -|g - m_c|^2 with g = (f - mu) / |f - mu|, mu the mean of the training features, m_c that of g over class c.

    The nearest-class-mean classifier (NCM: Kang et al., ICLR 2020).

    Args:
        features: of the training images, (N, D). labels: (N,). classes: C.

    Raises:
        ValueError: a class has no training image.

    Example:
        >>> features = np.array([[2.0, 0.0], [0.0, 1.0]])
        >>> NearestClassMean(features, np.array([0, 1]), 2).logits(features).argmax(axis=1).tolist()
        [0, 1]
    """

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int):
        counts = np.bincount(labels, minlength=classes)
        if not counts.all():
            raise ValueError(f"class {int(counts.argmin())} has no training image, so it has no mean")
        self.mean = features.mean(axis=0, dtype=np.float64)
        sums = np.zeros((classes, features.shape[1]))
        np.add.at(sums, labels, self._unit(features))
        self.means = sums / counts[:, None]  # (C, D)

    def _unit(self, features: np.ndarray) -> np.ndarray:
        centred = features - self.mean.astype(features.dtype)
        centred /= np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
        return centred

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(N, D) -> (N, C), of the features' type."""
        unit, means = self._unit(features), self.means.astype(features.dtype)
        logits = unit @ (2 * means.T)
        logits -= (means**2).sum(axis=1)
        logits -= (unit**2).sum(axis=1, keepdims=True)
        return logits


def balanced_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the per-class accuracies of the classes that there are."""
    classes = logits.shape[1]
    total = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[logits.argmax(axis=1) == labels], minlength=classes)
    return float((right[total > 0] / total[total > 0]).mean())


def search(
    apply: Callable[[float], np.ndarray], labels: np.ndarray, taus: Iterable[float]
) -> tuple[float, list[tuple[float, float]]]:
    """(the tau with the highest balanced accuracy, the smallest of equals; (tau, accuracy) of all).

    Args:
        apply: tau -> logits (N, C) of the VALIDATION part. labels: (N,), its classes.

    Example:
        >>> search(lambda tau: np.array([[1.0, tau]]), np.array([1]), [0.0, 2.0, 3.0])
        (2.0, [(0.0, 0.0), (2.0, 1.0), (3.0, 1.0)])
    """
    curve = [(float(tau), balanced_accuracy(apply(tau), labels)) for tau in taus]
    return max(curve, key=lambda point: (point[1], -point[0]))[0], curve
