"""The bilateral-branch network (Zhou et al., CVPR 2020) against float64: its size, both branches, its loss and gradients."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn
from test_models import convolve, count_by_hand

import ms_longtail.losses
import ms_longtail.models  # noqa: F401  (both fill the registry)
from ms_longtail.models import Branches
from ms_longtail.models.activation_map import ActivationMaps
from ms_longtail.models.norm import Norm
from ms_longtail.objectives import Bilateral
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES, MODELS
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

B, C, D = 6, 4, 64
COUNTS = [400, 60, 9, 2]
RNG = np.random.default_rng(11)
FIRST, SECOND = RNG.integers(0, 256, (2, B, 3, 16, 16)).astype(np.uint8)
Y_FIRST, Y_SECOND = np.array([0, 1, 0, 3, 2, 0], np.int32), np.array([3, 3, 1, 2, 0, 3], np.int32)
PROGRESS = [0.0, 0.25, 0.5, 0.9]
SHARE = {
    "parabolic": lambda p: 1 - p**2,
    "linear": lambda p: 1 - p,
    "cosine": lambda p: np.cos(np.pi * p / 2),
    "equal": lambda p: 0.5,
}
SIDES = ("conventional", "rebalancing")


def network(depth=8, seed=3, **settings):
    """In evaluation, with running statistics, norms and a bias that are not the trivial ones."""
    model = MODELS.get(f"resnet{depth}_cifar")(num_classes=C, branches=2, seed=seed, **settings)
    rng = np.random.default_rng(1)
    for parameter in model.get_parameters():
        if parameter.ndim == 1:
            assign(parameter, rng.uniform(0.5, 1.5, parameter.shape))
    return model.set_train(False)


def values(model):
    return {p.name: p.asnumpy().astype(np.float64) for p in model.get_parameters()}


def columns(progress, first=FIRST, y_first=Y_FIRST, second=SECOND, y_second=Y_SECOND):
    return (*(Tensor(a) for a in (first, y_first, second, y_second)), Tensor([progress], ms.float32))


class BranchFeatures(nn.Cell):
    """Both branches' features of the same images."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images):
        return self.model.branch_features(images, False), self.model.branch_features(images, True)


class Features(nn.Cell):
    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images):
        return self.model.features(images)


# ---- the formulas, in float64


def norm(w, x, name):
    mean, var, gamma, beta = (
        w[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def block(w, x, name, stride):
    """A basic residual block with an option-A shortcut."""
    y = np.maximum(norm(w, convolve(x, w[f"{name}.conv1.weight"], stride), f"{name}.bn1"), 0)
    y = norm(w, convolve(y, w[f"{name}.conv2.weight"], 1), f"{name}.bn2")
    extra = (y.shape[1] - x.shape[1]) // 2
    return np.maximum(y + np.pad(x[:, :, ::stride, ::stride], ((0, 0), (extra, extra), (0, 0), (0, 0))), 0)


def first_convolution(w, images):
    mean, std = (np.array(v).reshape(1, 3, 1, 1) for v in ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]))
    return convolve((images / 255 - mean) / std, w["backbone.conv1.weight"], 1)


def feature_map(w, images, side, depth=8):
    """The trunk, then one branch: the last block of the last layer."""
    n = (depth - 2) // 6
    x = np.maximum(norm(w, first_convolution(w, images), "backbone.bn1"), 0)
    for layer in (1, 2, 3):
        for place in range(n - (layer == 3)):
            x = block(w, x, f"backbone.layer{layer}.{place}", 2 if layer > 1 and place == 0 else 1)
    return block(w, x, f"backbone.branches.{side}", 2 if n == 1 else 1)


def pooled(w, images, side, depth=8):
    return feature_map(w, images, side, depth).mean(axis=(2, 3))


def losses(logits, labels):
    """Cross-entropy of every image."""
    logits = logits - logits.max(axis=1, keepdims=True)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]


def totals(a, f_c, f_r, y_c, y_r, weight, bias, class_weights=None):
    """(sum of a w L(z, y_c) + (1-a) w L(z, y_r), sum of a w + (1-a) w), z = W [2 a f_c, 2 (1-a) f_r] + b."""
    z = np.concatenate([2 * a * f_c, 2 * (1 - a) * f_r], axis=1) @ weight.T + bias
    w = np.ones(C) if class_weights is None else class_weights
    numerator = (a * w[y_c] * losses(z, y_c) + (1 - a) * w[y_r] * losses(z, y_r)).sum()
    return numerator, (a * w[y_c] + (1 - a) * w[y_r]).sum()


def mean_loss(*args):
    numerator, denominator = totals(*args)
    return numerator / denominator


def slopes(function, at, step=1e-5):
    """Central differences with respect to every entry."""
    result = np.zeros_like(at)
    for place in np.ndindex(at.shape):
        move = np.zeros_like(at)
        move[place] = step
        result[place] = (function(at + move) - function(at - move)) / (2 * step)
    return result


# ---- the network


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("depth", [8, 20, 32])
def test_the_last_block_and_half_of_the_head_come_on_top(depth, classes):
    model = MODELS.get(f"resnet{depth}_cifar")(num_classes=classes, branches=2)
    inputs = 32 if depth == 8 else 64  # with one block a layer, the last block is also the one that widens
    last_block = 9 * inputs * 64 + 9 * 64 * 64 + 2 * 2 * 64
    expected = count_by_hand(depth, classes) + last_block + 64 * classes
    assert sum(p.size for p in model.trainable_params()) == expected
    assert model.head.weight.shape == (classes, 128)
    assert model.head.bias.shape == (classes,)


def test_resnet50_with_two_branches():
    def count(branches):
        model = MODELS.get("resnet50")(num_classes=1000, branches=branches)
        return sum(p.size for p in model.trainable_params())

    bottleneck = 2048 * 512 + 9 * 512 * 512 + 512 * 2048 + 2 * (512 + 512 + 2048)
    assert count(1) == 25_557_032
    assert count(2) == 25_557_032 + bottleneck + 2048 * 1000


@pytest.mark.parametrize(("depth", "shared"), [(8, 0), (20, 2)])
def test_the_trunk_is_shared_and_the_last_block_is_not(depth, shared):
    model = MODELS.get(f"resnet{depth}_cifar")(num_classes=C, branches=2)
    assert model.two_branches
    assert isinstance(model.backbone.branches, Branches)
    one = MODELS.get(f"resnet{depth}_cifar")(num_classes=C)
    assert not one.two_branches
    names = {p.name for p in model.get_parameters()}
    last = f"backbone.layer3.{shared}."
    parts = {p.name.removeprefix(last) for p in one.get_parameters() if p.name.startswith(last)}
    expected = {p.name for p in one.get_parameters() if not p.name.startswith(last)}
    assert names == expected | {f"backbone.branches.{side}.{part}" for side in SIDES for part in parts}
    for part in ("conv1", "conv2"):  # drawn by name: the two do not begin alike
        one_side, other_side = (getattr(getattr(model.backbone.branches, side), part).weight for side in SIDES)
        assert not np.array_equal(one_side.asnumpy(), other_side.asnumpy())


@pytest.mark.parametrize("branches", [0, 3])
def test_other_numbers_of_branches_are_refused(branches):
    with pytest.raises(ValueError, match="branches"):
        MODELS.get("resnet8_cifar")(num_classes=C, branches=branches)


@pytest.mark.parametrize("depth", [8, 20])
def test_features_are_those_of_the_conventional_branch_then_of_the_other(mode, depth):
    model = network(depth)
    w = values(model)
    f_c, f_r = (pooled(w, FIRST, side, depth) for side in SIDES)
    scale = max(1.0, np.abs(f_c).max(), np.abs(f_r).max())
    found = Features(model)(Tensor(FIRST)).asnumpy()
    assert found.shape == (B, 2 * D)
    assert_close(found, np.concatenate([f_c, f_r], axis=1), factor=5 * scale)
    for features, expected in zip(BranchFeatures(model)(Tensor(FIRST)), (f_c, f_r), strict=True):
        assert_close(features.asnumpy(), expected, factor=5 * scale)
    logits = np.concatenate([f_c, f_r], axis=1) @ w["head.weight"].T + w["head.bias"]
    assert_close(model(Tensor(FIRST)).asnumpy(), logits, factor=10 * scale)


def test_activation_maps_sum_over_both_branches_channels(mode):
    model = network()
    w = values(model)
    maps, label, index = ActivationMaps(model)(Tensor(FIRST), Tensor(Y_FIRST), Tensor(np.arange(B, dtype=np.int32)))
    both = np.concatenate([feature_map(w, FIRST, side) for side in SIDES], axis=1)  # (B, 2D, 4, 4)
    expected = np.einsum("bk,bkhw->bhw", w["head.weight"][Y_FIRST], both).reshape(B, -1)
    low, high = expected.min(axis=1, keepdims=True), expected.max(axis=1, keepdims=True)
    expected = 255 * (expected - low) / (high - low)
    found = maps.asnumpy()
    np.testing.assert_array_equal(found, np.round(found))
    assert np.abs(found - expected).max() <= 0.5 + 0.01  # rounded to whole numbers
    np.testing.assert_array_equal(label.asnumpy(), Y_FIRST)
    np.testing.assert_array_equal(index.asnumpy(), np.arange(B))
    one = np.einsum("bk,bkhw->bhw", w["head.weight"][Y_FIRST][:, :D], both[:, :D]).reshape(B, -1)
    assert np.abs(np.corrcoef(one[0], expected[0])[0, 1]) < 0.99  # so the other half does count


# ---- the objective


def test_columns():
    model = network()
    assert Bilateral(model, LOSSES.get("ce")()).columns == ("image", "label", "second", "second_label", "progress")
    drawing = LOSSES.get("softmax_eql")(class_counts=COUNTS)
    assert Bilateral(model, drawing).columns[:5] == ("image", "label", "second", "second_label", "progress")
    assert ("draw" in Bilateral(model, drawing).columns) is drawing.random


def test_one_branch_is_refused():
    with pytest.raises(ValueError, match=r"model\.branches"):
        Bilateral(MODELS.get("resnet8_cifar")(num_classes=C, branches=1), LOSSES.get("ce")())


def test_an_unknown_decay_is_refused():
    with pytest.raises((ValueError, TypeError), match="decay"):
        Bilateral(network(), LOSSES.get("ce")(), decay="exponential")


def features_of(model, first=FIRST, second=SECOND):
    """(f_c of the first images, f_r of the second) as the network has them."""
    branches = BranchFeatures(model)
    return (branches(Tensor(x))[side].asnumpy().astype(np.float64) for side, x in enumerate((first, second)))


WEIGHTED = {
    "ce": ({}, None),
    "cs_ce": ({"class_counts": COUNTS}, min(COUNTS) / np.array(COUNTS)),
}


@pytest.mark.parametrize("loss", WEIGHTED)
@pytest.mark.parametrize("decay", SHARE)
def test_value_and_the_head_s_gradient(mode, decay, loss):
    model = network()
    settings, class_weights = WEIGHTED[loss]
    objective = Bilateral(model, LOSSES.get(loss)(**settings), decay=decay)
    objective.set_train(False)
    w = values(model)
    f_c, f_r = features_of(model)
    weight, bias = w["head.weight"], w["head.bias"]

    def quotient(*args):
        numerator, denominator, _ = objective(*args)
        return numerator / denominator, numerator, denominator

    step = ms.value_and_grad(quotient, None, ms.ParameterTuple([model.head.weight, model.head.bias]), has_aux=True)
    for p in PROGRESS:
        (value, numerator, denominator), gradients = step(*columns(p))
        a = SHARE[decay](p)
        expected = totals(a, f_c, f_r, Y_FIRST, Y_SECOND, weight, bias, class_weights)
        size = max(1.0, expected[0] / expected[1])
        assert_close(numerator.asnumpy(), expected[0], factor=size)
        assert_close(denominator.asnumpy(), expected[1])
        assert_close(value.asnumpy(), expected[0] / expected[1])

        def at(weight, bias, a=a):
            return mean_loss(a, f_c, f_r, Y_FIRST, Y_SECOND, weight, bias, class_weights)

        of_weight = slopes(lambda v, at=at: at(v, bias), weight)
        assert_close(gradients[0].asnumpy(), of_weight, factor=max(1.0, np.abs(of_weight).max()))
        assert_close(gradients[1].asnumpy(), slopes(lambda v, at=at: at(weight, v), bias))


def test_parabolic_is_what_it_does_unasked():
    model = network()
    values = [
        [t.asnumpy() for t in Bilateral(model, LOSSES.get("ce")(), **settings)(*columns(0.5))[:2]]
        for settings in ({}, {"decay": "parabolic"}, {"decay": "linear"})
    ]
    np.testing.assert_array_equal(values[0], values[1])
    assert abs(values[0][0] - values[2][0]) > 1e-3


def test_gradient_of_the_whole_network_against_central_differences(mode):
    """From pixels to the loss in float64, along one direction for every weight."""
    model, p = network(), 0.6
    a = 1 - p**2
    objective = Bilateral(model, LOSSES.get("ce")())
    objective.set_train(False)
    weights = model.trainable_params()

    def quotient(*args):
        numerator, denominator, _ = objective(*args)
        return numerator / denominator

    value, gradients = ms.value_and_grad(quotient, None, ms.ParameterTuple(weights))(*columns(p))
    w = values(model)

    def loss_at(w):
        f_c, f_r = pooled(w, FIRST, "conventional"), pooled(w, SECOND, "rebalancing")
        return mean_loss(a, f_c, f_r, Y_FIRST, Y_SECOND, w["head.weight"], w["head.bias"])

    assert_close(value.asnumpy(), loss_at(w))
    rng = np.random.default_rng(0)
    for parameter, gradient in zip(weights, gradients, strict=True):
        direction = rng.normal(size=parameter.shape)
        direction /= np.linalg.norm(direction)
        up, down = (loss_at(w | {parameter.name: w[parameter.name] + s * direction}) for s in (1e-5, -1e-5))
        slope = (up - down) / 2e-5
        found = (gradient.asnumpy().astype(np.float64) * direction).sum()
        assert abs(found - slope) < 1e-4 * max(1.0, abs(slope)), parameter.name


@pytest.mark.parametrize("decay", ["parabolic", "linear", "cosine"])
def test_at_the_beginning_the_conventional_branch_is_alone(mode, decay):
    """a = 1: value, gradient and the second images all say so."""
    model = network()
    objective = Bilateral(model, LOSSES.get("ce")(), decay=decay)
    objective.set_train(False)
    w = values(model)
    f_c = pooled(w, FIRST, "conventional")
    z = 2 * np.concatenate([f_c, 0 * f_c], axis=1) @ w["head.weight"].T + w["head.bias"]
    weights = ms.ParameterTuple(model.trainable_params())

    def quotient(*args):
        numerator, denominator, _ = objective(*args)
        return numerator / denominator

    step = ms.value_and_grad(quotient, None, weights)
    value, gradients = step(*columns(0.0))
    assert_close(value.asnumpy(), losses(z, Y_FIRST).mean())
    found = {p.name: g.asnumpy() for p, g in zip(weights, gradients, strict=True)}
    for name, gradient in found.items():
        if name.startswith("backbone.branches.rebalancing."):
            assert (gradient == 0).all(), name
        elif name != "head.weight":
            assert np.abs(gradient).max() > 0, name
    assert (found["head.weight"][:, D:] == 0).all()
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    own = (p - np.eye(C)[Y_FIRST]).T @ (2 * f_c) / B
    assert_close(found["head.weight"][:, :D], own, factor=max(1.0, np.abs(own).max()))
    # Whatever the second images and labels are, the trunk's gradient is the same.
    other_value, others = step(*columns(0.0, second=SECOND[::-1].copy(), y_second=(Y_SECOND + 1) % C))
    np.testing.assert_array_equal(other_value.asnumpy(), value.asnumpy())
    for parameter, gradient in zip(weights, others, strict=True):
        np.testing.assert_array_equal(gradient.asnumpy(), found[parameter.name], err_msg=parameter.name)


@pytest.mark.parametrize(("decay", "progress"), [("equal", 0.0), ("equal", 0.9), ("linear", 0.5)])
def test_at_a_half_the_loss_is_that_of_the_network_s_own_answer(mode, decay, progress):
    model = network()
    objective = Bilateral(model, LOSSES.get("ce")(), decay=decay)
    objective.set_train(False)
    numerator, denominator, _ = objective(*columns(progress, second=FIRST, y_second=Y_FIRST))
    logits = model(Tensor(FIRST)).asnumpy().astype(np.float64)
    assert_close(numerator.asnumpy() / denominator.asnumpy(), losses(logits, Y_FIRST).mean())


@pytest.mark.parametrize("denominator", ["weights", "batch"])
def test_shares_and_weights_multiply(mode, denominator):
    """A loss with class weights, divided by the weights or by the number of images."""
    model, p = network(), 0.5
    weights = np.array([0.5, 1.0, 3.0, 10.0])
    objective = Bilateral(model, LOSSES.get("ce")(class_weights=weights, denominator=denominator))
    objective.set_train(False)
    numerator, denominator_, _ = objective(*columns(p))
    f_c, f_r = features_of(model)
    w = values(model)
    expected = totals(1 - p**2, f_c, f_r, Y_FIRST, Y_SECOND, w["head.weight"], w["head.bias"], weights)
    assert_close(numerator.asnumpy(), expected[0], factor=2)
    assert_close(denominator_.asnumpy(), expected[1] if denominator == "weights" else B)


@pytest.mark.parametrize("loss", WEIGHTED)
def test_halves_add_up_to_the_whole(mode, loss):
    model = network()
    objective = Bilateral(model, LOSSES.get(loss)(**WEIGHTED[loss][0]))
    objective.set_train(False)
    whole, *halves = (
        [t.asnumpy().astype(np.float64) for t in objective(*columns(0.5, *(a[part] for a in arrays)))]
        for arrays in [(FIRST, Y_FIRST, SECOND, Y_SECOND)]
        for part in (slice(0, B), slice(0, 3), slice(3, B))
    )
    added = [sum(parts) for parts in zip(*halves, strict=True)]
    assert_close(added[0] / added[1], whole[0] / whole[1])
    assert_close(added[2], whole[2])
    assert loss == "ce" or abs(halves[0][1] - halves[1][1]) > 0.1  # a mean of means would not do


def test_a_step_in_micro_batches_is_the_step(mode):
    """Where every image is for itself (running statistics), the weights after a step do not know how it was cut."""
    after = []
    for parts in (1, 2):
        model = network()
        for _, cell in model.cells_and_names():
            if isinstance(cell, Norm):
                cell.use_batch_statistics = False
        objective = Bilateral(model, LOSSES.get("cs_ce")(class_counts=COUNTS))
        step = TrainStep(objective, sgd(objective.trainable_params(), [0.01]), accumulate=parts)
        step.set_train()
        for part in range(parts):
            cut = slice(4 * part, 4 * (part + 1)) if parts > 1 else slice(0, B)  # 4 and 2 images
            arrays = columns(0.5, FIRST[cut], Y_FIRST[cut], SECOND[cut], Y_SECOND[cut])
            step(*arrays, *([Tensor([part], ms.int32)] if parts > 1 else []))
        after.append(values(model))
    start = values(network())
    for name, value in after[0].items():
        assert_close(after[1][name], value)
        if "moving" not in name:
            assert not np.array_equal(value, start[name]), name


def test_running_statistics_of_the_trunk_see_both_orders_and_those_of_a_branch_its_own(mode):
    model = MODELS.get("resnet8_cifar")(num_classes=C, branches=2, seed=3)
    objective = Bilateral(model, LOSSES.get("ce")())
    step = TrainStep(objective, sgd(objective.trainable_params(), [1e-3]))
    step.set_train()
    w = values(model)
    step(*columns(0.5))
    own, other = (first_convolution(w, images) for images in (FIRST, SECOND))
    count = own.size / own.shape[1]
    mean, variance = (x.mean(axis=(0, 2, 3)) for x in (own, other)), (x.var(axis=(0, 2, 3)) for x in (own, other))
    mean_c, mean_r = mean
    var_c, var_r = (v * count / (count - 1) for v in variance)
    bn = model.backbone.bn1
    assert_close(bn.moving_mean.asnumpy(), 0.9 * 0.1 * mean_c + 0.1 * mean_r)
    assert_close(bn.moving_variance.asnumpy(), 0.9 * (0.9 + 0.1 * var_c) + 0.1 * var_r)
    for side, images in zip(SIDES, (FIRST, SECOND), strict=True):
        alone = MODELS.get("resnet8_cifar")(num_classes=C, branches=2, seed=3).set_train()
        BranchFeatures(alone).set_train()(Tensor(images))
        for part in ("bn1", "bn2"):
            found, expected = (getattr(getattr(m.backbone.branches, side), part) for m in (model, alone))
            assert_close(found.moving_mean.asnumpy(), expected.moving_mean.asnumpy())
            assert_close(found.moving_variance.asnumpy(), expected.moving_variance.asnumpy())
