"""ResNet and ResNeXt: published sizes, shapes, and blocks against float64 NumPy."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor

from ms_longtail.models.resnet import BasicBlock, Bottleneck, ResNet
from ms_longtail.registry import MODELS

PUBLISHED = {  # parameters with 1,000 classes: the usual releases; ResNet-10 is counted by hand from its four blocks
    "resnet10": 5_418_792,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x4d": 44_177_704,
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_parameter_counts(name):
    network = MODELS.get(name)(num_classes=1000)
    assert sum(p.size for p in network.trainable_params()) == PUBLISHED[name]


def convolve(x, w, stride=1, groups=1):
    """Convolution in float64, padded by half the kernel."""
    pad, k = w.shape[2] // 2, w.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    inputs, outputs = w.shape[1], w.shape[0] // groups
    parts = [
        np.einsum("bchwij,ocij->bohw", windows[:, g * inputs : (g + 1) * inputs], w[g * outputs : (g + 1) * outputs])
        for g in range(groups)
    ]
    return np.concatenate(parts, axis=1)


def weights_of(cell, seed=0):
    """Random values for everything, set in the cell and returned in float64."""
    rng = np.random.default_rng(seed)
    for parameter in cell.get_parameters():
        low, high = (0.5, 1.5) if parameter.ndim == 1 else (-0.5, 0.5)
        parameter.set_data(Tensor(rng.uniform(low, high, parameter.shape), ms.float32))
    return {p.name: p.asnumpy().astype(np.float64) for p in cell.get_parameters()}


def normalise(x, w, name):
    mean, var, gamma, beta = (
        w[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("moving_mean", "moving_variance", "gamma", "beta")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


@pytest.mark.parametrize("stride", [1, 2])
def test_basic_block(mode, stride):
    inputs = 8 if stride == 1 else 4
    cell = BasicBlock(inputs, 8, stride)
    w = weights_of(cell)
    cell.set_train(False)
    x = np.random.default_rng(1).normal(size=(2, inputs, 6, 6))
    y = np.maximum(normalise(convolve(x, w["conv1.weight"], stride), w, "bn1"), 0)
    y = normalise(convolve(y, w["conv2.weight"]), w, "bn2")
    side = x if stride == 1 else normalise(convolve(x, w["shortcut.0.weight"], 2), w, "shortcut.1")
    assert_close(cell(Tensor(x, ms.float32)).asnumpy(), np.maximum(y + side, 0), factor=5)


@pytest.mark.parametrize(("groups", "base"), [(1, 64), (4, 16)])
def test_bottleneck(mode, groups, base):
    cell = Bottleneck(8, 8, 2, groups, base)
    w = weights_of(cell)
    cell.set_train(False)
    x = np.random.default_rng(1).normal(size=(2, 8, 6, 6))
    y = np.maximum(normalise(convolve(x, w["conv1.weight"]), w, "bn1"), 0)
    y = np.maximum(normalise(convolve(y, w["conv2.weight"], 2, groups), w, "bn2"), 0)
    y = normalise(convolve(y, w["conv3.weight"]), w, "bn3")
    side = normalise(convolve(x, w["shortcut.0.weight"], 2), w, "shortcut.1")
    assert w["conv2.weight"].shape == (8 * base // 64 * groups, 8 * base // 64, 3, 3)
    assert_close(cell(Tensor(x, ms.float32)).asnumpy(), np.maximum(y + side, 0), factor=5)


def test_the_stem_and_the_shapes_of_the_layers(mode):
    cell = ResNet(BasicBlock, (1, 1, 1, 1))
    w = weights_of(cell)
    cell.set_train(False)
    x = np.random.default_rng(1).normal(size=(1, 3, 64, 64))
    stem = convolve(x, w["conv1.weight"], 2)
    assert stem.shape == (1, 64, 32, 32)
    padded = np.pad(stem, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    largest = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
    assert_close(cell.pool(Tensor(stem, ms.float32)).asnumpy(), largest, factor=5)
    assert cell(Tensor(x, ms.float32)).shape == (1, 512, 2, 2)
    assert cell.out_channels == 512


@pytest.mark.parametrize(("name", "features"), [("resnet10", 512), ("resnext50_32x4d", 2048)])
def test_pixels_in_logits_out(name, features):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    network = MODELS.get(name)(num_classes=7, head="cosine")
    network.set_train(False)
    images = Tensor(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)).astype(np.uint8))
    assert network.feature_map(images).shape == (2, features, 2, 2)
    assert network.feature_size == features
    logits = network(images).asnumpy()
    assert logits.shape == (2, 7)
    assert np.isfinite(logits).all()
