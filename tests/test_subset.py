import hashlib

import numpy as np
import pytest

from ms_longtail.data import checksum, choose, imbalance_factor, profile_counts


@pytest.mark.parametrize(
    ("classes", "n_max", "factor", "total", "smallest", "groups"),
    [
        (10, 5000, 100, 12406, 50, (8, 2, 0)),
        (10, 5000, 50, 13996, 100, (9, 1, 0)),
        (10, 5000, 10, 20431, 500, (10, 0, 0)),
        (100, 500, 100, 10847, 5, (35, 35, 30)),
        (100, 500, 50, 12608, 10, (41, 41, 18)),
        (100, 500, 10, 19573, 50, (69, 31, 0)),
    ],
)
def test_published_counts(classes, n_max, factor, total, smallest, groups):
    counts = profile_counts("exp", classes, n_max, factor)
    assert counts.sum() == total
    assert counts.min() == smallest
    found = ((counts > 100).sum(), ((counts >= 20) & (counts <= 100)).sum(), (counts < 20).sum())
    assert found == groups


def test_the_default_digits():
    assert profile_counts("exp", 10, 120, 50).tolist() == [120, 77, 50, 32, 21, 13, 8, 5, 3, 2]


def test_step_and_pareto():
    assert profile_counts("step", 5, 100, 10).tolist() == [100, 100, 100, 10, 10]
    counts = profile_counts("pareto", 1000, 1280, 256)
    by_hand = [int(1280 * (1 + i * (256 ** (1 / 6) - 1) / 999) ** -6 + 1e-9) for i in range(1000)]
    assert counts.tolist() == by_hand
    assert counts[0] == 1280
    assert counts[-1] == 5


def test_unknown_profile():
    with pytest.raises(ValueError, match="unknown profile 'linear'; choose from exp, step, pareto"):
        profile_counts("linear", 10, 100, 10)


def test_choice_is_that_of_the_published_code():
    """One global stream, classes in order, shuffle then cut: written from the description, with the global generator."""
    labels = np.random.default_rng(5).integers(0, 4, 400)
    counts = [50, 30, 20, 5]
    state = np.random.get_state()
    np.random.seed(0)
    expected = []
    for label, count in enumerate(counts):
        indices = np.where(labels == label)[0]
        np.random.shuffle(indices)
        expected.extend(indices[:count])
    np.random.set_state(state)
    assert choose(labels, np.array(counts)).tolist() == expected


def test_checksum_is_over_the_indices_in_order():
    assert (
        checksum(np.array([3, 1])) == hashlib.sha256((3).to_bytes(8, "little") + (1).to_bytes(8, "little")).hexdigest()
    )
    assert checksum(np.array([3, 1])) != checksum(np.array([1, 3]))


def test_imbalance_factor_passes_over_empty_classes():
    assert imbalance_factor(np.array([100, 0, 4])) == 25
