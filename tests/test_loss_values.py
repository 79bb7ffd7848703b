"""Every loss against its float64 oracle: values and gradients, in both modes and at many sizes."""

from dataclasses import replace
from functools import lru_cache

import mindspore as ms
import numpy as np
import pytest
from loss_oracles import (
    ORACLES,
    SOFT,
    More,
    directions,
    elements,
    eqlv2_start,
    eqlv2_update,
    mean,
    project,
    slopes,
    softmax_eql_start,
    softmax_eql_update,
    targets,
)
from mindspore import Tensor, nn

import ms_longtail.losses  # noqa: F401  (fills the registry)
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES

WIDTH = 5  # of the features
BOUND = {"dive": 4e-5, "kd": 4e-5}  # T^2 magnifies the error of the CPU's exp, 4e-6; all others: 1e-5
STATEFUL = {"eqlv2": (eqlv2_start, eqlv2_update), "softmax_eql": (softmax_eql_start, softmax_eql_update)}
OPTIONS = [
    ("cs_ce", {"gamma": 0.5}),
    ("cb_ce", {"beta": 0.9, "denominator": "batch"}),
    ("focal", {"form": "softmax"}),
    ("focal", {"form": "softmax", "gamma": 0.5, "denominator": "weights"}),
    ("focal", {"gamma": 0.7}),
    ("cb_focal", {"form": "softmax", "gamma": 1.0}),
    ("cb_focal", {"beta": 0.99, "gamma": 2.0, "denominator": "weights"}),
    ("ldam", {"max_margin": 0.3, "scale": 8.0}),
    ("logit_adjustment", {"tau": -0.5}),
    ("vs", {"gamma": 0.1, "tau": 1.5}),
    ("label_smoothing", {"spread": "others", "smoothing": 0.2}),
    ("label_aware_smoothing", {"shape": "linear"}),
    ("label_aware_smoothing", {"shape": "convex", "head": 0.3, "tail": 0.0}),
    ("influence_balanced", {"detach": True, "alpha": 10.0}),
    ("influence_balanced", {"denominator": "weights"}),
    ("lade", {"alpha": 1.0, "lambda_": 0.1}),
    ("seql", {"gamma": 0.5, "lambda_": 0.1}),
    ("eqlv2", {"gamma": 3.0, "mu": 0.5, "alpha": 1.0, "first_ratio": 0.7}),
    ("dive", {"alpha": 0.3, "temperature": 2.0, "power": 1.0}),
    ("kd", {"temperature": 2.0}),
    ("crl", {"omega": "ratio", "eta": 0.9}),
    ("crl", {"omega": "deviation", "k": 2}),
    ("crl", {"omega": 0.3, "eta": 1.0, "k": 1, "margin": 0.1}),
    ("crl", {"form": "absolute"}),
    ("crl", {"form": "distribution"}),
    ("crl", {"level": "instance", "form": "relative", "k": 3, "margin": 1.0}),
    ("crl", {"level": "instance", "form": "absolute", "margin": 4.0}),
    ("crl", {"level": "instance", "form": "distribution", "bins": 20, "rho": 0.9}),
]


def near(actual, expected, bound=1e-5):
    """Off by at most `bound` of the largest magnitude of the array."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max() <= bound * np.abs(expected).max() + 1e-30


def long_tail(classes, most=1000, least=10):
    """Class counts that fall geometrically, in no order."""
    counts = np.round(most * (least / most) ** np.linspace(0, 1, classes)).astype(int)
    return np.random.default_rng(classes).permutation(counts)


@lru_cache(None)
def batch_of(name, batch, classes):
    """Inputs in float32; a loss that scales its logits gets smaller ones, so that no probability is rounded to 1."""
    rng = np.random.default_rng([batch, classes])
    rank = np.array([0, 1, 0, 2, 0, 1, 0]) if batch == 7 else rng.geometric(0.35, batch) - 1
    labels = rng.permutation(classes)[rank.clip(max=classes - 1)]
    logits = rng.normal(0, 1.5, (batch, classes)).astype(np.float32)
    if name == "ldam":
        logits /= 16
    features = rng.normal(0, 1, (batch, WIDTH))
    features = (features + 0.2 * np.sign(features)).astype(np.float32)  # away from the kink of |f| at 0
    teacher = rng.normal(0, 2, (batch, classes)).astype(np.float32)
    return logits, labels, features, teacher, rng.integers(0, 10**6, batch)


def soft(labels, classes):
    """Two classes per image, by shares of its own."""
    t, share = targets(labels, classes), np.linspace(0.55, 0.95, len(labels))[:, None]
    return (share * t + (1 - share) * np.roll(t, 1, axis=1)).astype(np.float32)


def build(name, classes, settings):
    """The cell, in the midst of training if it has a state, and that state."""
    loss = LOSSES.get(name)(class_counts=long_tail(classes).tolist(), **settings)
    state = None
    if name in STATEFUL and "first_ratio" not in settings:
        rng = np.random.default_rng(classes)
        positive, negative = rng.uniform(0.5, 2, (2, classes)).astype(np.float32)
        state = {"positive": positive, "negative": negative, "ratio": (positive / negative).astype(np.float32)}
        state = state if name == "eqlv2" else {"gradient": positive}
        for key, value in state.items():
            assign(getattr(loss, key), value)
    return loss, state


class Everything(nn.Cell):
    """The mean first, then all that a loss can say of a batch."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.random = loss.random

    def construct(self, logits, features, labels, teacher, draws):
        if not self.random:
            draws = None
        of_image, weight = self.loss.elements(logits, labels, features, teacher, draws)
        numerator, denominator = self.loss.totals(logits, labels, features, teacher, draws)
        return numerator / denominator, of_image, weight, numerator, denominator


def tensors(logits, labels, features, teacher, draws, dtype=ms.float32):
    labels = Tensor(labels, ms.int32 if labels.ndim == 1 else ms.float32)
    return Tensor(logits).astype(dtype), Tensor(features), labels, Tensor(teacher), Tensor(draws, ms.int32)


def run(loss, inputs):
    """(mean, loss, weight, numerator, denominator) and the gradients of the mean by logits and features."""
    values, gradients = ms.value_and_grad(Everything(loss), grad_position=(0, 1), has_aux=True)(*inputs)[:2]
    flat = [values[0], *(values[1:] if len(values) > 2 else values[1])]
    return [value.asnumpy() for value in flat], [gradient.astype(ms.float32).asnumpy() for gradient in gradients]


@lru_cache(None)
def expected(name, batch, classes, settings, softened):
    """What the oracle says: values, slopes along directions of the logits, and of the features."""
    logits, labels, features, teacher, draws = batch_of(name, batch, classes)
    labels = soft(labels, classes) if softened else labels
    loss, state = build(name, classes, dict(settings))
    mask = loss.mask(Tensor(draws, ms.int32)).asnumpy() if name == "seql" else None
    z, f = logits.astype(np.float64), features.astype(np.float64)
    more = More(f, teacher.astype(np.float64), mask, state, held=(z, f))
    keywords = {key: value for key, value in settings if key != "denominator"}
    counts, denominator = long_tail(classes), dict(settings).get("denominator")

    def value(z, f):
        return mean(name, z, labels, counts, replace(more, features=f), denominator, **keywords)

    of_image, weight = elements(name, z, labels, counts, more, **keywords)
    numerator = (of_image * weight).sum()
    step = 1e-6 if name == "crl" else 1e-3  # crl is smooth in pieces only
    into_z, into_f = directions(z.shape), directions(f.shape)
    by_z = slopes(lambda x: value(x, f), z, into_z, step)
    by_f = slopes(lambda x: value(z, x), f, into_f, step)
    mean_value = value(z, f)
    return (mean_value, of_image, weight, numerator, numerator / mean_value), (into_z, by_z), (into_f, by_f)


def check(name, batch, classes, settings=(), softened=False):
    logits, labels, *rest = batch_of(name, batch, classes)
    labels = soft(labels, classes) if softened else labels
    loss, _ = build(name, classes, dict(settings))
    values, gradients = run(loss, tensors(logits, labels, *rest))
    oracle, *sides = expected(name, batch, classes, settings, softened)
    bound = 5e-5 if ("form", "distribution") in settings else BOUND.get(name, 1e-5)  # steep: (bins - 1) / range
    for actual, right in zip(values, oracle, strict=True):
        assert actual.dtype == np.float32
        near(actual, right, bound)
    for gradient, (into, slope) in zip(gradients, sides, strict=True):
        if np.abs(slope).max() < 1e-9:  # an input that the loss does not look at
            assert not gradient.any()
        else:
            near(project(gradient, into), slope, bound)
    assert gradients[0].any()
    assert gradients[1].any() <= ("features" in loss.needs)


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_values_and_gradients(mode, name, batch, classes):
    rare = {"lambda_": 0.3 / classes} if name in ("eql", "seql") else {}  # some classes are rare, some not
    check(name, batch, classes, tuple(rare.items()))


@pytest.mark.parametrize(("name", "settings"), OPTIONS, ids=lambda part: part if isinstance(part, str) else str(part))
def test_options(mode, name, settings):
    check(name, 24, 6, tuple(settings.items()))


@pytest.mark.parametrize("name", SOFT)
def test_soft_labels(mode, name):
    rare = {"lambda_": 0.05} if name == "eql" else {}
    check(name, 9, 6, tuple(rare.items()), softened=True)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_half_precision_and_big_logits(mode, name):
    """float16 logits up to +-60 give the oracle's values; those and +-10,000 give finite gradients."""
    classes, batch = 6, 12
    _, labels, features, teacher, draws = batch_of(name, batch, classes)
    logits = np.random.default_rng(1).uniform(-60, 60, (batch, classes)).astype(np.float16)
    logits[0], logits[1], logits[2] = -60, 60, -60
    logits[0, labels[0]], logits[1, labels[1]] = 60, -60  # all right, all wrong, all equal
    loss, state = build(name, classes, {})
    values, gradients = run(loss, tensors(logits, labels, features, teacher, draws, ms.float16))
    mask = loss.mask(Tensor(draws, ms.int32)).asnumpy() if name == "seql" else None
    more = More(features.astype(np.float64), teacher.astype(np.float64), mask, state)
    bound = (
        1e-4 if name == "influence_balanced" else BOUND.get(name, 1e-5)
    )  # that one divides -log p by 1 - p near p = 1
    near(values[1], elements(name, logits, labels, long_tail(classes), more)[0], bound)
    assert np.isfinite(gradients[0]).all()
    assert np.isfinite(gradients[1]).all()
    _, gradients = run(loss, tensors(np.sign(logits) * 1e4, labels, features, teacher, draws, ms.float16))
    assert np.isfinite(gradients[0]).all()
    assert np.isfinite(gradients[1]).all()


class Halves(nn.Cell):
    """Totals of a mixed batch: one half with the share l, the other with 1 - l."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def construct(self, logits, labels, other, share):
        a = self.loss.totals(logits, labels, share=share)
        b = self.loss.totals(logits, other, share=1 - share)
        return a[0] + b[0], a[1] + b[1]


@pytest.mark.parametrize("denominator", ["weights", "batch"])
def test_mixed_and_weighted(mode, denominator):
    """Class weights multiply the loss's own; the mean of two halves is sum(l w_a L_a + (1-l) w_b L_b) over its weights."""
    logits, labels, *_ = batch_of("cs_ce", 24, 6)
    other, share = np.roll(labels, 5), np.random.default_rng(3).uniform(0, 1, 24).astype(np.float32)
    own = np.array([1.0, 2.0, 0.5, 3.0, 1.5, 0.25])
    loss = LOSSES.get("cs_ce")(class_counts=long_tail(6), class_weights=own, denominator=denominator)
    inputs = Tensor(logits), Tensor(labels, ms.int32), Tensor(other, ms.int32), Tensor(share)
    numerator, divisor = (total.asnumpy() for total in Halves(loss)(*inputs))
    (l_a, w_a), (l_b, w_b) = (elements("cs_ce", logits, y, long_tail(6), class_weights=own) for y in (labels, other))
    near(numerator, (share * w_a * l_a + (1 - share) * w_b * l_b).sum())
    near(divisor, (share * w_a + (1 - share) * w_b).sum() if denominator == "weights" else 24.0)


@pytest.mark.parametrize("name", sorted(STATEFUL))
def test_state_over_three_updates(mode, name):
    classes, batch = 5, 12
    settings = {"eqlv2": {"first_ratio": 0.6, "gamma": 5.0}, "softmax_eql": {"tau": 0.8}}[name]
    start, update = STATEFUL[name]
    state = start(classes, settings["first_ratio"]) if name == "eqlv2" else start(classes)
    counts = long_tail(classes)
    loss = LOSSES.get(name)(class_counts=counts, **settings)
    rng = np.random.default_rng(6)
    hyper = {key: value for key, value in settings.items() if key != "first_ratio"}
    for round_ in range(4):
        logits, labels = rng.normal(0, 1.5, (batch, classes)).astype(np.float32), rng.integers(0, classes, batch)
        inputs = Tensor(logits), Tensor(labels, ms.int32)
        z, more = logits.astype(np.float64), More(state=state)
        near(loss(*inputs).asnumpy(), mean(name, z, labels, counts, more, **settings))
        if round_ == 1:  # and the gradient, once
            into = directions(z.shape)
            gradient = ms.grad(loss)(*inputs).asnumpy()
            slope = slopes(lambda x, y=labels, m=more: mean(name, x, y, counts, m, **settings), z, into)
            near(project(gradient, into), slope)
        loss.update(*inputs)
        state = update(state, z, targets(labels, classes), **hyper)
        for key, value in state.items():
            near(getattr(loss, key).asnumpy(), value)


def test_a_share_multiplies_what_an_image_adds(mode):
    logits, labels, *_ = batch_of("eqlv2", 9, 6)
    share, z = np.linspace(0.1, 0.9, 9).astype(np.float32), logits.astype(np.float64)
    for name, (start, update) in STATEFUL.items():
        loss = LOSSES.get(name)(class_counts=long_tail(6))
        loss.update(Tensor(logits), Tensor(labels, ms.int32), share=Tensor(share))
        for key, value in update(start(6), z, targets(labels, 6), share).items():
            near(getattr(loss, key).asnumpy(), value)
