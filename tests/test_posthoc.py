"""Corrections of a trained classifier on kept features and logits, against loops and central differences."""

import numpy as np
import pytest
from conftest import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_longtail.evaluation import posthoc
from ms_longtail.evaluation.retrain import (
    RETRAINED,
    ClassifierRetraining,
    DistributionAlignment,
    WeightScaling,
    train,
)

shapes = st.tuples(st.integers(1, 9), st.integers(2, 7), st.integers(1, 6), st.integers(0, 10**6))  # N, C, D, seed


def linear(shape):
    """(features, weight, bias, logits) of a random linear classifier, in float64."""
    n, classes, size, seed = shape
    rng = np.random.default_rng(seed)
    f, w, b = rng.normal(0, 2, (n, size)), rng.normal(0, 1.5, (classes, size)), rng.normal(0, 2, classes)
    z = np.array([[sum(w[c, d] * f[i, d] for d in range(size)) + b[c] for c in range(classes)] for i in range(n)])
    return f, w, b, z


# ---- tau-normalised


@settings(max_examples=40, deadline=None)
@given(shapes, st.floats(0, 2), st.booleans())
def test_tau_normalised_is_the_product_with_the_normalised_weights(shape, tau, keep_bias):
    f, w, b, z = linear(shape)
    expected = np.empty_like(z)
    for i in range(len(f)):
        for c in range(len(w)):
            length = sum(value**2 for value in w[c]) ** 0.5
            expected[i, c] = sum(w[c] * f[i]) / length**tau + (b[c] if keep_bias else 0)
    found = posthoc.tau_normalised(z, w, b, tau, keep_bias=keep_bias)
    # b is taken off z and divided with it: what is lost there grows with the factor.
    bound = 1e-11 * (1 + np.abs(w).max() + (np.linalg.norm(w, axis=1) ** -tau).max() * (np.abs(z).max() + 1))
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tau_0_with_the_bias_kept_changes_nothing(dtype):
    _, w, b, z = linear((6, 4, 3, 1))
    z, w, b = z.astype(dtype), w.astype(dtype), b.astype(dtype)
    np.testing.assert_array_equal(posthoc.tau_normalised(z, w, b, 0.0, keep_bias=True), z)
    assert_close(posthoc.tau_normalised(z, w, b, 0.0), z.astype(np.float64) - b, np.dtype(dtype).name)


@pytest.mark.parametrize("keep_bias", [False, True])
def test_tau_normalised_without_a_bias(keep_bias):
    f, w, b, _ = linear((5, 4, 3, 2))
    z, zero = f @ w.T, np.zeros(4)
    found = posthoc.tau_normalised(z, w, None, 0.7, keep_bias=keep_bias)
    np.testing.assert_array_equal(found, posthoc.tau_normalised(z, w, zero, 0.7, keep_bias=keep_bias))
    assert_close(found, posthoc.tau_normalised(z + b, w, b, 0.7), "float64", factor=100)  # a bias that is dropped


def test_at_tau_1_the_lengths_of_the_weights_make_no_difference():
    f, w, _, _ = linear((5, 4, 3, 3))
    longer = w * np.array([[0.01], [1.0], [20.0], [3.0]])
    assert_close(
        posthoc.tau_normalised(f @ longer.T, longer, None, 1.0),
        posthoc.tau_normalised(f @ w.T, w, None, 1.0),
        "float64",
        factor=100,
    )


@pytest.mark.parametrize("tau", [0.0, 0.5])
def test_a_weight_of_zero_length_is_refused_with_its_class(tau):
    _, w, b, z = linear((5, 4, 3, 4))
    w[2] = 0
    with pytest.raises(ValueError, match="class 2 is 0"):
        posthoc.tau_normalised(z, w, b, tau)


# ---- logit adjustment


@settings(max_examples=30, deadline=None)
@given(shapes, st.floats(0, 3))
def test_logit_adjusted_is_the_formula(shape, tau):
    _, _, _, z = linear(shape)
    counts = np.random.default_rng(shape[3]).integers(1, 1000, z.shape[1])
    expected = np.empty_like(z)
    for c in range(z.shape[1]):
        expected[:, c] = z[:, c] - tau * np.log(int(counts[c]) / sum(int(n) for n in counts))
    assert_close(posthoc.logit_adjusted(z, counts, tau), expected, "float64", factor=10)


def test_logit_adjusted_identities():
    _, _, _, z = linear((8, 5, 3, 5))
    counts = np.array([500, 60, 7, 2, 1])
    np.testing.assert_array_equal(posthoc.logit_adjusted(z, counts, 0.0), z)
    equal = posthoc.logit_adjusted(z, np.full(5, 30), 1.7)
    assert_close(equal - z, np.full_like(z, 1.7 * np.log(5)), "float64", factor=10)
    assert_close(
        posthoc.logit_adjusted(z, 7 * counts, 1.0), posthoc.logit_adjusted(z, counts, 1.0), "float64", factor=10
    )
    twice = posthoc.logit_adjusted(posthoc.logit_adjusted(z, counts, 0.4), counts, 0.6)
    assert_close(twice, posthoc.logit_adjusted(z, counts, 1.0), "float64", factor=10)
    # Bayes: with z = log p(y|x) of the long-tailed training set, tau 1 gives log p(x|y) up to one number for each image.
    likelihood = np.random.default_rng(0).dirichlet(np.ones(4), 5).T  # p(x|y), (4, 5)
    joint = likelihood * counts / counts.sum()
    adjusted = posthoc.logit_adjusted(np.log(joint / joint.sum(axis=1, keepdims=True)), counts, 1.0)
    off = adjusted - np.log(likelihood)
    assert_close(off, np.broadcast_to(off[:, :1], off.shape), "float64", factor=100)


def test_float32_logits_stay_float32():
    _, w, b, z = linear((50, 6, 4, 6))
    counts = np.array([500, 100, 30, 9, 3, 1])
    z32, w32, b32 = z.astype(np.float32), w.astype(np.float32), b.astype(np.float32)
    for weight, bias in ((w32, b32), (w, b), (w32, None)):
        for keep_bias in (False, True):
            found = posthoc.tau_normalised(z32, weight, bias, 0.8, keep_bias=keep_bias)
            assert found.dtype == np.float32
            none = np.zeros(6) if bias is None else bias
            exact = (z32 - none) / np.linalg.norm(weight.astype(np.float64), axis=1) ** 0.8 + keep_bias * none
            assert_close(found, exact)
    found = posthoc.logit_adjusted(z32, counts, 1.3)
    assert found.dtype == np.float32
    assert_close(found, z32 - 1.3 * np.log(counts / counts.sum()))


# ---- nearest class mean


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_nearest_class_mean_against_brute_force(seed, dtype):
    rng = np.random.default_rng(seed)
    classes, size = int(rng.integers(2, 8)), int(rng.integers(1, 7))
    labels = np.concatenate([np.full(int(rng.integers(1, 20)), c) for c in range(classes)])
    rng.shuffle(labels)
    centres = rng.normal(3, 1, (classes, size))
    features = (centres[labels] + rng.normal(0, 0.7, (len(labels), size))).astype(dtype)
    tests = (rng.normal(3, 1.5, (40, size))).astype(dtype)

    def unit(f):
        centred = [float(f[d]) - sum(float(row[d]) for row in features) / len(features) for d in range(size)]
        length = sum(value**2 for value in centred) ** 0.5
        return np.array(centred) / length

    means = [
        sum(unit(f) for f, y in zip(features, labels, strict=True) if y == c) / (labels == c).sum()
        for c in range(classes)
    ]
    distance = np.array([[np.linalg.norm(unit(f) - mean) for mean in means] for f in tests])
    found = posthoc.NearestClassMean(features, labels, classes).logits(tests)
    assert found.dtype == dtype
    assert_close(found, -(distance**2), np.dtype(dtype).name, factor=100 if dtype is np.float64 else 1)
    if size > 1:  # in one dimension a feature is 1 or -1, and many classes lie as near
        nearest = np.sort(distance, axis=1)
        clear = nearest[:, 1] - nearest[:, 0] > 1e-4
        assert clear.sum() > 30
        np.testing.assert_array_equal(found.argmax(axis=1)[clear], distance.argmin(axis=1)[clear])


def test_nearest_class_mean_forgets_where_the_features_lie_and_how_long_they_are():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), 6))
    features, tests = rng.normal(size=(18, 4)), rng.normal(size=(9, 4))
    plain = posthoc.NearestClassMean(features, labels, 3).logits(tests)
    moved = posthoc.NearestClassMean(5 * features + 2, labels, 3).logits(5 * tests + 2)
    assert_close(moved, plain, "float64", factor=100)


def test_a_feature_at_the_training_mean_has_finite_distances():
    features = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    means = posthoc.NearestClassMean(features, np.array([0, 0, 1, 1]), 2)
    found = means.logits(np.zeros((1, 2)))
    np.testing.assert_array_equal(found, np.zeros((1, 2)))  # both class means are the mean


@pytest.mark.parametrize("labels", [[0, 0, 2, 2], [0, 0, 1, 1]])
def test_a_class_without_training_image_has_no_mean(labels):
    absent = next(c for c in range(3) if c not in labels)
    with pytest.raises(ValueError, match=f"class {absent} has no training image"):
        posthoc.NearestClassMean(np.random.default_rng(0).normal(size=(4, 2)), np.array(labels), 3)


# ---- how a strength is chosen


def balanced_by_loop(logits, labels):
    accuracies = []
    for c in range(logits.shape[1]):
        answers = [
            max(range(len(z)), key=lambda k, z=z: z[k]) == c for z, y in zip(logits, labels, strict=True) if y == c
        ]
        if answers:
            accuracies.append(sum(answers) / len(answers))
    return sum(accuracies) / len(accuracies)


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_balanced_accuracy_counts_the_classes_that_there_are(shape):
    n, classes, _, seed = shape
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, classes)), rng.integers(0, classes, n)
    assert posthoc.balanced_accuracy(logits, labels) == pytest.approx(balanced_by_loop(logits, labels), abs=1e-12)


def test_balanced_accuracy_by_hand():
    logits = np.eye(4)[[0, 0, 0, 1, 2, 3]]  # class 3 has no image, but is predicted once
    assert posthoc.balanced_accuracy(logits, np.array([0, 0, 0, 0, 2, 2])) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_search_takes_the_smallest_of_equals_whatever_their_order():
    labels = np.array([0, 0, 0, 1])
    right = {0.5: 2, 1.0: 4, 1.5: 4, 2.0: 4, 3.0: 1}  # images that are right at this strength

    def apply(tau):
        logits = np.zeros((4, 3))
        for i in range(4):
            logits[i, labels[i] if i >= 4 - right[tau] else 2] = 1
        return logits

    for taus in ([0.5, 1.0, 1.5, 2.0, 3.0], [3.0, 2.0, 1.5, 1.0, 0.5], [2.0, 0.5, 1.0, 3.0, 1.5]):
        tau, curve = posthoc.search(apply, labels, iter(taus))
        assert tau == 1.0
        assert [t for t, _ in curve] == taus
        for t, value in curve:
            assert value == pytest.approx(balanced_by_loop(apply(t), labels))


def test_search_looks_at_balanced_accuracy_and_at_present_classes():
    labels = np.array([0] * 9 + [1])  # class 2 is absent: it must count neither as 0 nor as 1

    def apply(tau):
        logits = np.zeros((10, 3))
        logits[:, 0 if tau == 0 else 1] = 1  # at 0: nine right, balanced 1/2; else one right, balanced 1/2
        if tau == 2:
            logits[:4] = [1, 0, 0]  # five right, balanced (4/9 + 1) / 2
        return logits

    tau, curve = posthoc.search(apply, labels, [0.0, 1.0, 2.0])
    assert tau == 2.0
    assert [value for _, value in curve] == pytest.approx([0.5, 0.5, (4 / 9 + 1) / 2])


# ---- classifiers that are trained on kept features


def cross_entropy(z, labels, weights):
    """sum_i w_i (log sum_c e^z_ic - z_i,y_i) / sum_i w_i."""
    total = 0.0
    for row, y, weight in zip(z, labels, weights, strict=True):
        top = max(row)
        total += weight * (top + np.log(sum(np.exp(value - top) for value in row)) - row[y])
    return total / sum(weights)


def formula(kind, parameters, f, w, b):
    """The logits (N, C) that a method's parameters give."""
    z = f @ w.T + b
    if kind == "crt":
        return f @ parameters["weight"].T + parameters["bias"]
    if kind == "lws":
        return z * parameters["scale"]
    rows = []
    for features, row in zip(f, z, strict=True):
        q = 1 / (1 + np.exp(-(parameters["v"] @ features + parameters["u"][0])))
        rows.append((1 + parameters["s"] * q) * row + parameters["b"] * q)
    return np.array(rows)


def slope(loss, parameters, name, step=1e-5):
    """dL/d(one parameter array) by central differences."""
    gradient = np.zeros_like(parameters[name])
    for place in np.ndindex(gradient.shape):
        values = []
        for sign in (1, -1):
            moved = parameters[name].copy()
            moved[place] += sign * step
            values.append(loss(parameters | {name: moved}))
        gradient[place] = (values[0] - values[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("kind", RETRAINED)
@settings(max_examples=15, deadline=None)
@given(shapes)
def test_gradients_against_central_differences(kind, shape):
    n, classes, _, seed = shape
    f, w, b, _ = linear(shape)
    rng = np.random.default_rng(seed + 1)
    labels, weights = rng.integers(0, classes, n), rng.uniform(0.2, 3, n)
    classifier = RETRAINED[kind](w, b)
    for name, value in classifier.parameters.items():
        classifier.parameters[name] = rng.normal(0, 0.7, value.shape)
    parameters = dict(classifier.parameters)
    z = formula(kind, parameters, f, w, b)
    assert_close(classifier.logits(f), z, "float64", factor=100)
    error = np.empty_like(z)
    for i in range(n):
        e = np.exp(z[i] - max(z[i]))
        error[i] = weights[i] / sum(weights) * (e / sum(e) - np.eye(classes)[labels[i]])
    found = classifier.gradients(f, error)
    assert found.keys() == parameters.keys()
    for name in parameters:
        expected = slope(lambda p: cross_entropy(formula(kind, p, f, w, b), labels, weights), parameters, name)
        assert found[name].shape == parameters[name].shape
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("kind", [WeightScaling, DistributionAlignment])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lws_and_disalign_begin_with_the_given_classifier(kind, dtype):
    f, w, b, _ = linear((20, 5, 4, 8))
    w, b = w.astype(dtype), b.astype(dtype)
    np.testing.assert_array_equal(kind(w, b).logits(f), f @ w.astype(np.float64).T + b.astype(np.float64))


@pytest.mark.parametrize("kind", RETRAINED)
def test_features_in_float32_give_the_same_logits(kind):
    f, w, b, _ = linear((30, 5, 4, 16))
    classifier = RETRAINED[kind](w, b)
    train(classifier, f, np.repeat(np.arange(5), 6), epochs=2, batch=10)
    exact = classifier.logits(f)
    assert exact.dtype == np.float64
    f32 = f.astype(np.float32)
    assert_close(classifier.logits(f32), formula(kind, classifier.parameters, f32.astype(np.float64), w, b), factor=2)


def test_crt_begins_anew_by_its_seed():
    f, w, b, _ = linear((20, 5, 64, 9))
    first, again, other = (ClassifierRetraining(w, b, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.parameters["weight"], again.parameters["weight"])
    assert (first.parameters["weight"] != other.parameters["weight"]).all()
    assert (first.parameters["weight"] != w).all()
    np.testing.assert_array_equal(first.parameters["bias"], np.zeros(5))
    np.testing.assert_array_equal(first.logits(f), ClassifierRetraining(2 * w, b + 1, seed=3).logits(f))


def watched(kind, w, b, seed=0):
    """(a classifier that keeps every batch it is asked about while it is trained, those batches)."""
    batches = []

    class Watched(RETRAINED[kind]):
        def logits(self, features):
            batches.append(features.copy())
            return super().logits(features)

    return Watched(w, b, seed), batches


def rows_of(batches, features):
    """Which rows of `features` (all different) the batches hold."""
    number = {row.tobytes(): i for i, row in enumerate(features.astype(np.float64))}
    return [np.array([number[row.tobytes()] for row in batch]) for batch in batches]


@pytest.mark.parametrize("kind", RETRAINED)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_is_sgd_with_momentum_on_a_cosine_and_disalign_weighs_by_rarity(kind, momentum):
    f, w, b, _ = linear((40, 3, 2, 10))
    labels = np.repeat(np.arange(3), (28, 9, 3))
    classifier, batches = watched(kind, w, b, seed=5)
    parameters = {name: value.copy() for name, value in classifier.parameters.items()}
    lr, decay, rho = 0.3, 0.02, 0.8
    train(classifier, f, labels, epochs=2, batch=16, lr=lr, momentum=momentum, weight_decay=decay, rho=rho, seed=6)
    steps = rows_of(batches, f)
    assert len(steps) == 5  # 2 epochs of 40 draws in batches of 16
    speed = {name: 0.0 for name in parameters}
    for number, rows in enumerate(steps):
        assert len(rows) == 16
        share = np.array([(labels == labels[row]).sum() / len(labels) for row in rows])
        weights = share**-rho if kind == "disalign" else np.ones(len(rows))

        def loss(p, rows=rows, weights=weights):
            return cross_entropy(formula(kind, p, f[rows], w, b), labels[rows], weights)

        rate = lr / 2 * (1 + np.cos(np.pi * number / len(steps)))
        gradients = {name: slope(loss, parameters, name) for name in parameters}
        for name, gradient in gradients.items():
            if kind == "crt":
                gradient = gradient + decay * parameters[name]
            speed[name] = momentum * speed[name] + gradient
            parameters[name] = parameters[name] - rate * speed[name]
    for name, value in parameters.items():
        np.testing.assert_allclose(classifier.parameters[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


def test_the_default_rate_is_the_methods_own():
    f, w, b, _ = linear((30, 3, 2, 11))
    labels = np.repeat(np.arange(3), 10)
    for kind in RETRAINED.values():
        own = train(kind(w, b), f, labels, epochs=2, batch=10)
        same = train(kind(w, b), f, labels, epochs=2, batch=10, lr=kind.lr)
        other = train(kind(w, b), f, labels, epochs=2, batch=10, lr=kind.lr / 3)
        for name in own.parameters:
            np.testing.assert_array_equal(own.parameters[name], same.parameters[name])
        assert any((own.parameters[name] != other.parameters[name]).any() for name in own.parameters)


@pytest.mark.parametrize("kind", RETRAINED)
def test_the_seed_decides_the_training(kind):
    f, w, b, _ = linear((60, 4, 3, 12))
    labels = np.repeat(np.arange(4), (40, 12, 6, 2))

    def trained(seed):
        return train(RETRAINED[kind](w, b, 0), f, labels, epochs=3, batch=32, seed=seed).parameters

    first, again, other = trained(1), trained(1), trained(2)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])
    assert any((first[name] != other[name]).any() for name in first)


@pytest.mark.parametrize("kind", RETRAINED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_given_classifier_and_the_features_stay_as_they_are(kind, dtype):
    f, w, b, _ = linear((60, 4, 3, 13))
    f, w, b = f.astype(dtype), w.astype(dtype), b.astype(dtype)
    labels = np.repeat(np.arange(4), (40, 12, 6, 2))
    before = f.copy(), w.copy(), b.copy(), labels.copy()
    classifier = RETRAINED[kind](w, b)
    assert train(classifier, f, labels, epochs=5, batch=32, lr=0.5) is classifier
    for found, expected in zip((f, w, b, labels), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(classifier.weight, before[1])
    np.testing.assert_array_equal(classifier.bias, before[2])
    trained = {name: value for name, value in classifier.parameters.items() if np.any(value)}
    assert trained.keys() == classifier.parameters.keys()


COUNTS = (300, 20, 5)


def gaussians(seed, counts=COUNTS):
    """Three overlapping clouds in the plane, `counts` points each."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    centres = np.array([[0.0, 0.0], [1.8, 0.6], [0.4, 2.0]])
    return centres[labels] + rng.normal(0, 0.8, (len(labels), 2)), labels


def biased_classifier(features, labels):
    """Logistic regression on all points alike, by plain gradient descent: few answers for the rare classes."""
    w, b = np.zeros((3, 2)), np.zeros(3)
    for _ in range(300):
        z = features @ w.T + b
        e = np.exp(z - z.max(axis=1, keepdims=True))
        error = (e / e.sum(axis=1, keepdims=True) - np.eye(3)[labels]) / len(labels)
        w, b = w - 1.0 * error.T @ features, b - 1.0 * error.sum(axis=0)
    return w, b


@pytest.mark.parametrize("kind", RETRAINED)
@pytest.mark.parametrize("seed", range(3))
def test_balanced_accuracy_rises_on_imbalanced_clouds(kind, seed):
    features, labels = gaussians(seed)
    tests, truth = gaussians(seed + 100, (400, 400, 400))
    w, b = biased_classifier(features, labels)
    before = balanced_by_loop(tests @ w.T + b, truth)
    classifier = train(RETRAINED[kind](w, b, seed), features, labels, seed=seed, batch=64)
    after = balanced_by_loop(classifier.logits(tests), truth)
    assert after > before + (0.05 if kind != "lws" else 0)


@pytest.mark.parametrize("kind", RETRAINED)
def test_how_often_images_are_drawn(kind):
    features, labels = gaussians(0)
    classifier, batches = watched(kind, *biased_classifier(features, labels))
    train(classifier, features, labels, epochs=60, batch=100)
    drawn = np.bincount(np.concatenate(rows_of(batches, features)), minlength=len(labels))
    total = drawn.sum()
    assert total == 60 * len(labels)
    # An image's share: 1 / N, or 1 / (classes x images of its class). Five standard deviations are allowed.
    per_image = np.full(len(labels), 1 / len(labels)) if kind == "disalign" else 1 / (3 * np.array(COUNTS)[labels])
    for members in [*(labels == c for c in range(3)), *np.eye(len(labels), dtype=bool)]:
        share = per_image[members].sum()
        assert abs(drawn[members].sum() - total * share) < 5 * (total * share * (1 - share)) ** 0.5 + 1


@pytest.mark.parametrize("kind", RETRAINED)
def test_a_class_without_image_is_no_obstacle(kind):
    f, w, b, _ = linear((30, 4, 3, 14))
    labels = np.repeat([0, 1, 3], (20, 8, 2))
    classifier, batches = watched(kind, w, b)
    train(classifier, f, labels, epochs=40, batch=30)
    drawn = labels[np.concatenate(rows_of(batches, f))]
    assert set(drawn) == {0, 1, 3}
    assert all(np.isfinite(value).all() for value in classifier.parameters.values())


def test_fewer_images_than_a_batch():
    f, w, b, _ = linear((7, 3, 2, 15))
    classifier, batches = watched("crt", w, b)
    train(classifier, f, np.array([0, 0, 0, 0, 1, 1, 2]), epochs=4, batch=512)
    assert [len(batch) for batch in batches] == [7] * 4
