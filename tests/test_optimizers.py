"""Four steps of every optimizer, with another learning rate each, against the formulas in float64 NumPy."""

import inspect

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Parameter, Tensor, nn

from ms_longtail import recipe  # noqa: F401  (fills the registry)
from ms_longtail.registry import OPTIMIZERS
from ms_longtail.training.adabound import adabound
from ms_longtail.training.optimizers import adam, adamw, decay_groups, is_norm_or_bias, sgd

RATES = [0.1, 0.02, 0.3, 0.05]
SHAPES = {"weight": (4, 3), "bias": (4,), "gamma": (4,), "beta": (4,)}
RNG = np.random.default_rng(3)
START = {name: RNG.normal(1, 1, shape).astype(np.float32) for name, shape in SHAPES.items()}
GRADIENTS = [{name: RNG.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()} for _ in RATES]


class Small(nn.Cell):
    """A linear layer and the affine part of a norm."""

    def __init__(self):
        super().__init__()
        self.weight = Parameter(START["weight"].copy(), name="weight")
        self.bias = Parameter(START["bias"].copy(), name="bias")
        self.gamma = Parameter(START["gamma"].copy(), name="gamma")
        self.beta = Parameter(START["beta"].copy(), name="beta")


class Update(nn.Cell):
    """The optimizer called from inside a network, as the train step does."""

    def __init__(self, optimizer):
        super().__init__(auto_prefix=False)
        self.optimizer = optimizer

    def construct(self, *gradients):
        return self.optimizer(gradients)


def trajectory(build, inside=False, **settings):
    """Parameters after each step, as {name: array}."""
    net = Small()
    optimizer = build(net.trainable_params(), list(RATES), **settings)
    update = Update(optimizer) if inside else None
    states = []
    for gradients in GRADIENTS:
        tensors = tuple(Tensor(gradients[p.name]) for p in net.trainable_params())
        if inside:
            update(*tensors)
        else:
            optimizer(tensors)
        states.append({p.name: p.asnumpy().copy() for p in net.trainable_params()})
    return states


def decayed(name, decay_norm_and_bias):
    return decay_norm_and_bias or name == "weight"


def sgd_by_hand(momentum, nesterov, weight_decay, decay_norm_and_bias):
    p = {name: value.astype(np.float64) for name, value in START.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    for lr, gradients in zip(RATES, GRADIENTS, strict=True):
        for name in p:
            g = gradients[name] + (weight_decay * p[name] if decayed(name, decay_norm_and_bias) else 0)
            v[name] = momentum * v[name] + g
            p[name] = p[name] - lr * (g + momentum * v[name] if nesterov else v[name])
        yield {name: value.copy() for name, value in p.items()}


def adam_by_hand(beta1, beta2, epsilon, weight_decay, decay_norm_and_bias, decoupled):
    """Kingma, Ba, algorithm 1; decoupled: Loshchilov, Hutter, algorithm 2, with alpha = 1 and eta the learning rate."""
    p = {name: value.astype(np.float64) for name, value in START.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    for t, (lr, gradients) in enumerate(zip(RATES, GRADIENTS, strict=True), start=1):
        for name in p:
            decay = weight_decay if decayed(name, decay_norm_and_bias) else 0
            g = gradients[name].astype(np.float64)
            if not decoupled:
                g = g + decay * p[name]
            m[name] = beta1 * m[name] + (1 - beta1) * g
            v[name] = beta2 * v[name] + (1 - beta2) * g**2
            m_hat = m[name] / (1 - beta1**t)
            v_hat = v[name] / (1 - beta2**t)
            shrink = lr * decay * p[name] if decoupled else 0
            p[name] = p[name] - lr * m_hat / (np.sqrt(v_hat) + epsilon) - shrink
        yield {name: value.copy() for name, value in p.items()}


def assert_same(states, expected):
    expected = list(expected)
    assert len(states) == len(expected) == len(RATES)
    for state, reference in zip(states, expected, strict=True):
        for name in SHAPES:
            assert_close(state[name], reference[name])


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize(
    ("momentum", "nesterov", "weight_decay"), [(0.9, False, 0.2), (0.9, True, 0.2), (0.0, False, 0.2), (0.5, True, 0.0)]
)
def test_sgd(mode, momentum, nesterov, weight_decay, decay_norm_and_bias):
    settings = {
        "momentum": momentum,
        "nesterov": nesterov,
        "weight_decay": weight_decay,
        "decay_norm_and_bias": decay_norm_and_bias,
    }
    assert_same(trajectory(sgd, **settings), sgd_by_hand(**settings))


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize(("beta1", "beta2", "weight_decay"), [(0.9, 0.999, 0.2), (0.6, 0.8, 0.0)])
def test_adam(mode, beta1, beta2, weight_decay, decay_norm_and_bias):
    settings = {
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": 1e-8,
        "weight_decay": weight_decay,
        "decay_norm_and_bias": decay_norm_and_bias,
    }
    assert_same(trajectory(adam, **settings), adam_by_hand(**settings, decoupled=False))


@pytest.mark.parametrize("decay_norm_and_bias", [True, False])
@pytest.mark.parametrize(("beta1", "beta2", "weight_decay"), [(0.9, 0.999, 0.2), (0.6, 0.8, 0.5), (0.9, 0.99, 0.0)])
def test_adamw(mode, beta1, beta2, weight_decay, decay_norm_and_bias):
    settings = {
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": 1e-8,
        "weight_decay": weight_decay,
        "decay_norm_and_bias": decay_norm_and_bias,
    }
    assert_same(trajectory(adamw, **settings), adam_by_hand(**settings, decoupled=True))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_defaults_inside_a_network(mode, name):
    """As the train step calls it, with the defaults that the docstrings of the optimizers name."""
    build = OPTIMIZERS.get(name)
    expected = {
        "sgd": sgd_by_hand(0.9, False, 2e-4, True),
        "adam": adam_by_hand(0.9, 0.999, 1e-8, 0.0, True, decoupled=False),
        "adamw": adam_by_hand(0.9, 0.999, 1e-8, 0.05, False, decoupled=True),
    }[name]
    # `lr` and `reference_batch` are the plan's business: the list of rates is complete.
    assert_same(trajectory(build, inside=True, lr=7.0, reference_batch=999), expected)


def test_adam_and_adamw_differ_only_by_the_place_of_the_decay(mode):
    settings = {"weight_decay": 0.0, "decay_norm_and_bias": True}
    for one, other in zip(trajectory(adam, **settings), trajectory(adamw, **settings), strict=True):
        for name in SHAPES:
            assert_close(one[name], other[name])
    settings["weight_decay"] = 0.2
    one, other = trajectory(adam, **settings)[-1], trajectory(adamw, **settings)[-1]
    assert np.abs(one["weight"] - other["weight"]).max() > 1e-2


def test_a_rate_of_zero_changes_nothing_but_the_state(mode):
    """Warm-ups begin at 0: the weights stay, the momentum is gathered all the same."""
    net = Small()
    optimizer = sgd(net.trainable_params(), [0.0, 0.5], momentum=0.9, weight_decay=0.0)
    gradients = tuple(Tensor(np.ones(p.shape, np.float32)) for p in net.trainable_params())
    optimizer(gradients)
    for p in net.trainable_params():
        np.testing.assert_array_equal(p.asnumpy(), START[p.name])
    optimizer(gradients)
    for p in net.trainable_params():
        assert_close(p.asnumpy(), START[p.name] - 0.5 * 1.9)


def test_adamw_at_a_rate_of_zero_does_not_decay(mode):
    net = Small()
    optimizer = adamw(net.trainable_params(), [0.0, 0.5], weight_decay=0.5, decay_norm_and_bias=True)
    optimizer(tuple(Tensor(np.ones(p.shape, np.float32)) for p in net.trainable_params()))
    for p in net.trainable_params():
        np.testing.assert_array_equal(p.asnumpy(), START[p.name])


def test_weights_alone_or_biases_alone(mode):
    """A head alone: only a weight, or only a bias, so that one of the two groups is empty."""
    for name in ("weight", "bias"):
        parameter = Parameter(START[name].copy(), name=name)
        optimizer = sgd([parameter], [0.1], weight_decay=0.2, momentum=0.0, decay_norm_and_bias=False)
        optimizer((Tensor(GRADIENTS[0][name]),))
        decay = 0.2 if name == "weight" else 0.0
        p = START[name].astype(np.float64)
        assert_close(parameter.asnumpy(), p - 0.1 * (GRADIENTS[0][name] + decay * p))


def test_groups_name_every_parameter_once_and_keep_the_order():
    parameters = Small().trainable_params()
    for everything, sizes in ((True, [4]), (False, [1, 3])):
        *groups, order = decay_groups(iter(parameters), 0.1, everything)
        assert [len(group["params"]) for group in groups] == sizes
        assert [p.name for p in order["order_params"]] == list(SHAPES)
    assert groups[0]["weight_decay"] == 0.1
    assert groups[1]["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("layer.weight", (4, 3), False),
        ("conv.weight", (4, 3, 3, 3), False),
        ("layer.bias", (4,), True),
        ("norm.gamma", (4,), True),
        ("norm.beta", (4,), True),
        ("head.scale", (), True),
    ],
)
def test_what_counts_as_norm_or_bias(name, shape, expected):
    assert is_norm_or_bias(Parameter(Tensor(np.ones(shape), ms.float32), name=name)) is expected


def test_every_optimizer_of_the_registry_takes_what_the_plan_needs():
    for name in OPTIMIZERS:
        parameters = inspect.signature(OPTIMIZERS.get(name)).parameters
        assert list(parameters)[:2] == ["parameters", "learning_rate"], name
        assert parameters["reference_batch"].default is None, name
        assert parameters["lr"].default > 0, name


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_adabound_over_a_hundred_steps(mode, weight_decay):
    """Luo et al., algorithm 2 with the bias correction and the bounds of the released program, in float64."""
    rng = np.random.default_rng(3)
    beta1, beta2, epsilon, final, gamma, base = 0.9, 0.99, 1e-8, 0.05, 0.05, 0.02
    rates = base * (0.5 + 0.5 * np.cos(np.linspace(0, 2, 100)))
    start, gradients = rng.normal(size=(3, 4)), rng.normal(size=(100, 3, 4)) * 10.0 ** rng.uniform(-3, 1, (3, 4))
    cell = Parameter(Tensor(start, ms.float32), name="weight")
    settings = {"lr": base, "final_lr": final, "gamma": gamma, "beta1": beta1, "beta2": beta2, "epsilon": epsilon}
    optimizer = adabound([cell], [float(r) for r in rates], weight_decay=weight_decay, **settings)
    p, m, v, clipped = start.copy(), np.zeros((3, 4)), np.zeros((3, 4)), 0
    for t, (lr, gradient) in enumerate(zip(rates, gradients, strict=True), start=1):
        optimizer((Tensor(gradient, ms.float32),))
        g = gradient + weight_decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        size = lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) / (np.sqrt(v) + epsilon)
        low, high = (final * lr / base * (1 - 1 / (gamma * t + 1)), final * lr / base * (1 + 1 / (gamma * t)))
        clipped += int(((size < low) | (size > high)).sum())
        p = p - np.clip(size, low, high) * m
    np.testing.assert_allclose(cell.asnumpy(), p, rtol=2e-4, atol=2e-5)
    assert 100 < clipped < 1200  # both the bounds and what lies between them were met
