"""The step cell against float64 NumPy: a linear model with weighted cross-entropy, momentum, decay, clipping."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Parameter, Tensor, nn, ops

from ms_longtail.losses import sums
from ms_longtail.parameters import assign
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 6)) * 0.3
WEIGHTS = np.array([1.0, 5.0, 0.5, 2.0])
X = RNG.normal(size=(12, 6))
Y = RNG.integers(0, 4, 12)


class Weighted(nn.Cell):
    """Cross-entropy weighted by class; `running` stands for a running statistic."""

    columns = ("image", "label")
    stateful, observed_shape, fixed = False, (1,), frozenset()

    def __init__(self):
        super().__init__(auto_prefix=False)
        self.weight = Parameter(Tensor(W, ms.float32), name="weight")
        self.running = Parameter(Tensor(np.zeros(6), ms.float32), name="running", requires_grad=False)
        self.class_weights = Tensor(WEIGHTS, ms.float32)

    def construct(self, x, y):
        x = ops.depend(x, ops.assign(self.running, 0.5 * self.running + 0.5 * x.mean(axis=0)))
        log_p = ops.log_softmax(ops.matmul(x, self.weight.T), axis=-1)
        loss = -ops.gather_elements(log_p, 1, y.reshape(-1, 1)).reshape(-1)
        return *sums(loss, ops.gather(self.class_weights, y, 0), "weights"), ops.zeros((1,), ms.float32)


def loss_and_gradient(w, x, y):
    """(sum w L, sum w, gradient of sum w L) in float64."""
    z = x @ w.T
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    weight = WEIGHTS[y]
    loss = -np.log(p[np.arange(len(y)), y])
    return (weight * loss).sum(), weight.sum(), ((p - np.eye(4)[y]) * weight[:, None]).T @ x


def reference(steps, lr=0.1, momentum=0.9, decay=0.01, clip=None):
    w, velocity, losses = W.copy(), np.zeros_like(W), []
    for _ in range(steps):
        numerator, denominator, gradient = loss_and_gradient(w, X, Y)
        gradient = gradient / denominator
        if clip is not None:
            gradient = gradient * min(1.0, clip / np.sqrt((gradient**2).sum()))
        velocity = momentum * velocity + gradient + decay * w
        w = w - lr * velocity
        losses.append(numerator / denominator)
    return w, losses


def make(steps=20, **settings):
    cell = Weighted()
    optimizer = sgd(cell.trainable_params(), [0.1] * steps, momentum=0.9, weight_decay=0.01)
    step = TrainStep(cell, optimizer, **settings)
    step.set_train()
    return cell, step


def tensors(x, y):
    return Tensor(x, ms.float32), Tensor(y, ms.int32)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_steps_follow_the_formulas(mode, scale, clip):
    cell, step = make(loss_scale=scale, clip_norm=clip)
    expected, losses = reference(3, clip=clip)
    for loss in losses:
        found, finite = step(*tensors(X, Y))
        assert bool(finite.asnumpy())
        assert_close(found.asnumpy(), loss)
    assert_close(cell.weight.asnumpy(), expected)
    assert_close(float(step.loss_sum.asnumpy()) / float(step.loss_weight.asnumpy()), np.mean(losses))


def test_accumulation_equals_the_whole_batch_with_weights(mode):
    cell, step = make(accumulate=3)
    expected, losses = reference(2)
    cuts = [(0, 5), (5, 8), (8, 12)]  # unequal, so that a mean of means would differ
    for loss in losses:
        for number, (a, b) in enumerate(cuts):
            found, _ = step(*tensors(X[a:b], Y[a:b]), Tensor([int(number == 2)], ms.int32))
        assert_close(found.asnumpy(), loss)
    assert_close(cell.weight.asnumpy(), expected)
    assert float(step.denominator.asnumpy()) == 0.0
    assert all((p.asnumpy() == 0).all() for p in step.accumulated)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_that_is_not_finite_changes_nothing(mode, accumulate, bad):
    cell, step = make(accumulate=accumulate)
    flag = (Tensor([1], ms.int32),) if accumulate > 1 else ()
    step(*tensors(X, Y), *flag)
    before = {p.name: p.asnumpy().copy() for p in step.get_parameters()}
    broken = X.copy()
    broken[3, 2] = bad
    for count in (1, 2):
        _, finite = step(*tensors(broken, Y), *flag)
        assert not bool(finite.asnumpy())
        assert int(step.skipped.asnumpy()) == count
        assert int(step.skipped_in_row.asnumpy()) == count
    counters = ("skipped", "skipped_in_row")
    for parameter in step.get_parameters():
        if parameter.name not in counters:
            np.testing.assert_array_equal(parameter.asnumpy(), before[parameter.name], err_msg=parameter.name)
    step(*tensors(X, Y), *flag)
    assert int(step.skipped_in_row.asnumpy()) == 0
    assert int(step.skipped.asnumpy()) == 2
    assert np.isfinite(cell.weight.asnumpy()).all()
    assert not np.array_equal(cell.running.asnumpy(), before["running"])


def test_assign_reaches_a_graph_that_has_run(mode):
    cell, step = make()
    step(*tensors(X, Y))
    step.reset_loss()
    assert float(step.loss_sum.asnumpy()) == 0.0
    loss, _ = step(*tensors(X, Y))
    assert_close(float(step.loss_sum.asnumpy()) / WEIGHTS[Y].sum(), loss.asnumpy())
    assign(cell.weight, W)
    again, _ = step(*tensors(X, Y))
    assert_close(again.asnumpy(), reference(1)[1][0])


def test_changing_batch_sizes(mode):
    _, step = make()
    step(*tensors(X, Y))
    part, _ = step(*tensors(X[:7], Y[:7]))
    assert np.isfinite(part.asnumpy())
    assert float(step.loss_weight.asnumpy()) == WEIGHTS[Y].sum() + WEIGHTS[Y[:7]].sum()
