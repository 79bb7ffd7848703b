import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor

from ms_longtail.losses import CrossEntropy
from ms_longtail.models import CifarResNet, Classifier, Cosine, Linear, initialise
from ms_longtail.registry import MODELS

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)


def count_by_hand(depth, classes):
    """Weights of a CIFAR ResNet with option-A shortcuts, from its description."""
    n = (depth - 2) // 6
    total, inputs = 3 * 16 * 9 + 2 * 16, 16
    for channels in (16, 32, 64):
        for _ in range(n):
            total += 9 * inputs * channels + 9 * channels * channels + 4 * channels
            inputs = channels
    return total + 64 * classes + classes


@pytest.mark.parametrize("depth", [8, 20, 32, 44, 56, 110])
def test_parameter_counts(depth):
    network = MODELS.get(f"resnet{depth}_cifar")(num_classes=10)
    assert sum(p.size for p in network.trainable_params()) == count_by_hand(depth, 10)


def test_resnet32_has_the_published_size():
    assert 460_000 <= count_by_hand(32, 10) <= 470_000
    assert 460_000 <= count_by_hand(32, 100) <= 471_000


def test_unknown_depth():
    with pytest.raises(ValueError, match="not 18"):
        CifarResNet(18)


def convolve(x, w, stride):
    """3x3 convolution with padding 1, float64."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::stride, ::stride]
    return np.einsum("bchwij,ocij->bohw", windows, w)


def forward(weights, images, depth):
    """The whole network with running statistics, from He et al. (2016), in float64."""

    def bn(x, name):
        mean, var, gamma, beta = (
            weights[f"{name}.{part}"].reshape(1, -1, 1, 1)
            for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta

    mean = np.array([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1)
    std = np.array([0.2023, 0.1994, 0.2010]).reshape(1, 3, 1, 1)
    x = (images / 255 - mean) / std
    x = np.maximum(bn(convolve(x, weights["backbone.conv1.weight"], 1), "backbone.bn1"), 0)
    for layer in (1, 2, 3):
        for block in range((depth - 2) // 6):
            stride = 2 if layer > 1 and block == 0 else 1
            name = f"backbone.layer{layer}.{block}"
            y = np.maximum(bn(convolve(x, weights[f"{name}.conv1.weight"], stride), f"{name}.bn1"), 0)
            y = bn(convolve(y, weights[f"{name}.conv2.weight"], 1), f"{name}.bn2")
            shortcut = x[:, :, ::stride, ::stride]
            extra = (y.shape[1] - x.shape[1]) // 2
            x = np.maximum(y + np.pad(shortcut, ((0, 0), (extra, extra), (0, 0), (0, 0))), 0)
    features = x.mean(axis=(2, 3))
    return x, features, features @ weights["head.weight"].T + weights["head.bias"]


def test_forward_pass_against_numpy(mode):
    network = MODELS.get("resnet8_cifar")(num_classes=5, seed=3)
    rng = np.random.default_rng(1)
    for parameter in network.get_parameters():  # running statistics that are not the trivial ones
        if "moving" in parameter.name or parameter.name.endswith(("gamma", "beta")):
            parameter.set_data(Tensor(rng.uniform(0.5, 1.5, parameter.shape), ms.float32))
    network.set_train(False)
    weights = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    feature_map, features, logits = forward(weights, IMAGES, 8)
    assert_close(network(Tensor(IMAGES)).asnumpy(), logits, factor=10)
    assert_close(network(Tensor(IMAGES.astype(np.float32))).asnumpy(), logits, factor=10)
    if mode == "pynative":
        assert_close(network.features(Tensor(IMAGES)).asnumpy(), features, factor=10)
        assert_close(network.feature_map(Tensor(IMAGES)).asnumpy(), feature_map, factor=10)


def test_training_updates_running_statistics_once_a_pass(mode):
    network = MODELS.get("resnet8_cifar")(num_classes=5)
    network.set_train(True)
    network(Tensor(IMAGES))
    weights = network.backbone.conv1.weight.asnumpy().astype(np.float64)
    mean = np.array([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1)
    std = np.array([0.2023, 0.1994, 0.2010]).reshape(1, 3, 1, 1)
    y = convolve((IMAGES / 255 - mean) / std, weights, 1)
    assert_close(network.backbone.bn1.moving_mean.asnumpy(), 0.1 * y.mean(axis=(0, 2, 3)), factor=10)


def test_initial_values():
    first = MODELS.get("resnet20_cifar")(num_classes=10, seed=0)
    second = MODELS.get("resnet20_cifar")(num_classes=10, seed=0)
    other = MODELS.get("resnet20_cifar")(num_classes=10, seed=1)
    for a, b, c in zip(first.get_parameters(), second.get_parameters(), other.get_parameters(), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy())
        if a.ndim >= 2:
            assert not np.array_equal(a.asnumpy(), c.asnumpy())
            fan_in = np.prod(a.shape[1:])
            assert abs(a.asnumpy().std() / np.sqrt(2 / fan_in) - 1) < 0.15, a.name
    assert (first.head.bias.asnumpy() == 0).all()
    assert (first.backbone.bn1.gamma.asnumpy() == 1).all()


def test_heads():
    features = np.random.default_rng(0).normal(size=(3, 8))
    linear, cosine = Linear(8, 5), Cosine(8, 5, scale=2.0)
    for head in (linear, cosine):
        initialise(head, 0)
    w = linear.weight.asnumpy().astype(np.float64)
    assert_close(linear(Tensor(features, ms.float32)).asnumpy(), features @ w.T)
    w = cosine.weight.asnumpy().astype(np.float64)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = 2.0 * unit @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    assert_close(cosine(Tensor(features, ms.float32)).asnumpy(), expected)
    zero = cosine(Tensor(np.zeros((1, 8)), ms.float32)).asnumpy()
    assert (zero == 0).all()


def test_cosine_head_through_the_registry():
    network = MODELS.get("resnet8_cifar")(num_classes=5, head="cosine")
    network.set_train(False)
    assert isinstance(network, Classifier)
    assert np.abs(network(Tensor(IMAGES)).asnumpy()).max() <= 1 + 1e-6


def test_gradient_against_central_differences_in_float64(mode):
    network = MODELS.get("resnet8_cifar")(num_classes=5, seed=3)
    network.set_train(False)  # running statistics: the function is then the float64 one above
    labels = np.array([0, 3, 1, 4])
    weights = network.trainable_params()

    def loss_of(images, targets):
        return CrossEntropy()(network(images), targets)

    gradients = ms.value_and_grad(loss_of, None, ms.ParameterTuple(weights))(Tensor(IMAGES), Tensor(labels, ms.int32))[
        1
    ]
    values = {p.name: p.asnumpy().astype(np.float64) for p in network.get_parameters()}
    rng = np.random.default_rng(0)
    for parameter, gradient in zip(weights, gradients, strict=True):
        direction = rng.normal(size=parameter.shape)
        direction /= np.linalg.norm(direction)

        def loss_at(step, name=parameter.name, direction=direction):
            logits = forward(values | {name: values[name] + step * direction}, IMAGES, 8)[2]
            return (np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), labels]).mean()

        slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
        found = (gradient.asnumpy().astype(np.float64) * direction).sum()
        assert abs(found - slope) < 1e-4 * max(1.0, abs(slope)), parameter.name


@pytest.mark.parametrize(("name", "size"), [("resnet8_cifar", 33), ("resnet10", 70), ("resnet10", 96)])
def test_sides_of_the_feature_map(name, size):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = MODELS.get(name)(num_classes=3).set_train(False)
    shape = network.feature_map(Tensor(np.zeros((1, 3, size, size), np.uint8))).shape
    assert shape[2:] == (-(-size // network.backbone.shrinks),) * 2
