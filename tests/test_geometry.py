"""How features lie, against loops over all pairs in float64; perfect cases; classes with no image or with one."""

import doctest

import numpy as np
import pytest

from ms_longtail.evaluation import geometry as g
from ms_longtail.evaluation import geometry_plot as plot

GROUPS = {"many": (0, 1), "medium": (2,), "few": (3, 4, 5)}
COUNTS = np.array([300, 101, 20, 19, 7, 1])


@pytest.fixture
def some():
    """Features (N, D) float32 and labels: class 3 has one image, class 5 none."""
    random = np.random.default_rng(3)
    labels = np.array([0] * 9 + [1] * 5 + [2] * 4 + [3] + [4] * 6)
    random.shuffle(labels)
    features = random.normal(size=(6, 7))[labels] + 0.7 * random.normal(size=(len(labels), 7))
    return features.astype(np.float32), labels


def directions(features):
    return [f.astype(np.float64) / np.sqrt((f.astype(np.float64) ** 2).sum()) for f in features]


def pairs(rows):
    return [(a, b) for i, a in enumerate(rows) for b in rows[:i]]


def square(a, b):
    return float(((a - b) ** 2).sum())


def simplex(classes, size):
    """Corners of a regular simplex about the origin, (C, D): a basis minus its middle, in a turned space."""
    corners = np.eye(classes) - 1 / classes
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))
    return corners @ turn[:classes]


def test_alignment_is_the_mean_over_all_pairs_of_a_class(some):
    features, labels = some
    z, found = directions(features), g.alignment(features, labels, 6)
    for c in range(6):
        own = [square(a, b) for a, b in pairs([z[i] for i in np.flatnonzero(labels == c)])]
        if own:
            assert found[c] == pytest.approx(np.mean(own), rel=1e-12)
        else:
            assert c in (3, 5)
            assert np.isnan(found[c])


@pytest.mark.parametrize("block", [1, 4, 512])
def test_uniformity_is_over_all_pairs_whatever_the_block(some, monkeypatch, block):
    monkeypatch.setattr(g, "BLOCK", block)
    z = directions(some[0])
    expected = np.log(np.mean([np.exp(-2 * square(a, b)) for a, b in pairs(z)]))
    assert g.uniformity(some[0]) == pytest.approx(expected, rel=1e-12)


def test_uniformity_of_many_images_is_that_of_a_fixed_sample():
    features = np.random.default_rng(1).normal(size=(700, 3)).astype(np.float32)
    rows = g.some_rows(700, 200)
    assert len(set(rows.tolist())) == 200
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(g.some_rows(150, 200), np.arange(150))
    assert g.uniformity(features, 200) == g.uniformity(features[rows])
    assert g.uniformity(features, 200) == pytest.approx(g.uniformity(features), abs=0.05)


def test_cosines_are_those_of_the_class_means_from_their_own_middle(some):
    features, labels = some
    z = directions(features)
    means = {c: np.mean([z[i] for i in np.flatnonzero(labels == c)], axis=0) for c in range(5)}
    middle = sum(means.values()) / 5  # every class once, whatever its number of images
    found = g.mean_cosines(g.class_means(features, labels, 6))
    for i in range(5):
        for j in range(5):
            a, b = means[i] - middle, means[j] - middle
            assert found[i, j] == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=1e-12)
    assert np.isnan(found[5]).all()
    assert np.isnan(found[:, 5]).all()


def test_all_numbers_of_a_set(some):
    features, labels = some
    z, found = directions(features), g.geometry(features, labels, COUNTS)
    assert found["simplex"] == -1 / 4  # five classes have an image
    everything = {"all": tuple(range(6))} | GROUPS
    assert list(found["groups"]) == list(everything)
    for name, classes in everything.items():
        row, rows = found["groups"][name], np.flatnonzero(np.isin(labels, classes))
        assert row["classes"] == len(set(labels[rows]))
        assert row["images"] == row["uniformity_images"] == len(rows)
        expected = np.log(np.mean([np.exp(-2 * square(a, b)) for a, b in pairs([z[i] for i in rows])]))
        assert row["uniformity"] == pytest.approx(expected, rel=1e-12)
        aligned = [found["alignment"][c] for c in classes if (labels == c).sum() > 1]
        assert row["alignment"] == pytest.approx(np.mean(aligned))
        cosines = [found["cosines"][i, j] for i, j in pairs([c for c in classes if c != 5])]
        if name == "medium":
            assert row["cosine_mean"] is row["cosine_spread"] is row["cosine_deviation"] is None
            continue
        assert row["cosine_mean"] == pytest.approx(np.mean(cosines))
        assert row["cosine_spread"] == pytest.approx(np.std(cosines))
        assert row["cosine_deviation"] == pytest.approx(max(abs(cosine + 1 / 4) for cosine in cosines))


@pytest.mark.parametrize("classes", [3, 6, 40])
def test_a_perfect_simplex_deviates_by_nothing(classes):
    # Lengths differ from image to image, numbers of images from class to class: neither moves a direction.
    labels = np.repeat(np.arange(classes), 1 + np.arange(classes) % 4)
    length = np.random.default_rng(2).uniform(0.1, 9, (len(labels), 1))
    found = g.geometry(length * simplex(classes, classes + 3)[labels], labels, np.arange(classes) + 1)
    row = found["groups"]["all"]
    assert row["cosine_deviation"] < 1e-9
    assert row["cosine_mean"] == pytest.approx(-1 / (classes - 1))
    assert row["cosine_spread"] < 1e-9
    assert row["alignment"] == pytest.approx(0, abs=1e-12)


def test_the_order_of_the_images_does_not_matter(some):
    features, labels = some
    turn = np.random.default_rng(5).permutation(len(labels))
    one, other = g.geometry(features, labels, COUNTS), g.geometry(features[turn], labels[turn], COUNTS)
    np.testing.assert_allclose(other["cosines"], one["cosines"], atol=1e-12)
    for name, row in one["groups"].items():
        assert other["groups"][name] == {k: v if v is None else pytest.approx(v, abs=1e-12) for k, v in row.items()}


def test_the_order_of_the_classes_does_not_matter(some):
    features, labels = some
    turn = np.array([4, 2, 0, 5, 1, 3])  # class c is called turn[c]
    counts = np.empty_like(COUNTS)
    counts[turn] = COUNTS
    one, other = g.geometry(features, labels, COUNTS), g.geometry(features, turn[labels], counts)
    np.testing.assert_allclose(other["cosines"][np.ix_(turn, turn)], one["cosines"], atol=1e-12)
    assert other["groups"]["few"]["alignment"] == pytest.approx(one["groups"]["few"]["alignment"])


def test_single_images_and_empty_groups_have_no_number():
    features, labels = np.eye(3, dtype=np.float32), np.array([0, 1, 3])
    found = g.geometry(features, labels, np.array([200, 150, 120, 3]))
    assert found["groups"]["all"]["alignment"] is None
    assert found["groups"]["all"]["uniformity"] == pytest.approx(-4)
    assert found["groups"]["many"]["classes"] == 2
    assert found["groups"]["few"]["uniformity"] is None
    assert set(found["groups"]["medium"].values()) == {0, None}
    assert np.isnan(found["alignment"]).all()


def test_two_classes_are_always_opposite_which_says_nothing():
    found = g.geometry(np.eye(2), np.array([0, 1]), np.array([5, 5]))
    assert found["simplex"] is None
    assert found["groups"]["all"]["cosine_deviation"] is None
    np.testing.assert_allclose(found["cosines"], [[1, -1], [-1, 1]])


def test_a_class_in_the_middle_of_all_has_no_angle():
    features = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
    found = g.geometry(features, np.array([0, 1, 2, 2, 3]), np.array([5, 4, 3, 2]))  # class 3: a feature of zeros
    assert np.isnan(found["cosines"][2:]).all()
    row = found["groups"]["all"]
    assert row["cosine_mean"] == pytest.approx(-1)
    assert row["alignment"] == pytest.approx(4)  # of the one class with two images


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (np.eye(2), np.array([1, 1]), "only 1 class has an image"),
        (np.zeros((0, 2)), np.zeros(0, int), "no class has an image"),
        (np.array([[1.0, np.nan], [0, 1]]), np.array([0, 1]), "not finite"),
    ],
)
def test_sets_without_angles_are_refused(features, labels, message):
    with pytest.raises(ValueError, match=message):
        g.geometry(features, labels, np.array([3, 2, 1]))


def test_the_examples_in_the_docstrings():
    result = doctest.testmod(g)
    assert (result.failed, result.attempted) == (0, 3)


# ---- the picture


def test_images_are_chosen_class_by_class():
    labels = np.repeat([0, 1, 2, 4], [900, 80, 3, 1])
    rows = plot.choose_images(labels, 5, 100)
    assert np.bincount(labels[rows], minlength=5).tolist() == [48, 48, 3, 0, 1]
    assert (np.diff(rows) > 0).all()
    assert len(plot.choose_images(labels, 5)) == len(labels)
    assert rows[labels[rows] == 0].tolist() != list(range(48))  # not the first ones of a sorted set


def test_few_images_are_projected_linearly_and_many_twice_alike(some):
    features, _ = some
    flat, method = plot.project(features)
    assert method == "PCA"
    z = np.array(directions(features))
    values = np.linalg.svd(z - z.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose((flat**2).sum(axis=0), values[:2] ** 2)
    more = np.concatenate([features, features + 0.1])
    (one, method), (other, _) = plot.project(more), plot.project(more)
    assert method == "t-SNE"
    np.testing.assert_array_equal(one, other)


def test_images_all_alike_are_still_a_picture():
    flat, method = plot.project(np.ones((40, 3), np.float32))
    assert method == "PCA"
    np.testing.assert_allclose(flat, 0, atol=1e-12)


@pytest.mark.parametrize(("classes", "named"), [(2, "yes"), (6, "a $long$ name"), (12, "no"), (25, "of a group")])
def test_pictures_of_few_and_of_many_classes(tmp_path, classes, named):
    labels = np.repeat(np.arange(classes), 2)
    features = np.random.default_rng(0).normal(size=(len(labels), 5)).astype(np.float32)
    counts = np.geomspace(200, 2, classes).astype(int)
    if classes > 20:
        features[labels == 3] = features[labels == 4] = 0
    found, names = g.geometry(features, labels, counts), tuple(f"{named} {c}" for c in range(classes))
    before = found["cosines"].copy()
    paths = [tmp_path / "one.png", tmp_path / "two.png"]
    for path in paths:
        plot.geometry_figure(path, found, features, labels, counts, names, "of $some$ images " * 9)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    np.testing.assert_array_equal(found["cosines"], before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two.png"]


def test_the_table_says_where_there_is_no_number(some):
    rows = {row["group"]: row for row in plot.table_rows(g.geometry(*some, COUNTS))}
    assert list(rows) == ["all", "many", "medium", "few"]
    assert rows["medium"]["cosine, mean"] == rows["medium"]["largest deviation"] == "n/a"
    assert float(rows["all"]["alignment"]) > 0
