"""Batch normalisation with residual and rectified linear unit: values and gradients against float64, on every path."""

import copy
import os
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn, ops

from ms_longtail import runtime
from ms_longtail.kernels import extension
from ms_longtail.models import norm
from ms_longtail.models.norm import Norm, synchronise

EPS, OLD = 1e-5, 0.9
built = pytest.mark.skipif(extension.compiled() is None, reason="the extension was not built: no C++ compiler")


@pytest.fixture(params=[pytest.param("compiled", marks=built), "mindspore"])
def path(request, monkeypatch):
    """Both ways to compute it, whatever the environment of the test run says."""
    monkeypatch.delenv(runtime.CONVOLUTION_VARIABLE, raising=False)
    if request.param == "mindspore":
        monkeypatch.setenv(runtime.CONVOLUTION_VARIABLE, "gemm")
    return request.param


def reference(x, gamma, beta, mean, var, dz, residual, relu):
    """z, new moving mean and variance, and the gradients of sum(z dz): x, gamma, beta, residual. All float64.

    Ioffe & Szegedy, alg. 1 and the gradients that follow it.
    """
    axes, keep = (0, 2, 3), (None, slice(None), None, None)
    m = x.shape[0] * x.shape[2] * x.shape[3]
    mu, variance = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(variance + EPS)
    normal = (x - mu[keep]) * inverse[keep]
    z = gamma[keep] * normal + beta[keep] + residual
    dy = dz * (z > 0) if relu else dz
    z = np.maximum(z, 0) if relu else z
    dgamma, dbeta = (dy * normal).sum(axes), dy.sum(axes)
    dnormal = dy * gamma[keep]
    dx = inverse[keep] * (dnormal - dnormal.mean(axes)[keep] - normal * (dnormal * normal).mean(axes)[keep])
    moved = OLD * mean + (1 - OLD) * mu, OLD * var + (1 - OLD) * variance * m / max(m - 1, 1)
    return z, *moved, dx, dgamma, dbeta, dy


def draw(number):
    rng = np.random.default_rng((5, number))
    shape = tuple(
        int(rng.choice(sizes)) for sizes in ([2, 3, 8, 33], [1, 2, 5, 16, 40], [1, 3, 4, 7, 16], [2, 5, 8, 19])
    )
    x = (rng.standard_normal(shape) * rng.choice([0.1, 1, 30]) + rng.choice([-20, 0, 3])).astype(np.float32)
    c = shape[1]
    gamma, beta = rng.standard_normal((2, c)).astype(np.float32)
    mean, var = rng.standard_normal(c).astype(np.float32), rng.uniform(0.5, 2, c).astype(np.float32)
    dz, residual = rng.standard_normal((2, *shape)).astype(np.float32)
    return x, gamma, beta, mean, var, dz, residual, bool(number % 2), bool(number // 2 % 2)


def fill(cell, *values):
    """gamma, beta, moving mean and moving variance."""
    parameters = cell.gamma, cell.beta, cell.moving_mean, cell.moving_variance
    for parameter, value in zip(parameters, values, strict=True):
        parameter.set_data(Tensor(value))
    return cell.set_train()


def run(cell, x, dz, residual):
    """As `reference`, by the cell."""
    weights, added = Tensor(dz), residual is not None

    def loss(x, r):
        z = cell(x, r) if added else cell(x)
        return (z * weights).sum(), z

    parameters = [cell.gamma, cell.beta]
    args = Tensor(x), Tensor(residual if added else x)
    (_, z), (inputs, gradients) = ops.value_and_grad(loss, (0, 1), parameters, has_aux=True)(*args)
    result = [z, cell.moving_mean, cell.moving_variance, inputs[0], *gradients, *([inputs[1]] if added else [])]
    return [t.asnumpy() for t in result]


def check(number):
    x, gamma, beta, mean, var, dz, residual, relu, added = draw(number)
    cell = fill(Norm(x.shape[1], relu=relu), gamma, beta, mean, var)
    wide = [a.astype(np.float64) for a in (x, gamma, beta, mean, var, dz, residual * added)]
    if relu:  # a sum within rounding of 0 may fall on the other side in float32: no gradient comes to it
        near = np.abs(reference(*wide, False)[0]) < 1e-4
        dz[near] = wide[5][near] = 0
    expected = reference(*wide, relu)
    actual = run(cell, x, dz, residual if added else None)
    spread = max(1.0, np.abs(x).max() / x.std())  # the mean is subtracted in float32
    for a, e in zip(actual, expected, strict=False):
        assert_close(a, e, factor=spread * max(1.0, np.abs(e).max()))


@pytest.mark.parametrize("number", range(60))
def test_values_gradients_and_statistics_are_those_of_float64(path, number):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    check(number)


@pytest.mark.parametrize("number", range(60, 68))
def test_the_same_in_graph_mode(path, number):
    ms.set_context(mode=ms.GRAPH_MODE)
    check(number)


def test_in_evaluation_the_moving_statistics_are_used_and_stay(path, mode):
    x, gamma, beta, mean, var, _, residual, *_ = draw(3)
    cell = fill(Norm(x.shape[1], relu=True), gamma, beta, mean, var).set_train(False)
    keep = (None, slice(None), None, None)
    y = (x - mean[keep]) / np.sqrt(var[keep] + EPS) * gamma[keep] + beta[keep] + residual
    assert_close(cell(Tensor(x), Tensor(residual)).asnumpy(), np.maximum(y, 0), factor=np.abs(y).max())
    np.testing.assert_array_equal(cell.moving_mean.asnumpy(), mean)
    np.testing.assert_array_equal(cell.moving_variance.asnumpy(), var)


@pytest.mark.parametrize("use", [True, False])
def test_use_batch_statistics_overrules_the_mode_of_the_cell(path, use):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    x, gamma, beta, mean, var, *_ = draw(3)
    cell = fill(Norm(x.shape[1]), gamma, beta, mean, var).set_train(not use)
    cell.use_batch_statistics = use
    cell(Tensor(x)).asnumpy()
    assert np.array_equal(cell.moving_mean.asnumpy(), mean) is not use


def test_two_calls_in_one_step_move_the_statistics_twice(path, mode):
    class Twice(nn.Cell):
        def __init__(self):
            super().__init__()
            self.norm = Norm(4)

        def construct(self, x, y):
            return (self.norm(x) * self.norm(y)).sum()

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 6, 4, 3, 3)).astype(np.float32)
    network = Twice().set_train()
    ms.value_and_grad(network, None, network.trainable_params())(Tensor(x), Tensor(y))
    expected = OLD * (1 - OLD) * x.mean((0, 2, 3)) + (1 - OLD) * y.mean((0, 2, 3))
    assert_close(network.norm.moving_mean.asnumpy(), expected)


@pytest.mark.parametrize("sizes", [(None, 4, 5, 5), (None, 4, None, None)])
def test_shapes_that_are_not_known_when_the_graph_is_compiled(path, sizes):
    ms.set_context(mode=ms.GRAPH_MODE)
    cell = Norm(4, relu=True)
    cell.set_train()
    cell.set_inputs(Tensor(shape=list(sizes), dtype=ms.float32))
    for batch in (2, 7):
        x = np.random.default_rng(batch).standard_normal((batch, 4, 5, 5))
        ones, zeros = np.ones(4), np.zeros(4)
        z = reference(x, ones, zeros, zeros, ones, np.zeros_like(x), 0.0, relu=True)[0]
        assert_close(cell(Tensor(x, ms.float32)), z)


def test_names_and_values_are_those_of_nn_batch_norm():
    ours, theirs = Norm(4).parameters_dict(), nn.BatchNorm2d(4).parameters_dict()
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name].asnumpy(), theirs[name].asnumpy())


def test_a_copy_has_the_same_values(path, mode):
    x, gamma, beta, mean, var, dz, residual, *_ = draw(7)
    cell = fill(Norm(x.shape[1], relu=True), gamma, beta, mean, var)
    other = copy.deepcopy(cell).set_train()
    for a, b in zip(run(cell, x, dz, residual), run(other, x, dz, residual), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_a_number_stays_visible(mode):
    x = np.ones((2, 3, 4, 4), np.float32)
    x[0, 1, 2, 2] = np.nan
    moved = Norm(3).set_train()
    moved(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(np.isnan(moved.moving_mean.asnumpy()), [False, True, False])


@built
def test_the_compiled_one_does_not_hide_it_behind_the_unit(mode, monkeypatch):
    monkeypatch.delenv(runtime.CONVOLUTION_VARIABLE, raising=False)
    x = np.full((2, 3, 4, 5), np.nan, np.float32)
    assert np.isnan(Norm(3, relu=True).set_train()(Tensor(x)).asnumpy()).all()


def test_half_precision_goes_to_mindspores_own(path, mode):
    x, gamma, beta, mean, var, *_ = draw(1)
    single, half = (fill(Norm(x.shape[1], relu=True), gamma, beta, mean, var) for _ in range(2))
    result = nn.SequentialCell([half]).to_float(ms.float16)(Tensor(x))
    assert result.dtype == ms.float16
    expected = single(Tensor(x)).asnumpy()
    assert_close(result.asnumpy(), expected, "float16", factor=10 * max(1.0, np.abs(expected).max()))


@built
@pytest.mark.parametrize(
    ("channels", "x", "residual", "words"),
    [
        (4, (2, 8, 3, 3), None, r"x must have the shape \(N, 4, H, W\)"),
        (8, (2, 8, 9), None, "x must have the shape"),
        (8, (0, 8, 5, 5), None, r"x of shape \(0, 8, 5, 5\) has no values to normalise"),
        (8, (2, 8, 5, 5), (1, 8, 1, 1), "the residual must have the shape of x"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(mode, monkeypatch, channels, x, residual, words):
    monkeypatch.delenv(runtime.CONVOLUTION_VARIABLE, raising=False)
    more = () if residual is None else (Tensor(np.ones(residual, np.float32)),)
    with pytest.raises(Exception, match=words):
        Norm(channels).set_train()(Tensor(np.ones(x, np.float32)), *more).asnumpy()


def test_statistics_over_all_workers_where_the_device_has_them(monkeypatch):
    assert synchronise(Norm(4)) == "MindSpore has SyncBatchNorm for Ascend, not for CPU"

    class Synchronised:
        def __init__(self, channels, eps, momentum):
            self.bn_train = (channels, eps, round(momentum, 6))

    monkeypatch.setattr(norm.ms, "get_context", lambda name: "Ascend")
    monkeypatch.setattr(norm.nn, "SyncBatchNorm", Synchronised)
    cell = Norm(4, momentum=0.8)
    network = nn.SequentialCell([cell])
    assert synchronise(network) == ""
    assert cell.bn_train == (4, 1e-5, 0.8)


THREADS = """
import sys
import mindspore as ms, numpy as np
from mindspore import Tensor
from ms_longtail import runtime
runtime.start("cpu")
sys.path.insert(0, sys.argv[1])
import test_norm
results = []
# Cut in pieces are all but the first.
for shape in ((16, 40, 33, 31), (40, 16, 75, 77), (17, 2, 75, 77, 8), (17, 1, 75, 77, 16)):
    rng = np.random.default_rng(0)
    x, dz, residual = rng.standard_normal((3, *shape)).astype(np.float32)
    gamma, beta, mean, var = rng.uniform(0.5, 2, (4, 40 if len(results) == 0 else 16)).astype(np.float32)
    cell = test_norm.fill(test_norm.Norm(len(gamma), relu=True), gamma, beta, mean, var)
    results += test_norm.run(cell, x, dz, residual)
np.savez(sys.argv[2], *results)
"""


@built
def test_the_number_of_threads_changes_no_bit(tmp_path):
    results = []
    for threads in ("1", "2", "2"):
        file = tmp_path / f"{len(results)}.npz"
        environment = {k: v for k, v in os.environ.items() if k != runtime.CONVOLUTION_VARIABLE}
        environment |= {"OMP_NUM_THREADS": threads, "GLOG_v": "3"}
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        command = [sys.executable, "-c", THREADS, os.path.dirname(__file__), str(file)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        results.append(np.load(file))
    for name in results[0].files:
        for other in results[1:]:
            np.testing.assert_array_equal(results[0][name], other[name])
