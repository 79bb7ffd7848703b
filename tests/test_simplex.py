"""Where free embeddings go under contrastive losses: the regular simplex, or not (Zhu et al., CVPR 2022, section 3.2)."""

import mindspore as ms
import numpy as np
import pytest
from contrastive_oracles import simplex_deviation
from mindspore import Tensor

from ms_longtail.losses import BalancedSupCon, SupCon

BALANCED, IMBALANCED = (5, 5, 5, 5), (15, 5, 2, 1)  # images of a class; each has two views


def descend(loss, counts, steps=500, rate=0.2, size=6):
    """Gradient descent with momentum on embeddings (2, B, E) and prototypes (C, E), all kept at length 1.

    Returns:
        (largest deviation of the class means' cosines from -1/(C-1), largest distance of an embedding from its class mean,
        largest distance of a prototype from it).
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    z, p = rng.standard_normal((2, len(labels), size)), rng.standard_normal((len(counts), size))
    used = loss.needs_prototypes
    slope = ms.grad(loss, (0, 2)) if used else ms.grad(loss, 0)
    push_z, push_p, y = 0 * z, 0 * p, Tensor(labels)
    for _ in range(steps):
        z, p = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, p))
        inputs = (Tensor(z, ms.float32), y) + ((Tensor(p, ms.float32),) if used else ())
        of_z, of_p = slope(*inputs) if used else (slope(*inputs), None)
        # An embedding's gradient has the factor 1 / 2B of the mean over anchors.
        push_z = 0.9 * push_z + of_z.asnumpy() * z.shape[1] * 2
        z = z - rate * push_z
        if used:
            push_p = 0.9 * push_p + 10 * of_p.asnumpy()
            p = p - rate * push_p
    z, p = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (z, p))
    means = np.stack([z[:, labels == c].mean(axis=(0, 1)) for c in range(len(counts))])
    within = max(np.linalg.norm(z[:, labels == c] - means[c], axis=-1).max() for c in range(len(counts)))
    apart = np.linalg.norm(p - means / np.linalg.norm(means, axis=1, keepdims=True), axis=1).max() if used else 0.0
    return simplex_deviation(means), within, apart


@pytest.mark.parametrize("counts", [BALANCED, IMBALANCED], ids=["balanced", "imbalanced"])
def test_balanced_contrastive_learning_ends_at_the_simplex(counts):
    deviation, within, apart = descend(BalancedSupCon(temperature=1.0, anchor_mean="class"), counts)
    assert max(deviation, within, apart) < 1e-3, (deviation, within, apart)


def test_supcon_ends_at_the_simplex_where_classes_are_equal():
    deviation, within, _ = descend(SupCon(temperature=1.0), BALANCED)
    assert max(deviation, within) < 1e-3, (deviation, within)


def test_supcon_does_not_where_they_are_not():
    deviation, _, _ = descend(SupCon(temperature=1.0), IMBALANCED)
    assert deviation > 0.1, deviation


def test_nor_does_the_plain_mean_over_anchors(capsys):
    deviation, _, _ = descend(BalancedSupCon(temperature=1.0), IMBALANCED)
    with capsys.disabled():
        print(
            f"\nbalanced_supcon with the authors' mean over anchors, images {IMBALANCED}: {deviation:.3f} off the simplex"
        )
    assert deviation > 0.1, deviation
