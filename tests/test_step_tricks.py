"""L1, moving average, sharpness-aware minimization and dynamic loss scale, each against float64 NumPy."""

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor
from test_step import WEIGHTS, W, Weighted, X, Y, loss_and_gradient, make, tensors

from ms_longtail.training.average import averaged
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep


def descend(steps, *, rho=None, l1=0.0, clip=None, lr=0.1, momentum=0.9, decay=0.01):
    """Weights after every step of SGD with momentum, in float64, and the losses before them."""
    w, velocity = W.copy(), np.zeros_like(W)
    for _ in range(steps):
        numerator, denominator, gradient = loss_and_gradient(w, X, Y)
        gradient = gradient / denominator
        if rho is not None:
            _, _, gradient = loss_and_gradient(w + rho * gradient / np.linalg.norm(gradient), X, Y)
            gradient = gradient / denominator
        if clip is not None:
            gradient = gradient * min(1.0, clip / np.linalg.norm(gradient))
        velocity = momentum * velocity + gradient + l1 * np.sign(w) + decay * w
        w = w - lr * velocity
        yield w.copy(), numerator / denominator


@pytest.mark.parametrize(
    "settings", [{"rho": 0.5}, {"rho": 0.5, "clip": 0.05}, {"l1": 0.03}, {"l1": 0.03, "clip": 0.05}]
)
def test_sharpness_and_l1_follow_the_formulas(mode, settings):
    names = {"rho": "sam", "clip": "clip_norm", "l1": "l1"}
    cell, step = make(**{names[key]: value for key, value in settings.items()})
    plain = [w for w, _ in descend(3)][-1]
    for expected, loss in descend(3, **settings):
        found, finite = step(*tensors(X, Y))
        assert bool(finite.asnumpy())
        assert_close(found.asnumpy(), loss)
        assert_close(cell.weight.asnumpy(), expected)
    assert np.abs(cell.weight.asnumpy() - plain).max() > 1e-3


def test_running_statistics_move_once_in_a_sharpness_step(mode):
    cell, step = make(sam=0.5)
    step(*tensors(X, Y))
    assert_close(cell.running.asnumpy(), 0.5 * X.mean(axis=0))
    broken = X.copy()
    broken[0, 0] = np.nan
    before = {p.name: p.asnumpy().copy() for p in (cell.weight, cell.running)}
    _, finite = step(*tensors(broken, Y))
    assert not bool(finite.asnumpy())
    for parameter in (cell.weight, cell.running):
        np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name])


def test_sharpness_refuses_micro_batches():
    with pytest.raises(ValueError, match="accumulate"):
        make(sam=0.1, accumulate=2)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_follows_the_steps(mode, accumulate):
    decay = 0.3
    cell = Weighted()
    cell.model = SimpleNamespace(get_parameters=cell.get_parameters)  # the objective's network
    step = TrainStep(
        cell, sgd(cell.trainable_params(), [0.1] * 9, momentum=0.9, weight_decay=0.01), ema=decay, accumulate=accumulate
    )
    step.set_train()
    average, running, statistic = W.copy(), np.zeros(6), np.zeros(6)
    cuts = [slice(0, 12)] if accumulate == 1 else [slice(0, 5), slice(5, 12)]
    for t, (w, _) in enumerate(descend(5)):
        for number, cut in enumerate(cuts):
            flag = () if accumulate == 1 else (Tensor([int(number == 1)], ms.int32),)
            step(*tensors(X[cut], Y[cut]), *flag)
            statistic = 0.5 * statistic + 0.5 * X[cut].mean(axis=0)
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * w
        running = d * running + (1 - d) * statistic
        if t == 2:  # a step that is left out leaves the average as it is
            broken = np.full_like(X, np.nan)
            step(*tensors(broken, Y), *(() if accumulate == 1 else (Tensor([1], ms.int32),)))
    saved = {p.name: p for p in step.get_parameters()}
    assert_close(saved["ema.weight"].asnumpy(), average)
    assert_close(saved["ema.running"].asnumpy(), running)
    meant = averaged(saved)
    assert_close(meant["weight"].asnumpy(), average)
    assert "ema.weight" not in meant
    raw = cell.weight.asnumpy().copy()
    with step.average.in_place():
        assert_close(cell.weight.asnumpy(), average)
        assert_close(cell.running.asnumpy(), running)
    np.testing.assert_array_equal(cell.weight.asnumpy(), raw)
    step.average.hand_over()
    assert_close(cell.weight.asnumpy(), average)


def test_a_dynamic_loss_scale_halves_and_doubles(mode):
    cell, step = make(loss_scale="dynamic")
    step.loss_scale.interval = 3
    assert float(step.loss_scale.value.asnumpy()) == 2.0**16
    broken = X.copy()
    broken[1, 1] = np.inf
    scales = []
    for good in (True, True, False, True, True, True, True, False, False):
        step(*tensors(X if good else broken, Y))
        scales.append(np.log2(float(step.loss_scale.value.asnumpy())))
    assert scales == [16, 16, 15, 15, 15, 16, 16, 15, 14]
    assert_close(cell.weight.asnumpy(), [w for w, _ in descend(6)][-1])  # whatever the scale, and without the bad ones


def test_a_scale_too_large_for_the_type_comes_down(mode):
    _, step = make(loss_scale="dynamic")
    step.loss_scale.value.set_data(Tensor(2.0, ms.float32))
    huge = Y.copy()
    broken = X * np.inf
    for _ in range(4):
        step(*tensors(broken, huge))
    assert float(step.loss_scale.value.asnumpy()) == 1.0  # and no further
    assert int(step.skipped.asnumpy()) == 4
    assert WEIGHTS.min() > 0
