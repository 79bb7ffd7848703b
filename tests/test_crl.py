"""Class rectification: which images are mined, values worked out by hand, and where the gradient goes."""

import itertools

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor

from ms_longtail.losses import ClassRectification
from ms_longtail.losses.class_rectification import hardest, minority_anchors

LEVELS, FORMS = ("class", "instance"), ("relative", "absolute", "distribution")
COUNTS = [100, 50, 10, 5]


def rectification(level="class", form="relative", counts=COUNTS, **settings):
    """The loss with alpha 1, which leaves L_crl alone."""
    return ClassRectification(class_counts=counts, level=level, form=form, omega=1.0, eta=1.0, **settings)


def batch(seed, size=14, classes=4, width=3):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (size, classes)).astype(np.float32)
    return (
        logits,
        rng.choice(classes, size, p=[0.5, 0.25, 0.15, 0.1]),
        rng.normal(0, 1, (size, width)).astype(np.float32),
    )


def inputs(logits, labels, features):
    return Tensor(logits), Tensor(labels, ms.int32), Tensor(features)


# ---- the search, one image after another


def anchors_by_search(labels, rho):
    labels = [int(y) for y in labels]
    order = sorted((labels.count(c), c) for c in set(labels))
    found, seen = [False] * len(labels), 0
    for count, c in order:
        seen += count
        if seen <= rho * len(labels) and 2 <= count < len(labels):
            found = [old or y == c for old, y in zip(found, labels, strict=True)]
    return found


def crl_by_search(logits, labels, features, level, form, k, margin, rho, bins):
    """L_crl from triplets written out one by one."""
    z = logits.astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    triplets, with_positive, with_negative = [], [], []
    for a in np.flatnonzero(anchors_by_search(labels, rho)):
        c = labels[a]
        own = [i for i in range(len(labels)) if labels[i] == c]
        rest = [i for i in range(len(labels)) if labels[i] != c]

        def apart(i, a=a):
            return float(np.linalg.norm(features[a].astype(np.float64) - features[i]))

        if level == "class":
            positives = [i for i in sorted(own, key=lambda i, c=c: p[i, c])[:k] if i != a]
            negatives = sorted(rest, key=lambda i, c=c: p[i, c], reverse=True)[:k]
            near = {i: abs(p[a, c] - p[i, c]) for i in positives}
            far = {i: p[a, c] - p[i, c] for i in negatives}
        else:
            positives = sorted((i for i in own if i != a), key=apart, reverse=True)[:k]
            negatives = sorted(rest, key=apart)[:k]
            near, far = {i: apart(i) for i in positives}, {i: apart(i) for i in negatives}
        with_positive += near.values()
        with_negative += far.values()
        triplets += [max(0.0, margin + d - e) for d, e in itertools.product(near.values(), far.values())]
    if not triplets:
        return 0.0
    if form == "relative":
        return sum(triplets) / len(triplets)
    if form == "absolute":
        pull = sum(d**2 for d in with_positive) / len(with_positive)
        push = sum(max(margin - e, 0.0) ** 2 for e in with_negative) / len(with_negative)
        return (pull + push) / 2
    low, high = (-1.0, 1.0) if level == "class" else (0.0, max(with_positive + with_negative))

    def share_out(distances):
        h = [0.0] * (bins + 1)
        for d in distances:
            place = (d - low) / (high - low) * (bins - 1)
            left = int(place)
            h[left] += (left + 1 - place) / len(distances)
            h[left + 1] += (place - left) / len(distances)
        return h[:bins]

    h, g = share_out(with_positive), share_out(with_negative)
    return sum(h[t] * g[s] for t in range(bins) for s in range(t + 1))


@pytest.mark.parametrize("rho", [0.2, 0.5, 1.0])
def test_anchors(mode, rho):
    for seed in range(12):
        labels = batch(seed)[1]
        anchors = minority_anchors(Tensor(labels, ms.int32), rho)
        assert anchors.dtype == ms.bool_
        assert anchors.asnumpy().tolist() == anchors_by_search(labels, rho)


def test_anchors_by_hand():
    ms.set_context(mode=ms.PYNATIVE_MODE)

    def anchors(labels, rho=0.5):
        return np.flatnonzero(minority_anchors(Tensor(labels, ms.int32), rho).asnumpy()).tolist()

    assert anchors([0, 0, 0, 0, 1, 1, 2, 3]) == [4, 5]  # 1 + 1 + 2 = 4 images, half of the batch; 2 and 3 are alone
    assert anchors([0, 0, 0, 1, 1, 2, 3]) == []  # 1 + 1 + 2 are more than half
    assert anchors([2, 1, 2, 1, 0, 0, 0, 0]) == [0, 1, 2, 3]
    assert anchors([2, 2, 1, 1]) == [2, 3]  # of two classes with as many images, the lower number
    assert anchors([2, 2, 1, 1], rho=1.0) == [0, 1, 2, 3]
    assert anchors([3, 3, 3], rho=1.0) == []  # no image of another class
    assert anchors([1]) == []


@pytest.mark.parametrize("k", [1, 4, 25])
def test_hardest(mode, k):
    rng = np.random.default_rng(4)
    score, allowed = rng.normal(0, 5, (14, 14)).astype(np.float32), rng.random((14, 14)) < 0.3
    allowed[3], allowed[5] = False, True
    index, valid = (part.asnumpy() for part in hardest(Tensor(score), Tensor(allowed), k))
    assert index.shape == valid.shape == (14, min(k, 14))
    for i in range(14):
        expected = sorted(np.flatnonzero(allowed[i]), key=lambda j, i=i: -score[i, j])[:k]
        assert index[i][valid[i]].tolist() == expected


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", LEVELS)
def test_random_batches_against_the_search(mode, level, form):
    for seed, settings in enumerate(({"k": 3, "margin": 0.4, "rho": 0.6, "bins": 11}, {"rho": 1.0, "k": 25})):
        loss = rectification(level, form, reduction="none", **settings)
        told = {"k": 25, "margin": 0.5, "rho": 0.5, "bins": 100} | settings
        some = 0
        for number in range(4):
            logits, labels, features = batch(10 * seed + number)
            expected = crl_by_search(logits, labels, features, level, form, **told)
            assert_close(loss(*inputs(logits, labels, features)).asnumpy(), np.full(len(labels), expected), factor=2)
            some += expected > 0
        assert some >= 2


# ---- by hand

LABELS = np.array([1, 1, 0, 0, 0])  # class 1 is the minority
P = np.array([0.6, 0.3, 0.5, 0.2, 0.1])  # p(1 | x)
POINTS = np.array([[0.0], [2.0], [3.0], [-4.0], [7.0]], np.float32)
BY_HAND = {  # level, form, settings: value
    # d(a,+) .3 twice; d(a,-) .1, .4 and -.2, .1
    ("class", "relative", ("k", 2), ("margin", 0.5)): (0.7 + 0.4 + 1.0 + 0.7) / 4,
    ("class", "absolute", ("k", 2), ("margin", 0.5)): (0.09 + (0.16 + 0.01 + 0.49 + 0.16) / 4) / 2,
    # centres -1, -.5, 0, .5, 1: h+ 0 0 .4 .6 0, h- 0 .1 .6 .3 0
    ("class", "distribution", ("k", 2), ("bins", 5)): 0.4 * 0.7 + 0.6 * 1.0,
    # k 1: image 1 is the positive, so image 0 alone has a pair
    ("class", "relative", ("k", 1), ("margin", 0.5)): 0.5 + 0.3 - 0.1,
    # d(a,+) 2 twice; d(a,-) 3, 4 and 1, 5
    ("instance", "relative", ("k", 2), ("margin", 3.0)): (2 + 1 + 4 + 0) / 4,
    ("instance", "absolute", ("k", 2), ("margin", 3.0)): (4 + (0 + 0 + 4 + 0) / 4) / 2,
    ("instance", "distribution", ("k", 2), ("bins", 6)): 0.25,
    ("instance", "relative", ("k", 1), ("margin", 3.0)): (2 + 4) / 2,
}


@pytest.mark.parametrize("case", BY_HAND, ids=lambda case: "-".join(map(str, case)))
def test_by_hand(mode, case):
    level, form, *settings = case
    loss = rectification(level, form, counts=[30, 2], **dict(settings))
    logits = np.log(np.stack([1 - P, P], axis=1)).astype(np.float32)
    assert_close(loss(*inputs(logits, LABELS, POINTS)).asnumpy(), BY_HAND[case])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", LEVELS)
def test_where_the_gradient_goes(mode, level, form):
    """Class level: to the logits; instance level: to the features; never to both, if alpha is 1."""
    loss = rectification(level, form, rho=0.6)
    by_logits, by_features = ms.grad(loss, grad_position=(0, 2))(*inputs(*batch(10)))
    assert np.isfinite(by_logits.asnumpy()).all()
    assert np.isfinite(by_features.asnumpy()).all()
    assert (np.abs(by_logits.asnumpy()).max() > 1e-4) == (level == "class")
    assert (np.abs(by_features.asnumpy()).max() > 1e-4) == (level == "instance")


@pytest.mark.parametrize("level", LEVELS)
def test_images_of_one_place(mode, level):
    """Equal features and equal logits: a distance of 0 has no NaN for a gradient."""
    logits, labels, features = batch(10)
    for form in FORMS:
        loss = rectification(level, form, rho=0.6)
        same = inputs(np.ones_like(logits), labels, np.ones_like(features))
        value, gradients = ms.value_and_grad(loss, grad_position=(0, 2))(*same)
        assert np.isfinite(value.asnumpy())
        assert all(np.isfinite(gradient.asnumpy()).all() for gradient in gradients)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [2, 2, 2, 2]], ids=["each alone", "one class"])
def test_no_triplet_leaves_cross_entropy(labels):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    logits = np.random.default_rng(0).normal(0, 1, (4, 4)).astype(np.float32)
    log_p = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    for level, form in itertools.product(LEVELS, FORMS):
        loss = ClassRectification(class_counts=COUNTS, level=level, form=form, omega=0.25, eta=1.0)
        value, gradient = ms.value_and_grad(loss)(*inputs(logits, np.array(labels), logits))
        assert_close(value.asnumpy(), -0.75 * log_p[np.arange(4), labels].mean())
        assert_close(gradient.asnumpy(), 0.75 * (np.exp(log_p) - np.eye(4)[labels]) / 4)


# ---- alpha


@pytest.mark.parametrize(
    ("omega", "eta", "alpha"),
    [
        ("missing", 0.01, 0.01 * 100 * (1 - 160 / 300)),
        ("ratio", 0.01, 0.01 * 0.1),
        ("deviation", 0.01, 0.01 * (62.5 - 100 / 3 + 100 / 3 - 31.25 + 100 / 3 - 6.25) / 3),
        (30, 0.01, 0.3),
        (0.5, 0.5, 0.25),
        ("missing", 1.0, 1.0),
        (1000.0, 0.01, 1.0),
        ("missing", 0.0, 0.0),
    ],
)
def test_alpha(omega, eta, alpha):
    loss = ClassRectification(class_counts=[100, 50, 10], omega=omega, eta=eta)
    assert isinstance(loss.alpha, float)
    assert_close(loss.alpha, alpha, "float64")


def test_alpha_of_equal_counts():
    for omega in ("missing", "deviation"):
        assert ClassRectification(class_counts=[7, 7, 7], omega=omega).alpha == pytest.approx(0, abs=1e-12)
    assert ClassRectification(class_counts=[7, 7, 7], omega="ratio").alpha == pytest.approx(0.01)
