import numpy as np
import pytest

from ms_longtail import hashing


def reference(x):
    """SplitMix64's output function on Python integers, from the paper."""
    mask = (1 << 64) - 1
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def test_bits_follow_the_published_generator():
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    key = reference((7 * golden + hashing.stream_id("crop")) & mask)
    row = reference((12345 * golden + key) & mask)
    expected = [reference((row + k * golden) & mask) for k in (1, 2, 3)]
    assert hashing.bits(7, np.array([12345]), "crop", 3)[0].tolist() == expected


def test_a_draw_does_not_depend_on_its_neighbours():
    together = hashing.uniform(0, np.arange(100), "flip", 4)
    alone = np.concatenate([hashing.uniform(0, np.array([d]), "flip", 4) for d in range(100)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(hashing.uniform(0, np.arange(100), "flip", 2), together[:, :2])


@pytest.mark.parametrize("other", [{"seed": 1}, {"stream": "crop"}])
def test_seed_and_stream_matter(other):
    first = hashing.uniform(0, np.arange(2000), "flip", 1).ravel()
    second = hashing.uniform(other.get("seed", 0), np.arange(2000), other.get("stream", "flip"), 1).ravel()
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_uniform_is_uniform_along_draws_and_along_counts():
    values = hashing.uniform(3, np.arange(40000), "x", 5)
    assert values.min() >= 0
    assert values.max() < 1
    for column in values.T:
        counts = np.bincount((column * 20).astype(int), minlength=20)
        chi_square = ((counts - 2000) ** 2 / 2000).sum()
        assert chi_square < 50  # 19 degrees of freedom: 43.8 is the 0.1 % point
    correlation = np.corrcoef(values.T) - np.eye(5)
    assert np.abs(correlation).max() < 0.03
    assert abs(np.corrcoef(values[:-1, 0], values[1:, 0])[0, 1]) < 0.03


def test_integers_stay_in_range_and_reach_both_ends():
    values = hashing.integers(0, np.arange(5000), "x", 1, 9)
    assert set(np.unique(values)) == set(range(9))
