"""The bilateral-branch network (Zhou et al., CVPR 2020) against float64: its size, both branches, its loss and gradients."""

from functools import cache

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn
from test_models import count_by_hand

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
    """f_c of the first images and f_r of the second."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, first, second):
        return self.model.branch_features(first, False), self.model.branch_features(second, True)


class Features(nn.Cell):
    """(features, logits)."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images):
        return self.model.features(images), self.model(images)


# ---- the formulas, in float64


def convolve(x, w, stride):
    """3x3 convolution with padding 1."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, w, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


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
    """(sum of a w L(z, y_c) + (1-a) w L(z, y_r), sum of a w + (1-a) w), z = W [2 a f_c, 2 (1-a) f_r] + b.

    w is the weight of the label's class.
    """
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
    model = MODELS.get("resnet50")(num_classes=1000, branches=2)
    bottleneck = 2048 * 512 + 9 * 512 * 512 + 512 * 2048 + 2 * (512 + 512 + 2048)
    published = 25_557_032  # with one branch
    assert sum(p.size for p in model.trainable_params()) == published + bottleneck + 2048 * 1000


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
    found, logits = (t.asnumpy() for t in Features(model)(Tensor(FIRST)))
    assert found.shape == (B, 2 * D)
    assert_close(found, np.concatenate([f_c, f_r], axis=1), factor=5 * scale)
    assert_close(logits, np.concatenate([f_c, f_r], axis=1) @ w["head.weight"].T + w["head.bias"], factor=10 * scale)


def test_features_of_each_branch(mode):
    model = network()
    w = values(model)
    expected = pooled(w, FIRST, "conventional"), pooled(w, SECOND, "rebalancing")
    for found, features in zip(BranchFeatures(model)(Tensor(FIRST), Tensor(SECOND)), expected, strict=True):
        assert_close(found.asnumpy(), features, factor=5 * max(1.0, np.abs(features).max()))


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


@cache
def features_of(mode):
    """(f_c of the first images, f_r of the second) as the network has them."""
    branches = BranchFeatures(network())
    return tuple(f.asnumpy().astype(np.float64) for f in branches(Tensor(FIRST), Tensor(SECOND)))


def quotient_of(objective):
    """Columns -> the mean loss, by itself and as the two sums."""

    def function(*args):
        numerator, denominator, _ = objective(*args)
        return numerator / denominator, numerator, denominator

    return function


CLASS_WEIGHTS = np.array([0.5, 1.0, 3.0, 10.0])
# (decay, name of a loss, its settings, its class weights, whether it is divided by them)
CASES = {
    **{decay: (decay, "ce", {}, np.ones(C), True) for decay in SHARE},
    "inverse frequency": ("parabolic", "cs_ce", {"class_counts": COUNTS}, min(COUNTS) / np.array(COUNTS), True),
    "weighted": ("cosine", "ce", {"class_weights": CLASS_WEIGHTS}, CLASS_WEIGHTS, True),
    "by images": ("linear", "ce", {"class_weights": CLASS_WEIGHTS, "denominator": "batch"}, CLASS_WEIGHTS, False),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_the_head_s_gradient(mode, case):
    decay, loss, settings, class_weights, by_weights = CASES[case]
    model = network()
    objective = Bilateral(model, LOSSES.get(loss)(**settings), decay=decay)
    objective.set_train(False)
    w = values(model)
    f_c, f_r = features_of(mode)
    weight, bias = w["head.weight"], w["head.bias"]
    variables = ms.ParameterTuple([model.head.weight, model.head.bias])
    step = ms.value_and_grad(quotient_of(objective), None, variables, has_aux=True)
    for p in PROGRESS:
        (value, numerator, denominator), gradients = step(*columns(p))
        a = SHARE[decay](p)

        def sums_at(weight, bias, a=a):
            numerator, denominator = totals(a, f_c, f_r, Y_FIRST, Y_SECOND, weight, bias, class_weights)
            return numerator, denominator if by_weights else B

        def mean_at(weight, bias, sums_at=sums_at):
            numerator, denominator = sums_at(weight, bias)
            return numerator / denominator

        expected = sums_at(weight, bias)
        size = max(1.0, mean_at(weight, bias))
        assert_close(numerator.asnumpy(), expected[0], factor=size)
        assert_close(denominator.asnumpy(), expected[1])
        assert_close(value.asnumpy(), expected[0] / expected[1], factor=size)
        of_weight = slopes(lambda v, mean_at=mean_at: mean_at(v, bias), weight)
        assert_close(gradients[0].asnumpy(), of_weight, factor=max(1.0, np.abs(of_weight).max()))
        of_bias = slopes(lambda v, mean_at=mean_at: mean_at(weight, v), bias)
        assert_close(gradients[1].asnumpy(), of_bias, factor=max(1.0, np.abs(of_bias).max()))


def test_parabolic_is_what_it_does_unasked():
    model = network()
    found = [
        [t.asnumpy() for t in Bilateral(model, LOSSES.get("ce")(), **settings)(*columns(0.5))[:2]]
        for settings in ({}, {"decay": "parabolic"}, {"decay": "linear"})
    ]
    np.testing.assert_array_equal(found[0], found[1])
    assert abs(found[0][0] - found[2][0]) > 1e-3


@cache
def slopes_of_all(p):
    """(loss, name -> (direction, slope along it)) from pixels to the loss, parabolic, in float64."""
    model = network()
    w, a, rng, found = values(model), 1 - p**2, np.random.default_rng(0), {}

    def loss_at(w):
        f_c, f_r = pooled(w, FIRST, "conventional"), pooled(w, SECOND, "rebalancing")
        return mean_loss(a, f_c, f_r, Y_FIRST, Y_SECOND, w["head.weight"], w["head.bias"])

    for parameter in model.trainable_params():
        direction = rng.normal(size=parameter.shape)
        direction /= np.linalg.norm(direction)
        up, down = (loss_at(w | {parameter.name: w[parameter.name] + s * direction}) for s in (1e-5, -1e-5))
        found[parameter.name] = direction, (up - down) / 2e-5
    return loss_at(w), found


def test_gradient_of_the_whole_network_against_central_differences(mode):
    model, p = network(), 0.6
    objective = Bilateral(model, LOSSES.get("ce")())
    objective.set_train(False)
    weights = model.trainable_params()
    step = ms.value_and_grad(quotient_of(objective), None, ms.ParameterTuple(weights), has_aux=True)
    (value, *_), gradients = step(*columns(p))
    expected, directions = slopes_of_all(p)
    assert_close(value.asnumpy(), expected)
    for parameter, gradient in zip(weights, gradients, strict=True):
        direction, slope = directions[parameter.name]
        found = (gradient.asnumpy().astype(np.float64) * direction).sum()
        assert abs(found - slope) < 1e-4 * max(1.0, abs(slope)), parameter.name


def test_at_the_beginning_the_conventional_branch_is_alone(mode):
    """a = 1: value, gradient and the second images all say so. (The other decays' a is seen in the value.)"""
    model = network()
    objective = Bilateral(model, LOSSES.get("ce")())
    objective.set_train(False)
    w = values(model)
    f_c = pooled(w, FIRST, "conventional")
    z = 2 * np.concatenate([f_c, 0 * f_c], axis=1) @ w["head.weight"].T + w["head.bias"]
    weights = ms.ParameterTuple(model.trainable_params())
    step = ms.value_and_grad(quotient_of(objective), None, weights, has_aux=True)
    (value, *_), gradients = step(*columns(0.0))
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
    (other_value, *_), others = step(*columns(0.0, second=SECOND[::-1].copy(), y_second=(Y_SECOND + 1) % C))
    np.testing.assert_array_equal(other_value.asnumpy(), value.asnumpy())
    for parameter, gradient in zip(weights, others, strict=True):
        np.testing.assert_array_equal(gradient.asnumpy(), found[parameter.name], err_msg=parameter.name)


def test_at_a_half_the_loss_is_that_of_the_network_s_own_answer(mode):
    model = network()
    logits = model(Tensor(FIRST)).asnumpy().astype(np.float64)
    for decay, progress in (("equal", 0.9), ("linear", 0.5)):
        objective = Bilateral(model, LOSSES.get("ce")(), decay=decay)
        objective.set_train(False)
        numerator, denominator, _ = objective(*columns(progress, second=FIRST, y_second=Y_FIRST))
        assert_close(numerator.asnumpy() / denominator.asnumpy(), losses(logits, Y_FIRST).mean())


def test_halves_add_up_to_the_whole(mode):
    objective = Bilateral(network(), LOSSES.get("cs_ce")(class_counts=COUNTS))
    objective.set_train(False)
    arrays = FIRST, Y_FIRST, SECOND, Y_SECOND
    whole, *halves = (
        [t.asnumpy().astype(np.float64) for t in objective(*columns(0.5, *(a[part] for a in arrays)))]
        for part in (slice(0, B), slice(0, 3), slice(3, B))
    )
    added = [sum(parts) for parts in zip(*halves, strict=True)]
    assert_close(added[0] / added[1], whole[0] / whole[1])
    assert_close(added[2], whole[2])
    assert abs(halves[0][1] - halves[1][1]) > 0.1  # a mean of means would not do


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
            cut = slice(3 * part, 3 * (part + 1)) if parts > 1 else slice(0, B)
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
    alone = BranchFeatures(MODELS.get("resnet8_cifar")(num_classes=C, branches=2, seed=3)).set_train()
    alone(Tensor(FIRST), Tensor(SECOND))
    for side in SIDES:
        for part in ("bn1", "bn2"):
            found, expected = (getattr(getattr(m.backbone.branches, side), part) for m in (model, alone.model))
            assert_close(found.moving_mean.asnumpy(), expected.moving_mean.asnumpy())
            assert_close(found.moving_variance.asnumpy(), expected.moving_variance.asnumpy())
            assert np.abs(found.moving_mean.asnumpy()).max() > 1e-3
