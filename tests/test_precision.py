"""Mixed precision, dropout and initial values against float64 NumPy."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn, ops

from ms_longtail.kernels import leave
from ms_longtail.models import Classifier
from ms_longtail.models.dropout import Dropout
from ms_longtail.models.precision import set_precision
from ms_longtail.registry import MODELS

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (6, 3, 8, 8)).astype(np.uint8)
KERNEL = RNG.normal(size=(5, 3, 8, 8)) * 0.1
HEAD, BIAS = RNG.normal(size=(4, 5)), RNG.normal(size=4)
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SLOPES = RNG.normal(size=(6, 4))


class Product(nn.Cell):
    """A backbone that is one convolution over the whole image: nothing that a rounding could switch on or off."""

    out_channels = 5

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 8, pad_mode="valid", weight_init=Tensor(KERNEL, ms.float32))

    def construct(self, x):
        return self.conv(x)


@pytest.mark.parametrize("level", ["O0", "O1", "O2", "O3"])
def test_values_and_gradients(mode, level):
    network = Classifier(Product(), 4, mean=MEAN, std=STD)
    network.head.weight.set_data(Tensor(HEAD, ms.float32))
    network.head.bias.set_data(Tensor(BIAS, ms.float32))
    set_precision(network, level)
    weights = ms.ParameterTuple(network.trainable_params())

    def weighted(x, g):
        return (network(x) * g).sum()

    step = ops.value_and_grad(weighted, None, weights)
    _, gradients = step(Tensor(PIXELS), Tensor(SLOPES, ms.float32))
    logits = network(Tensor(PIXELS))
    x = (PIXELS / 255.0 - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    features = np.einsum("bchw,dchw->bd", x, KERNEL)
    expected = features @ HEAD.T + BIAS
    slopes = {
        "backbone.conv.weight": np.einsum("bd,bchw->dchw", SLOPES @ HEAD, x),
        "head.weight": SLOPES.T @ features,
        "head.bias": SLOPES.sum(axis=0),
    }
    tolerance = 1e-5 if level == "O0" else 4e-3
    assert logits.dtype == ms.float32
    errors = [np.abs(logits.asnumpy() - expected).max() / np.abs(expected).max()]
    for parameter, gradient in zip(weights, gradients, strict=True):
        assert parameter.dtype == gradient.dtype == ms.float32
        true = slopes[parameter.name]
        errors.append(np.abs(gradient.asnumpy() - true).max() / np.abs(true).max())
    assert max(errors) < tolerance
    assert level == "O0" or max(errors) > 1e-5  # it really was half precision


def test_what_each_level_leaves_in_single_precision(mode):
    x = Tensor(RNG.normal(size=(2, 16, 4, 4)), ms.float32)
    types = {}
    for level in ("O0", "O1", "O2", "O3"):
        network = MODELS.get("resnet8_cifar")(num_classes=3)
        set_precision(network, level)
        block = network.backbone.layer1[0]
        types[level] = block.conv1(x).dtype, block.bn1(x).dtype, network.features(Tensor(np.zeros((2, 3, 8, 8)))).dtype
    single, half = ms.float32, ms.float16
    assert types == {
        "O0": (single, single, single),
        "O1": (half, single, single),
        "O2": (half, single, single),
        "O3": (half, half, single),
    }


def test_dropout_scales_and_follows_draw_numbers(mode):
    cell = Dropout(0.3, 200, seed=4)
    draws, features = Tensor(np.arange(500), ms.int32), Tensor(np.full((500, 200), 2.0), ms.float32)
    np.testing.assert_array_equal(cell.set_train(False)(features, draws).asnumpy(), features.asnumpy())
    cell.set_train()
    out = cell(features, draws).asnumpy()
    assert set(np.unique(np.round(out, 4))) == {0.0, np.round(np.float32(2.0 / 0.7), 4)}
    kept = out > 0
    assert abs(kept.mean() - 0.7) < 4 * np.sqrt(0.21 / kept.size)
    for axis in (0, 1):  # no image and no feature is special
        shares = kept.mean(axis=axis)
        assert np.abs(shares - 0.7).max() < 6 * np.sqrt(0.21 / kept.shape[axis])
    part = cell(features[100:130], draws[100:130]).asnumpy()
    np.testing.assert_array_equal(part, out[100:130])
    assert not np.array_equal(cell(features, draws + 500).asnumpy(), out)


@pytest.mark.parametrize("name", ["resnet8_cifar", "resnet10", "resnet50"])
def test_initial_values(name):
    sizes = {}
    for init in ("kaiming", "kaiming_fan_out", "xavier", "xavier_uniform"):
        network = MODELS.get(name)(num_classes=10, seed=1, init=init)
        sizes[init] = {p.name: p.asnumpy() for p in network.get_parameters() if p.ndim == 4 and p.size > 2000}
    for weight, value in sizes["kaiming"].items():
        out, channels, *kernel = value.shape
        fan_in, fan_out = channels * np.prod(kernel), out * np.prod(kernel)
        close = {"rel": 6 / np.sqrt(value.size)}
        assert value.std() == pytest.approx(np.sqrt(2 / fan_in), **close), weight
        assert sizes["kaiming_fan_out"][weight].std() == pytest.approx(np.sqrt(2 / fan_out), **close)
        assert sizes["xavier"][weight].std() == pytest.approx(np.sqrt(2 / (fan_in + fan_out)), **close)
        uniform = sizes["xavier_uniform"][weight]
        assert uniform.std() == pytest.approx(np.sqrt(2 / (fan_in + fan_out)), **close)
        assert np.abs(uniform).max() <= np.sqrt(6 / (fan_in + fan_out))


def test_zero_gamma_lets_blocks_begin_as_their_shortcuts(mode):
    x = Tensor(np.abs(RNG.normal(size=(2, 64, 4, 4))), ms.float32)
    for name in ("resnet10", "resnet8_cifar"):
        network = MODELS.get(name)(num_classes=3, zero_gamma=True)
        plain = MODELS.get(name)(num_classes=3)
        for before, after in zip(plain.get_parameters(), network.get_parameters(), strict=True):
            changed = not np.array_equal(before.asnumpy(), after.asnumpy())
            assert changed == (before.name.endswith("bn2.gamma") and "layer" in before.name), before.name
    block = MODELS.get("resnet18")(num_classes=3, zero_gamma=True).backbone.layer1[1].set_train()
    assert_close(leave(block(x)).asnumpy(), x.asnumpy())
