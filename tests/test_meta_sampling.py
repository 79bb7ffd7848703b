"""The meta-sampler's written-out gradient against differences of what it is the gradient of, and what is learnt with it."""

import copy
from functools import cache, partial

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn

from ms_longtail import recipe as recipes
from ms_longtail.data import Board, ImageSet, RateSource
from ms_longtail.errors import RecipeError
from ms_longtail.losses import BalancedSoftmax, CrossEntropy, LogitAdjustment
from ms_longtail.models import Cosine, LearnableScale, Linear
from ms_longtail.models.freezing import freeze, rests
from ms_longtail.objectives.meta_gradient import draw_gradient, log_sigmoid, meta_gradient
from ms_longtail.objectives.meta_sampling import MetaSampling
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES, MODELS
from ms_longtail.run.check import check
from ms_longtail.run.dataset import load_data
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

BOUND = 1e-4  # of the largest entry, in float32


# ---- the formulas, in float64


def sigmoid(w):
    return 1 / (1 + np.exp(-w))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def one_hot(labels, classes):
    return np.eye(classes)[labels]


def error_of(z, labels):
    """softmax(z) - onehot(y), (B, C)."""
    return softmax(z) - one_hot(labels, z.shape[1])


def cross_entropy(z, labels):
    """Mean of -log softmax(z)_y."""
    z = z - z.max(axis=1, keepdims=True)
    return (np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(z)), labels]).mean()


def meta_loss(v, *, weight, bias, features, labels, others, other_labels, shift, lr):
    """M after one step of the classifier in which image i counts v_i."""
    error = error_of(features @ weight.T + bias + shift, labels) * v[:, None]
    weight = weight - lr / len(v) * error.T @ features
    bias = bias - lr / len(v) * error.sum(axis=0)
    return cross_entropy(others @ weight.T + bias, other_labels)


def share_of_label(w, counts, noise, labels, temperature):
    """q_{i, y_i}, (B,)."""
    q = softmax((np.log(counts) + np.log(sigmoid(w)) + noise) / temperature)
    return q[np.arange(len(labels)), labels]


def differences(function, at, step=1e-2):
    """Central differences of a scalar function, of fourth order: right to some 1e-8, and rounding stays below 1e-13."""
    slopes = np.empty(len(at))
    for place in range(len(at)):
        h = np.zeros(len(at))
        h[place] = step
        near, far = function(at + h) - function(at - h), function(at + 2 * h) - function(at - 2 * h)
        slopes[place] = (8 * near - far) / (12 * step)
    return slopes


def rate_slopes(w, counts, noise, temperature, case):
    """dM/dw (C,) by differences: the factors are 1 at w, and move with the softmax of the Gumbel scores."""
    share = partial(share_of_label, counts=counts, noise=noise, labels=case["labels"], temperature=temperature)
    here = share(w)
    return differences(lambda moved: meta_loss(1 - here + share(moved), **case), w)


def assert_near(found, expected, least):
    """Within BOUND of the largest entry, and that one is not zero."""
    size = np.abs(expected).max()
    assert size > least
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=BOUND * size)


# ---- numbers to put in: float32 values, so that both sides begin with the same ones


def single(array):
    return np.asarray(array, np.float32).astype(np.float64)


def long_tail(classes):
    return np.round(500 * 0.01 ** (np.arange(classes) / (classes - 1))).astype(np.int64)


def random_case(batch, classes, width, shift, seed=0):
    """(case, rates, counts, noise): labels are those that the noise draws, rates lie in [-4, 4]."""
    rng = np.random.default_rng((seed, batch, classes, width))
    counts, w = long_tail(classes), single(rng.uniform(-4, 4, classes))
    noise = single(rng.gumbel(size=(batch, classes)))
    case = {
        "weight": single(rng.normal(size=(classes, width)) / np.sqrt(width)),
        "bias": single(rng.normal(size=classes) / 2),
        "features": single(rng.normal(size=(batch, width))),
        "labels": (np.log(counts) + np.log(sigmoid(w)) + noise).argmax(axis=1),
        "others": single(rng.normal(size=(batch, width))),
        "other_labels": rng.integers(0, classes, batch),
        "shift": np.log(counts) if shift else np.zeros(classes),
        "lr": float(single(rng.uniform(0.1, 1))),
    }
    return case, w, counts, noise


def t32(array):
    return Tensor(np.asarray(array), ms.float32)


def ids(array):
    return Tensor(np.asarray(array), ms.int32)


# ---- the two functions


class Written(nn.Cell):
    """Both functions on what one worker has, which is all of it."""

    def __init__(self, temperature):
        super().__init__()
        self.temperature, self.add_up = temperature, nn.Identity()

    def construct(self, weight, bias, features, shifted, label, others, other_label, lr, scores, rates):
        weights = (weight, bias)
        slopes, loss = meta_gradient(weights, features, shifted, label, others, other_label, lr, 1, self.add_up)
        return slopes, loss, draw_gradient(scores, label, slopes, rates, self.temperature)


SHAPES = [  # B, C, D, temperature, whether log n is added to the logits
    (1, 2, 3, 1.0, False),
    (1, 10, 64, 0.5, True),
    (7, 2, 64, 1.0, True),
    (7, 10, 3, 0.5, False),
    (7, 100, 3, 1.0, False),
    (64, 2, 3, 0.5, True),
    (64, 10, 64, 1.0, False),
    (64, 100, 64, 0.5, True),
]


def check_gradients(written, case, w, counts, noise, least=1e-7):
    """dM/dv_i and dM/dw_c of the two functions against central differences."""
    slopes, loss, gradient = written(
        *(t32(case[key]) for key in ("weight", "bias", "features")),
        t32(case["features"] @ case["weight"].T + case["bias"] + case["shift"]),
        ids(case["labels"]),
        t32(case["others"]),
        ids(case["other_labels"]),
        t32([case["lr"]]),
        t32((np.log(counts) + np.log(sigmoid(w)) + noise) / written.temperature),
        t32(w),
    )
    ones = np.ones(len(case["labels"]))
    np.testing.assert_allclose(float(loss.asnumpy()), meta_loss(ones, **case), rtol=1e-5)
    assert_near(slopes.asnumpy(), differences(partial(meta_loss, **case), ones), 1e-5)
    assert_near(gradient.asnumpy(), rate_slopes(w, counts, noise, written.temperature, case), least)


@pytest.mark.parametrize(("batch", "classes", "width", "temperature", "shift"), SHAPES)
def test_the_gradient_is_that_of_the_meta_loss(mode, batch, classes, width, temperature, shift):
    written = Written(temperature)
    for seed in range(2):
        check_gradients(written, *random_case(batch, classes, width, shift, seed))
    case, *draws = random_case(batch, classes, width, shift, 2)
    case["labels"] = np.random.default_rng(0).integers(0, classes, batch)  # the formulas hold for any labels
    check_gradients(written, case, *draws, least=1e-10)


@pytest.mark.parametrize("margin", [6, 8, 10])
def test_the_gradient_is_right_where_a_draw_was_nearly_certain(mode, margin):
    """Where q_y is 1 - e^-margin, what the other classes pull must not be lost in the rounding of 1 - q_y."""
    case, w, counts, _ = random_case(7, 10, 5, True)
    noise = np.random.default_rng(0).gumbel(size=(7, 10)) - np.log(counts) - np.log(sigmoid(w))
    noise[np.arange(7), case["labels"]] = noise.max(axis=1) + margin
    check_gradients(Written(1.0), case, w, counts, single(noise), least=1e-8)


def test_the_gradient_is_right_for_rates_that_are_nearly_one(mode):
    """d log sigmoid(w) / dw = sigmoid(-w), which 1 - sigmoid(w) rounds."""
    case, _, counts, noise = random_case(7, 10, 5, True)
    check_gradients(Written(1.0), case, np.full(10, 12.0), counts, noise, least=1e-8)


def test_log_sigmoid_of_large_rates(mode):
    w = np.array([-1e4, -200, -30, -4, -1e-3, 0, 0.5, 17, 90, 1e4])
    assert_close(log_sigmoid(t32(w)).asnumpy(), -np.logaddexp(0, -w))


# ---- the objective around a classifier


class Small(nn.Cell):
    """A classifier with nothing to train before its head."""

    def __init__(self, classes, width, head=Linear):
        super().__init__()
        self.backbone = nn.Tanh()
        self.head = head(width, classes)

    def features(self, image):
        return self.backbone(image)

    def construct(self, image):
        return self.head(self.features(image))


def loss_and_shift(name, counts):
    """(the loss, the numbers that it adds to the logits)."""
    log_share = np.log(counts / counts.sum())
    if name == "ce":
        return CrossEntropy(class_counts=counts), np.zeros(len(counts))
    if name == "balanced_softmax":
        return BalancedSoftmax(class_counts=counts), np.log(counts)
    return LogitAdjustment(class_counts=counts, tau=0.7), 0.7 * log_share


class Case:
    """An objective with random weights and rates, its columns, and the same as an oracle's case."""

    def __init__(self, model, images, loss="balanced_softmax", seed=0, **settings):
        rng = np.random.default_rng(seed)
        self.model, self.settings = model, settings
        classes, width = model.head.weight.shape
        self.counts, self.w = long_tail(classes), single(rng.uniform(-4, 4, classes))
        assert rests(model)
        assign(model.head.weight, rng.normal(size=(classes, width)) / np.sqrt(width))
        assign(model.head.bias, rng.normal(size=classes) / 2)
        loss, self.shift = loss_and_shift(loss, self.counts)
        self.objective = MetaSampling(model, loss, class_counts=self.counts, **settings)
        assign(self.objective.rates, self.w)
        self.image, self.second = images(rng), images(rng)
        self.noise = single(rng.gumbel(size=(len(self.image), classes)))
        self.label = (np.log(self.counts) + np.log(sigmoid(self.w)) + self.noise).argmax(axis=1)
        self.second_label, self.lr = rng.integers(0, classes, len(self.image)), float(single(0.3))

    @property
    def columns(self):
        images = Tensor(self.image), Tensor(self.second)
        return images[0], ids(self.label), images[1], ids(self.second_label), t32(self.noise), t32([self.lr])

    def oracle(self):
        """What `meta_loss` takes, by the classifier as it is."""
        features, others = (
            self.model.features(Tensor(image)).asnumpy().astype(np.float64) for image in (self.image, self.second)
        )
        return {
            "weight": self.model.head.weight.asnumpy().astype(np.float64),
            "bias": self.model.head.bias.asnumpy().astype(np.float64),
            "features": features,
            "labels": self.label,
            "others": others,
            "other_labels": self.second_label,
            "shift": self.shift,
            "lr": self.lr,
        }


def small_case(batch=7, classes=10, width=5, seed=0, **settings):
    images = lambda rng: rng.normal(size=(batch, width)).astype(np.float32)  # noqa: E731
    return Case(Small(classes, width), images, seed=seed, **settings)


def resnet_case(**settings):
    model = MODELS.get("resnet8_cifar")(num_classes=10, seed=3)
    freeze(model, ("backbone",), [p.name for p in model.trainable_params()])
    model.set_train()  # its batch normalisation rests all the same
    images = lambda rng: rng.integers(0, 256, (7, 3, 16, 16)).astype(np.uint8)  # noqa: E731
    return Case(model, images, **settings)


@pytest.mark.parametrize(
    ("make", "loss"),
    [
        (small_case, "ce"),
        (small_case, "balanced_softmax"),
        (small_case, "logit_adjustment"),
        (resnet_case, "balanced_softmax"),
    ],
)
def test_the_objective_observes_that_gradient_and_gives_the_classifier_the_plain_one(mode, make, loss):
    temperature = {"ce": 1.0, "balanced_softmax": 1.0, "logit_adjustment": 0.5}[loss]
    case = make(loss=loss, temperature=temperature)
    head = case.model.head
    both = ms.value_and_grad(case.objective, None, (head.weight, head.bias), has_aux=True)
    (numerator, denominator, observed), (weight_slope, bias_slope) = both(*case.columns)
    oracle = case.oracle()
    z = oracle["features"] @ oracle["weight"].T + oracle["bias"] + case.shift
    count, classes = z.shape
    assert float(denominator.asnumpy()) == count
    assert_close(float(numerator.asnumpy()), count * cross_entropy(z, case.label))
    error = error_of(z, case.label)
    assert_close(weight_slope.asnumpy(), error.T @ oracle["features"])  # of the plain loss, nothing of the meta one
    assert_close(bias_slope.asnumpy(), error.sum(axis=0))
    observed = observed.asnumpy()
    assert observed.shape == case.objective.observed_shape == (2 * classes + 1,)
    assert_near(observed[:classes], rate_slopes(case.w, case.counts, case.noise, temperature, oracle), 1e-6)
    np.testing.assert_array_equal(observed[classes:-1], np.bincount(case.label, minlength=classes))
    np.testing.assert_allclose(observed[-1], meta_loss(np.ones(count), **oracle), rtol=1e-5)


def test_no_gradient_passes_what_is_observed(mode):
    case = small_case()
    head = case.model.head

    def total(*columns):
        return case.objective(*columns)[2].sum()

    for slope in ms.grad(total, None, (head.weight, head.bias))(*case.columns):
        np.testing.assert_array_equal(slope.asnumpy(), 0)


def test_rates_far_out_do_not_overflow(mode):
    case = small_case()
    assign(case.objective.rates, np.linspace(-200, 200, 10))
    assert all(np.isfinite(value.asnumpy()).all() for value in case.objective(*case.columns))


# ---- steps


class Absorbed(nn.Cell):
    """One step of the rates from inside a graph."""

    def __init__(self, objective):
        super().__init__(auto_prefix=False)
        self.objective = objective

    def construct(self, observed, denominator):
        return self.objective.absorb(observed, denominator)


@pytest.mark.parametrize(
    "settings", [{}, {"lr": 0.001, "beta1": 0.0, "beta2": 0.9}, {"lr": 0.1, "beta1": 0.5, "beta2": 0.99}]
)
def test_ten_steps_of_the_rates_are_those_of_adam(mode, settings):
    rng = np.random.default_rng(1)
    case = small_case(classes=6, **settings)
    absorb, objective = Absorbed(case.objective), case.objective
    lr, beta1, beta2 = ({"lr": 0.01, "beta1": 0.9, "beta2": 0.999} | settings).values()
    w, moment1, moment2, drawn = case.w.copy(), np.zeros(6), np.zeros(6), np.zeros(6)
    scale = np.array([0, 1e-6, 1e-3, 1e-1, 1, 1e2])  # a class that nothing is known of, and others
    for t in range(1, 11):
        gradient, counts = single(scale * rng.normal(size=6)), rng.integers(0, 9, 6)
        absorb(t32([*gradient, *counts, 1.5]), t32(counts.sum()))
        moment1 = beta1 * moment1 + (1 - beta1) * gradient
        moment2 = beta2 * moment2 + (1 - beta2) * gradient**2
        w = w - lr * (moment1 / (1 - beta1**t)) / (np.sqrt(moment2 / (1 - beta2**t)) + 1e-8)
        drawn += counts
        np.testing.assert_allclose(objective.rates.asnumpy(), w, rtol=1e-6, atol=1e-4 * lr)
    assert np.abs(w - case.w)[1:].min() > lr / 100
    np.testing.assert_allclose(objective.moment1.asnumpy(), moment1, rtol=1e-5, atol=1e-6 * scale.max() * 1e-6)
    np.testing.assert_allclose(objective.moment2.asnumpy(), moment2, rtol=2e-5)
    np.testing.assert_array_equal(objective.drawn.asnumpy(), drawn)
    assert objective.follows is objective.rates


def stepper(case, steps=20, lr=0.3):
    step = TrainStep(case.objective, sgd(case.model.trainable_params(), [lr] * steps, momentum=0.0, weight_decay=0.0))
    step.set_train()
    return step


@cache
def built(mode):
    """(case, its step, what every parameter of the step begins with): compiled once for all tests below."""
    case = small_case()
    step = stepper(case)
    return case, step, {p.name: p.asnumpy().copy() for p in step.get_parameters()}


@pytest.fixture
def new(mode):
    """(case, step) as they begin."""
    case, step, start = built(mode)
    for parameter in step.get_parameters():
        assign(parameter, start[parameter.name])
    return copy.copy(case), step


def state(case):
    """Everything that a step may change."""
    return {p.name: p.asnumpy().copy() for p in case.objective.get_parameters()}


def assert_same_state(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_step_changes_rates_and_classifier(new):
    """The rates by Adam's first step, which is lr times the sign; the classifier by the plain step."""
    case, step = new
    oracle = case.oracle()
    slopes = rate_slopes(case.w, case.counts, case.noise, 1.0, oracle)
    loss, finite = step(*case.columns)
    assert bool(finite.asnumpy())
    clear = np.abs(slopes) > 1e-3 * np.abs(slopes).max()
    assert clear.sum() > 3
    assert_close((case.objective.rates.asnumpy() - case.w)[clear], -0.01 * np.sign(slopes)[clear])
    z = oracle["features"] @ oracle["weight"].T + oracle["bias"] + case.shift
    assert_close(float(loss.asnumpy()), cross_entropy(z, case.label))
    error = error_of(z, case.label) / len(z)
    assert_close(case.model.head.weight.asnumpy(), oracle["weight"] - 0.3 * error.T @ oracle["features"])
    assert_close(case.model.head.bias.asnumpy(), oracle["bias"] - 0.3 * error.sum(axis=0))


def spoil(case, column):
    """Put a NaN into a column; returns what was there."""
    good = getattr(case, column)
    bad = good.copy()
    bad[2, 1] = np.nan
    setattr(case, column, bad)
    return good


def check_nothing_changes(case, step, broken):
    step(*case.columns)
    before = state(case)
    assert before["rates_moment2"].max() > 0
    assert before["rates_drawn"].sum() == 7
    good = spoil(case, broken)
    _, finite = step(*case.columns)
    assert_same_state(state(case), before)
    assert not bool(finite.asnumpy())
    setattr(case, broken, good)
    _, finite = step(*case.columns)
    assert bool(finite.asnumpy())
    after = state(case)
    for parameter in case.objective.get_parameters():
        assign(parameter, before[parameter.name])
    step(*case.columns)  # the same without the bad step
    assert_same_state(after, state(case))
    assert not np.array_equal(after["rates"], before["rates"])


def test_a_step_whose_loss_is_not_finite_changes_neither_rates_nor_moments(new):
    check_nothing_changes(*new, "image")


def test_a_step_whose_meta_gradient_is_not_finite_changes_neither_rates_nor_moments(new):
    """One NaN in the rates would never leave them, and every later draw would be of the first class."""
    check_nothing_changes(*new, "second")


def test_what_was_told_stays_told_when_the_next_step_is_not_finite(new):
    """Counts that `learnt` has reset do not come back with the state that a bad step restores."""
    case, step = new
    step(*case.columns)
    assert sum(case.objective.learnt()["drawn"]) == 7
    good = spoil(case, "image")
    _, finite = step(*case.columns)
    assert not bool(finite.asnumpy())
    case.image = good
    step(*case.columns)
    learnt = case.objective.learnt()
    assert learnt["drawn"] == np.bincount(case.label, minlength=10).tolist()


def test_learnt_tells_rates_images_drawn_and_the_mean_meta_loss(new):
    (case, step), meta, drawn = new, [], np.zeros(10)
    rng = np.random.default_rng(5)
    for _ in range(3):
        case.label = rng.integers(0, 10, 7)
        meta.append(meta_loss(np.ones(7), **case.oracle()))
        drawn += np.bincount(case.label, minlength=10)
        step(*case.columns)
    learnt = case.objective.learnt()
    assert learnt.keys() == {"rate", "drawn", "meta_loss"}
    assert learnt["drawn"] == drawn.tolist()
    assert abs(learnt["meta_loss"] - np.mean(meta)) < 1e-5
    np.testing.assert_allclose(learnt["rate"], sigmoid(case.objective.rates.asnumpy()), atol=1e-6)
    assert np.abs(case.objective.rates.asnumpy() - case.w).max() > 0.005
    again = case.objective.learnt()
    assert again == {"rate": learnt["rate"], "drawn": [0] * 10, "meta_loss": None}


# ---- a problem whose best rates are known


class Known:
    """Images that are points, K of them, with P(point | class) such that log P(point | class) is linear in the point.

    A linear classifier can then be exact. Trained with shift b on classes drawn with P it ends at
    z = log P(x | c) + log P_c - b_c (up to a number), and the class-balanced loss is least where z = log P(x | c), so at
    P_c ~ exp(b_c): equal for cross-entropy, n^tau for logit adjustment, n for balanced softmax.
    """

    def __init__(self, points, chances, counts):
        self.points, self.chances = np.array(points, np.float32), np.array(chances)  # (K, 2), (C, K)
        self.counts = np.array(counts)
        self.labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        each = [
            np.repeat(np.arange(len(points)), np.round(n * p).astype(int)) for n, p in zip(counts, chances, strict=True)
        ]
        self.images = self.points[np.concatenate(each)]  # (N, 2): as many of each point as its chance says, exactly
        assert len(self.images) == len(self.labels)

    def best(self, shift, spacing):
        """The draws P (C,) on a grid whose classifier has the least class-balanced loss on the population."""
        x, classes = np.concatenate([self.points, np.ones((len(self.points), 1))], axis=1), len(self.counts)

        def balanced(p):
            """Train on P to the end (Newton's steps), then the loss with all classes equally often."""
            w, joint = np.zeros((classes, x.shape[1])), p[:, None] * self.chances  # (C, K)
            w[:, -1] = -shift
            for _ in range(10):
                q, mass = softmax(x @ w.T + shift), joint.sum(axis=0)  # (K, C), (K,)
                slope = ((q * mass[:, None]).T - joint) @ x
                bend = np.einsum("k,kcd,ki,kj->cidj", mass, q[:, :, None] * (np.eye(classes) - q[:, None]), x, x)
                bend = bend.reshape(w.size, w.size) + 1e-9 * np.eye(w.size)
                w = w - np.linalg.solve(bend, slope.ravel()).reshape(w.shape)
            assert np.abs(slope).max() < 1e-6
            return -(self.chances * np.log(softmax(x @ w.T)).T).sum() / classes

        parts = round(1 / spacing)
        steps = np.array([n for n in np.ndindex(*[parts] * (classes - 1)) if min(n) > 0 and sum(n) < parts])
        grid = np.concatenate([steps, parts - steps.sum(axis=1, keepdims=True)], axis=1) / parts
        return min(grid, key=balanced)


SIDES = np.array([9, 3, 1]) / 13, np.array([4, 2, 1]) / 7
TWO = Known(
    [(x, y) for x in (1, 0, -1) for y in (1, 0, -1)],
    [np.outer(SIDES[0], SIDES[1]).ravel(), np.outer(SIDES[0][::-1], SIDES[1][::-1]).ravel()],
    [819, 91],
)
THREE = Known([(1, 0), (-0.5, 0.75), (-0.5, -0.75)], np.full((3, 3), 1 / 6) + np.eye(3) / 2, [120, 30, 6])
LR, BATCH = 0.3, 64


@pytest.mark.parametrize(
    ("known", "tau", "start", "long"),
    [(TWO, 0.5, (0, 0), 600), (TWO, 1.0, (-2, 2), 600), (THREE, 0.0, (0, 0, 0), 1000)],
    ids=["two-adjusted", "two-balanced-softmax", "three-ce"],
)
def test_the_best_rates_are_found(known, tau, start, long):
    """From draws .13 and more away, to within .03.

    Adam's steps keep their size and a batch's gradient is mostly noise, so P wanders about the best one with a standard
    deviation of .02. The mean over the last third of the steps keeps .004 to .009 of it (over seeds, in NumPy), and some
    .01 of the way is still to go.
    """
    ms.set_context(mode=ms.GRAPH_MODE)
    counts, classes = known.counts, len(known.counts)
    best = counts**tau / (counts**tau).sum()
    spacing = {2: 0.025, 3: 1 / 15}[classes]
    assert np.abs(known.best(tau * np.log(counts / counts.sum()), spacing) - best).max() < 0.51 * spacing
    model = Small(classes, 2)
    model.backbone = nn.Identity()
    for parameter in (model.head.weight, model.head.bias):
        assign(parameter, np.zeros(parameter.shape))
    losses = {0.0: CrossEntropy, 1.0: BalancedSoftmax}
    loss = losses.get(tau, partial(LogitAdjustment, tau=tau))(class_counts=counts)
    objective = MetaSampling(model, loss, class_counts=counts)
    assign(objective.rates, np.array(start))
    step = TrainStep(objective, sgd(model.trainable_params(), [LR] * long, momentum=0.0, weight_decay=0.0))
    step.set_train()
    board, rng = Board(), np.random.default_rng(7)
    images = ImageSet(known.labels, tuple("abc"[:classes]), images=np.zeros((len(known.labels), 1, 1, 3), np.uint8))
    source = RateSource(images, np.arange, long * BATCH, board=board, batch=BATCH, stage_draw=0, seed=1)
    shares = np.empty((long, classes))
    for number in range(long):
        w = objective.rates.asnumpy().astype(np.float64)
        board.put(number, w)
        shares[number] = counts * sigmoid(w) / (counts * sigmoid(w)).sum()
        draws = np.arange(number * BATCH, (number + 1) * BATCH)
        index = source.index(draws)
        second_label = rng.integers(0, classes, BATCH)
        point = (rng.random((BATCH, 1)) > known.chances.cumsum(axis=1)[second_label]).sum(axis=1)
        step(
            Tensor(known.images[index]),
            ids(known.labels[index]),
            Tensor(known.points[point.clip(0, len(known.points) - 1)]),
            ids(second_label),
            Tensor(source.noise(draws)),
            t32([LR]),
        )
    found = shares[2 * long // 3 :].mean(axis=0)
    assert np.abs(shares[0] - best).max() > 0.13
    np.testing.assert_allclose(found, best, atol=0.03)


# ---- what is refused


@pytest.mark.parametrize("name", ["focal", "label_smoothing", "ldam", "cs_ce", "eql"])
def test_other_losses_are_refused(name):
    loss = LOSSES.get(name)(class_counts=long_tail(10))
    with pytest.raises(ValueError, match=r"meta_sampling takes ce, balanced_softmax or logit_adjustment"):
        MetaSampling(Small(10, 5), loss, class_counts=long_tail(10))


@pytest.mark.parametrize("kind", [CrossEntropy, BalancedSoftmax, LogitAdjustment])
def test_class_weights_are_refused(kind):
    loss = kind(class_counts=long_tail(10), class_weights=np.linspace(1, 2, 10))
    with pytest.raises(ValueError, match="without class_weights"):
        MetaSampling(Small(10, 5), loss, class_counts=long_tail(10))


@pytest.mark.parametrize("head", [Cosine, LearnableScale])
def test_other_heads_are_refused(head):
    with pytest.raises(ValueError, match=r"set freeze: backbone and model\.head: linear"):
        MetaSampling(Small(10, 5, head), CrossEntropy(), class_counts=long_tail(10))


def test_a_backbone_that_is_trained_is_refused():
    model = MODELS.get("resnet8_cifar")(num_classes=10, seed=0)
    with pytest.raises(ValueError, match="set freeze: backbone"):
        MetaSampling(model, CrossEntropy(), class_counts=long_tail(10))
    freeze(model, ("backbone.layer1",), [p.name for p in model.trainable_params()])
    with pytest.raises(ValueError, match="set freeze: backbone"):
        MetaSampling(model, CrossEntropy(), class_counts=long_tail(10))


@pytest.mark.parametrize(
    "setting", [{"lr": 0.0}, {"beta1": 1.0}, {"beta2": -0.1}, {"temperature": 0.0}, {"meta": "test"}]
)
def test_settings_out_of_bounds_are_refused(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=name):
        MetaSampling(Small(10, 5), CrossEntropy(), class_counts=long_tail(10), **setting)


def recipe(top=None, **changes):
    stage = {
        "name": "balance",
        "epochs": 1,
        "objective": "meta_sampling",
        "second_sampler": "class_balanced",
        "freeze": "backbone",
    }
    stage = {key: value for key, value in (stage | changes).items() if value is not None}
    content = {"name": "tiny", "data": {"name": "digits_lt", "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}}}
    content |= {"model": "resnet8_cifar", "batch": 16, "stages": [stage]}
    return recipes.from_map(content | (top or {}))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            {"sampler": "class_balanced"},
            r"sampler.*'class_balanced'.*meta_sampling draws by rates of its own.*instance",
        ),
        ({"second_sampler": None}, r"second_sampler.*meta_sampling reads a second order.*class_balanced"),
        ({"second_sampler": "none"}, r"second_sampler.*meta_sampling reads a second order.*class_balanced"),
        ({"mixing": "mixup"}, r"mixing.*'mixup'.*meta_sampling reads two orders side by side; set mixing: none"),
        ({"objective": {"name": "meta_sampling", "lr": 0}}, r"objective\.lr = 0"),
        ({"objective": {"name": "meta_sampling", "meta": "test"}}, r"objective\.meta = 'test'"),
    ],
)
def test_faults_of_a_recipe_are_named(change, fault):
    with pytest.raises(RecipeError, match=fault):
        recipe(**change)


VALIDATED = {
    "data": {
        "name": "digits_lt",
        "imbalance": {"profile": "exp", "n_max": 24, "factor": 8},
        "validation": {"share": 0.3},
    }
}


@pytest.mark.parametrize(
    ("top", "change", "fault"),
    [
        ({}, {"objective": {"name": "meta_sampling", "meta": "validation"}}, r"no such part.*data\.validation\.share"),
        ({"accumulate": 2}, {}, r"set accumulate: 1, not 2"),
        ({}, {"freeze": None}, r"set freeze: backbone"),
        ({}, {"freeze": ["backbone", "classifier"]}, r"nothing is left to train"),
        ({}, {"loss": "focal"}, r"takes ce, balanced_softmax or logit_adjustment"),
        ({}, {"class_weights": "cost_sensitive"}, r"without class_weights"),
        ({"model": {"name": "resnet8_cifar", "head": "lws"}}, {}, r"model\.head: linear"),
    ],
)
def test_faults_that_need_data_or_network_are_named(top, change, fault):
    wanted = recipe(top, **change)
    with pytest.raises(RecipeError, match=fault):
        check(wanted, load_data(wanted))


def test_good_recipes_pass():
    for top, change in (
        ({}, {}),
        (VALIDATED, {"objective": {"name": "meta_sampling", "meta": "validation"}}),
        ({}, {"loss": {"name": "logit_adjustment", "tau": 0.5}}),
        ({}, {"mixing": "none", "sampler": {"name": "instance", "num_samples": 64}}),
    ):
        wanted = recipe(top, **change)
        check(wanted, load_data(wanted))
