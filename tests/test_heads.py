"""Heads that correct a linear classifier's logits, LWS and DisAlign: formulas, gradients, beginning, and weight decay."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor
from test_bilateral import slopes

import ms_longtail.models  # noqa: F401  (fills the registry)
from ms_longtail.models import DisAlign, LearnableScale, Linear, initialise
from ms_longtail.parameters import assign
from ms_longtail.registry import MODELS
from ms_longtail.training.optimizers import adam, adamw, sgd

B, C, D = 7, 5, 12
RNG = np.random.default_rng(5)
FEATURES = RNG.normal(size=(B, D)).astype(np.float32)
DLOGITS = RNG.normal(size=(B, C)).astype(np.float32)  # what the linear functional weighs the logits with
HEADS = {"lws": LearnableScale, "disalign": DisAlign}
CALIBRATION = {"lws": {"scale": C}, "disalign": {"scale": C, "shift": C, "weight": D, "offset": 1}}
NEUTRAL = {"lws": 1.0, "disalign": 0.0}
IMAGES = RNG.integers(0, 256, (4, 3, 16, 16)).astype(np.uint8)


def logits_of(kind, f, v):
    """lws: (W f + b)_c s_c; disalign: (1 + s_c q) z_c + b'_c q, q = sigmoid(v f + u), z = W f + b; in float64."""
    z = f @ v["weight"].T + v["bias"]
    if kind == "lws":
        return z * v["calibration.scale"]
    q = 1 / (1 + np.exp(-(f @ v["calibration.weight"] + v["calibration.offset"])))[:, None]
    return (1 + v["calibration.scale"] * q) * z + v["calibration.shift"] * q


def filled(kind):
    """(a head with random values in every parameter, those values in float64)."""
    head = HEADS[kind](D, C)
    rng = np.random.default_rng(2)
    values = {}
    for name, parameter in head.parameters_and_names():
        value = rng.normal(size=parameter.shape).astype(np.float32)
        assign(parameter, value)
        values[name] = value.astype(np.float64)
    return head, values


def whole(head):
    return MODELS.get("resnet8_cifar")(num_classes=C, seed=4, head=head)


@pytest.mark.parametrize("kind", HEADS)
def test_parameters(kind):
    head = HEADS[kind](D, C)
    shapes = {name: p.shape for name, p in head.parameters_and_names()}
    own = {f"calibration.{name}": (size,) for name, size in CALIBRATION[kind].items()}
    assert shapes == {"weight": (C, D), "bias": (C,), **own}
    assert all(p.requires_grad for p in head.get_parameters())
    initialise(head, 3)  # draws W alone
    for name in own:
        values = dict(head.parameters_and_names())[name].asnumpy()
        np.testing.assert_array_equal(values, np.full(own[name], NEUTRAL[kind], np.float32))


@pytest.mark.parametrize("kind", HEADS)
def test_logits(mode, kind):
    head, values = filled(kind)
    assert_close(head(Tensor(FEATURES)).asnumpy(), logits_of(kind, FEATURES.astype(np.float64), values), factor=5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_confidence_that_saturates(mode, sign):
    """q at 0 or 1: the logits are z, or (1 + s) z + b, and nothing overflows."""
    head, values = filled("disalign")
    assign(head.calibration.offset, np.full(1, 1000.0 * sign))
    found = head(Tensor(FEATURES)).asnumpy()
    z = FEATURES.astype(np.float64) @ values["weight"].T + values["bias"]
    expected = z if sign < 0 else (1 + values["calibration.scale"]) * z + values["calibration.shift"]
    assert_close(found, expected, factor=5)


@pytest.mark.parametrize("kind", HEADS)
def test_gradients_against_central_differences(mode, kind):
    head, values = filled(kind)
    parameters = list(head.get_parameters())
    names = [name for name, _ in head.parameters_and_names()]
    weights = Tensor(DLOGITS)

    def functional(features):
        return (head(features) * weights).sum()

    step = ms.value_and_grad(functional, 0, ms.ParameterTuple(parameters))
    value, (of_features, gradients) = step(Tensor(FEATURES))
    f = FEATURES.astype(np.float64)

    def at(f, values):
        return (logits_of(kind, f, values) * DLOGITS).sum()

    assert_close(value.asnumpy(), at(f, values), factor=20)
    for name, gradient in zip(names, gradients, strict=True):
        expected = slopes(lambda v, name=name: at(f, values | {name: v}), values[name])
        assert np.abs(expected).max() > 1e-2, name
        assert_close(gradient.asnumpy(), expected, factor=max(5.0, np.abs(expected).max()))
    expected = slopes(lambda v: at(v, values), f)
    assert_close(of_features.asnumpy(), expected, factor=max(5.0, np.abs(expected).max()))


@pytest.mark.parametrize("training", [False, True])
def test_a_network_begins_with_the_linear_head_s_logits_to_the_last_bit(mode, training):
    def logits(head):
        network = whole(head)
        assert type(network.head) is {"linear": Linear, **HEADS}[head]
        assign(network.head.bias, np.linspace(-1, 1, C))
        network.set_train(training)
        return network(Tensor(IMAGES)).asnumpy()

    linear = logits("linear")
    assert np.abs(linear).max() > 0.1
    for head in HEADS:
        np.testing.assert_array_equal(logits(head), linear)


@pytest.mark.parametrize("kind", HEADS)
def test_the_other_weights_are_drawn_as_with_a_linear_head(kind):
    linear, other = ({p.name: p.asnumpy() for p in whole(head).get_parameters()} for head in ("linear", kind))
    assert set(other) - set(linear) == {f"head.calibration.{name}" for name in CALIBRATION[kind]}
    for name, value in linear.items():
        np.testing.assert_array_equal(other[name], value)


OPTIMIZERS = {
    "sgd": (sgd, {}),
    "sgd with nesterov": (sgd, {"nesterov": True}),
    "adam": (adam, {}),
    "adamw": (adamw, {}),
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("everything", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_passes_the_corrections_over(mode, name, everything, kind):
    """With gradients of zero nothing but the decay can move a weight."""
    build, settings = OPTIMIZERS[name]
    network = whole(kind)
    assign(network.head.bias, np.ones(C))
    weights = network.trainable_params()
    optimizer = build(weights, [0.1] * 3, weight_decay=0.5, decay_norm_and_bias=everything, **settings)
    before = {p.name: p.asnumpy().copy() for p in weights}
    gradients = tuple(Tensor(np.zeros(p.shape, np.float32)) for p in weights)
    for _ in range(3):
        optimizer(gradients)
    after = {p.name: p.asnumpy() for p in weights}
    corrections = {n for n in after if n.startswith("head.calibration.")}
    assert corrections == {f"head.calibration.{n}" for n in CALIBRATION[kind]}
    for n in corrections:
        np.testing.assert_array_equal(after[n], np.full(before[n].shape, NEUTRAL[kind], np.float32), err_msg=n)
    for n in ("head.weight", "backbone.conv1.weight"):
        assert np.linalg.norm(after[n]) < 0.99 * np.linalg.norm(before[n]), n
    for n in ("head.bias", "backbone.bn1.gamma"):
        assert (after[n] < before[n]).all() if everything else (after[n] == before[n]).all(), n


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_corrections_that_are_not_neutral_stay_as_well(mode, name):
    build, settings = OPTIMIZERS[name]
    network = whole("disalign")
    corrections = list(network.head.calibration.get_parameters())
    rng = np.random.default_rng(0)
    for parameter in corrections:
        assign(parameter, rng.normal(size=parameter.shape))
    before = [p.asnumpy().copy() for p in corrections]
    optimizer = build(corrections, [0.1], weight_decay=0.5, decay_norm_and_bias=True, **settings)  # as in stage 2
    optimizer(tuple(Tensor(np.zeros(p.shape, np.float32)) for p in corrections))
    for parameter, value in zip(corrections, before, strict=True):
        np.testing.assert_array_equal(parameter.asnumpy(), value, err_msg=parameter.name)
