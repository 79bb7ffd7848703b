"""Activations in blocks of channels: the same numbers as in the plain layout, through layers and whole networks."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn, ops
from test_kernels import draw as draw_convolution
from test_kernels import pads
from test_kernels import reference as convolution
from test_norm import draw as draw_norm
from test_norm import fill
from test_norm import reference as normalisation
from test_norm import run as run_norm

from ms_longtail import runtime
from ms_longtail.kernels import Conv2d, MaxPool2d, conv2d, extension, layout, leave, matched
from ms_longtail.models import CifarResNet, ResNet
from ms_longtail.models.freezing import freeze
from ms_longtail.models.layers import blended, blocked_conv, conv, initialise, max_pool
from ms_longtail.models.norm import Norm
from ms_longtail.models.precision import set_precision
from ms_longtail.models.resnet import BasicBlock, Bottleneck

pytestmark = pytest.mark.skipif(extension.compiled() is None, reason="the extension was not built: no C++ compiler")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.delenv(runtime.CONVOLUTION_VARIABLE, raising=False)


@pytest.fixture
def eight(monkeypatch):
    """As on a processor that likes blocks of eight, whichever this one is."""
    monkeypatch.setattr(layout, "lanes", lambda: 8)


def to_blocks(x, size):
    """(N, C, H, W) -> (N, C / size, H, W, size) by NumPy."""
    if size == 1:
        return x
    n, c, height, width = x.shape
    return np.ascontiguousarray(x.reshape(n, c // size, size, height, width).transpose(0, 1, 3, 4, 2))


def from_blocks(x):
    if x.ndim == 4:
        return x
    n, groups, height, width, size = x.shape
    return x.transpose(0, 1, 4, 2, 3).reshape(n, groups * size, height, width)


def test_the_layout_is_that_of_the_processor():
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.exists() else set()
    allowed = {1, 16} if "avx512bw" in flags else {8} if "avx2" in flags else {1, 8}
    assert layout.lanes() in allowed


@pytest.mark.parametrize("size", [8, 16])
def test_into_blocks_and_out_again_with_gradients(mode, size):
    rng = np.random.default_rng(size)
    x, weight = rng.standard_normal((2, 3, 32, 5, 7)).astype(np.float32)
    like = Tensor(to_blocks(x, size))

    def enter(x):
        y = matched(x, like)
        return (y * Tensor(to_blocks(weight, size))).sum(), y

    def out(x):
        y = leave(x)
        return (y * Tensor(weight)).sum(), y

    (_, y), dx = ops.value_and_grad(enter, 0, None, has_aux=True)(Tensor(x))
    np.testing.assert_array_equal(y.asnumpy(), to_blocks(x, size))
    np.testing.assert_array_equal(dx.asnumpy(), weight)
    (_, back), dy = ops.value_and_grad(out, 0, None, has_aux=True)(like)
    np.testing.assert_array_equal(back.asnumpy(), x)
    np.testing.assert_array_equal(dy.asnumpy(), to_blocks(weight, size))


def test_what_has_the_layout_already_stays():
    x, y = Tensor(np.ones((2, 16, 3, 3), np.float32)), Tensor(np.ones((2, 2, 3, 3, 8), np.float32))
    assert leave(x) is x
    assert matched(y, y) is y
    assert matched(x, x) is x


def check_convolution(number, before, behind):
    """One of the random convolutions of test_kernels with whole blocks of channels where they are wanted."""
    rng, (n, c, *sizes), o, settings = draw_convolution(number)
    groups = settings["group"]
    unit = np.lcm(groups, before), np.lcm(groups, behind)
    c, o = (int(-(-count // u) * u) for count, u in zip((c, o), unit, strict=True))
    x, w = rng.standard_normal((n, c, *sizes)), rng.standard_normal((o, c // groups, *settings["kernel_size"]))
    padding = pads(sizes, *(settings[k] for k in ("kernel_size", "stride", "dilation", "pad_mode", "padding")))
    rest = settings["stride"], settings["dilation"], padding, groups
    y, _, _ = convolution(x, w, None, *rest)
    dy = rng.standard_normal(y.shape)
    _, dx, dw = convolution(x, w, dy, *rest)
    numbers = (*settings["stride"], *settings["dilation"], *padding, groups)
    operator, geometry = conv2d._forward(numbers, behind), Tensor(np.array(numbers, np.int64))
    weights = Tensor(to_blocks(dy, behind), ms.float32)

    def loss(images, weight):
        output = operator(images, weight, geometry)
        return (output * weights).sum(), output

    inputs = Tensor(to_blocks(x, before), ms.float32), Tensor(w, ms.float32)
    (_, output), gradients = ops.value_and_grad(loss, (0, 1), None, has_aux=True)(*inputs)
    for actual, expected in ((output, to_blocks(y, behind)), (gradients[0], to_blocks(dx, before)), (gradients[1], dw)):
        assert actual.shape == expected.shape
        assert_close(actual.asnumpy(), expected, factor=max(1.0, np.abs(expected).max()))


LAYOUTS = [(8, 8), (16, 16), (1, 8), (8, 1), (1, 16), (16, 1)]


@pytest.mark.parametrize(("before", "behind"), LAYOUTS)
def test_convolution_is_that_of_float64_in_any_layout(before, behind):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for number in range(300, 320):
        check_convolution(number, before, behind)


@pytest.mark.parametrize(("before", "behind"), LAYOUTS)
def test_the_same_in_graph_mode(before, behind):
    ms.set_context(mode=ms.GRAPH_MODE)
    check_convolution(320, before, behind)


def check_norm(number, size, residual_size):
    x, gamma, beta, mean, var, dz, residual, relu, added = draw_norm(number)
    repeat = size  # as many channels, so that they fill blocks
    x, dz, residual = (np.concatenate([(1 + i / 7) * a for i in range(repeat)], axis=1) for a in (x, dz, residual))
    gamma, beta, mean, var = (
        np.concatenate([(1 + i / 9) * a for i in range(repeat)]) for a in (gamma, beta, mean, var)
    )
    wide = [a.astype(np.float64) for a in (x, gamma, beta, mean, var, dz, residual * added)]
    if relu:
        near = np.abs(normalisation(*wide, False)[0]) < 1e-4
        dz[near] = wide[5][near] = 0
    expected = list(normalisation(*wide, relu))
    cell = fill(Norm(x.shape[1], relu=relu), *(a.astype(np.float32) for a in (gamma, beta, mean, var)))
    x, dz, residual = (a.astype(np.float32) for a in (x, dz, residual))
    given = to_blocks(residual, residual_size) if added else None
    actual = run_norm(cell, to_blocks(x, size), to_blocks(dz, size), given)
    spread = max(1.0, np.abs(x).max() / x.std())
    for a, e in zip(actual, expected, strict=False):
        assert_close(from_blocks(a) if e.ndim == 4 else a, e, factor=spread * max(1.0, np.abs(e).max()))


@pytest.mark.parametrize(("size", "residual_size"), [(8, 8), (16, 16), (8, 1), (1, 8)])
def test_normalisation_is_that_of_float64_in_any_layout(size, residual_size):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for number in range(12):
        if size == 1:
            check_plain(number)
        else:
            check_norm(number, size, residual_size)


def check_plain(number):
    """A plain x with a residual in blocks."""
    x, *_, dz, residual, relu, _ = draw_norm(number)
    x, dz, residual = (np.concatenate([a] * 8, axis=1) for a in (x, dz, residual))
    cells = [Norm(x.shape[1], relu=relu).set_train() for _ in range(2)]
    expected = run_norm(cells[0], x, dz, residual)
    for a, e in zip(run_norm(cells[1], x, dz, to_blocks(residual, 8)), expected, strict=True):
        np.testing.assert_array_equal(from_blocks(a) if e.ndim == 4 else a, e)


@pytest.mark.parametrize("size", [1, 8])
def test_the_large_groups_that_are_cut_are_normalised_alike(size):
    """More numbers than one part has, with a mean that moves from image to image."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng = np.random.default_rng(3)
    x = (rng.standard_normal((40, 16, 75, 77)) + 50 * rng.standard_normal((40, 16, 1, 1))).astype(np.float32)
    dz = rng.standard_normal(x.shape).astype(np.float32)
    ones, zeros = np.ones(16), np.zeros(16)
    cell = fill(Norm(16), *(a.astype(np.float32) for a in (ones, zeros, zeros, ones)))
    actual = run_norm(cell, to_blocks(x, size), to_blocks(dz, size), None)
    wide = x.astype(np.float64), ones, zeros, zeros, ones, dz.astype(np.float64), 0.0
    for a, e in zip(actual, normalisation(*wide, False), strict=False):
        assert_close(from_blocks(a) if e.ndim == 4 else a, e, factor=max(1.0, np.abs(e).max()))


NETWORKS = {
    "CIFAR": (lambda: CifarResNet(8), 32),
    "CIFAR, two branches": (lambda: CifarResNet(8, branches=2), 32),
    "CIFAR, experts of 24 and 48 channels": (lambda: CifarResNet(8, experts=2), 32),
    "CIFAR, experts of 18 and 36 channels": (lambda: CifarResNet(8, experts=2, expert_width=0.56), 32),
    "basic blocks": (lambda: ResNet(BasicBlock, (1, 1, 1, 1)), 96),
    "bottlenecks": (lambda: ResNet(Bottleneck, (1, 1, 1, 1)), 96),
    "grouped": (lambda: ResNet(Bottleneck, (1, 1, 1, 1), groups=32, base_width=4), 96),
}


def outcome(build, pixels, mixing=None):
    """Output, gradients and running statistics of one step."""
    network = build()
    initialise(network, seed=1)
    network.set_train()
    x = Tensor(np.random.default_rng(2).standard_normal((8, 3, pixels, pixels)), ms.float32)
    more = (
        ()
        if mixing is None
        else (mixing, Tensor(np.arange(8)[::-1].copy(), ms.int32), Tensor(np.linspace(0.1, 1, 8), ms.float32))
    )

    def loss(x):
        y = network(x, *more)
        return (y * y).mean() + y.mean(), y

    (_, y), (dx, gradients) = ops.value_and_grad(loss, 0, network.trainable_params(), has_aux=True)(x)
    moving = [p for name, p in network.parameters_and_names() if "moving" in name]
    return [t.asnumpy() for t in (y, dx, *gradients, *moving)]


def compare(build, pixels, monkeypatch, mixing=None):
    monkeypatch.setattr(layout, "lanes", lambda: 1)
    plain = outcome(build, pixels, mixing)
    for size in (8, 16):
        monkeypatch.setattr(layout, "lanes", lambda size=size: size)
        inside = outcome(build, pixels, mixing)
        for actual, expected in zip(inside, plain, strict=True):
            assert actual.shape == expected.shape
            # Rounding, and rectified sums that fall to the other side of 0; a channel in a wrong place is of the order of 1.
            assert np.linalg.norm(actual - expected) <= 0.02 * np.linalg.norm(expected) + 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same_in_blocks(name, monkeypatch):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    compare(*NETWORKS[name], monkeypatch)


@pytest.mark.parametrize("name", ["CIFAR, experts of 24 and 48 channels", "basic blocks"])
def test_networks_compute_the_same_in_graph_mode(name, monkeypatch):
    ms.set_context(mode=ms.GRAPH_MODE)
    compare(*NETWORKS[name], monkeypatch)


@pytest.mark.parametrize("point", ["layer1", "layer2", "layer3"])
def test_mixing_inside_a_network_goes_image_by_image(point, monkeypatch):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    compare(*NETWORKS["CIFAR"], monkeypatch, point)


def test_blended_is_that_of_the_plain_layout(mode):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 16, 3, 3)).astype(np.float32)
    partner, blend = Tensor([3, 4, 5, 0], ms.int32), Tensor([0.2, 0.5, 1, 0.9], ms.float32)
    expected = blended(Tensor(x), partner, blend).asnumpy()
    np.testing.assert_array_equal(from_blocks(blended(Tensor(to_blocks(x, 8)), partner, blend).asnumpy()), expected)


def test_blocks_are_there_in_training_and_not_at_inference(mode, eight):
    cell, norm = blocked_conv(3, 16, 3), Norm(16, relu=True)
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 9, 9)), ms.float32)
    inside = cell.set_train()(x)
    assert inside.shape == (4, 2, 9, 9, 8)
    assert norm.set_train()(inside).shape == (4, 2, 9, 9, 8)
    plain = cell.set_train(False)(x)
    assert plain.shape == (4, 16, 9, 9)
    assert_close(from_blocks(inside.asnumpy()), plain.asnumpy())
    assert conv(3, 16, 3).set_train()(x).shape == (4, 16, 9, 9)  # who does not ask gets the plain layout
    assert blocked_conv(3, 12, 3).set_train()(x).shape == (4, 12, 9, 9)  # one and a half blocks


def test_a_bias_is_added_channel_by_channel(mode, eight):
    cell = Conv2d(3, 16, 3, has_bias=True, blocked=True, bias_init=Tensor(np.arange(16), ms.float32))
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 9, 9)), ms.float32)
    assert_close(from_blocks(cell.set_train()(x).asnumpy()), cell.set_train(False)(x).asnumpy(), factor=16)


def test_layers_at_rest_and_half_precision_take_what_is_in_blocks(mode, eight):
    x = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    network = nn.SequentialCell([blocked_conv(3, 16, 3), Norm(16), blocked_conv(16, 16, 3), Norm(16, relu=True)])
    freeze(network, ["0", "1", "2", "3"], [])
    still = network.set_train()(Tensor(x)).asnumpy()
    np.testing.assert_array_equal(still, network.set_train(False)(Tensor(x)).asnumpy())
    single, half = (CifarResNet(8) for _ in range(2))
    for cell in (single, half):
        initialise(cell, seed=1)
        cell.set_train()
    set_precision(half, "O1")
    a, b = single(Tensor(x)).asnumpy(), half(Tensor(x)).asnumpy()
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


@pytest.mark.parametrize("where", [1, 2, 3, 4])
def test_one_layer_at_half_precision_behind_blocks(mode, eight, where):
    """What comes out of a layer at half precision is half, so of the layers behind it only some can follow."""
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 17, 17)), ms.float32)

    def run(half):
        cells = [blocked_conv(3, 16, 3), Norm(16, relu=True), max_pool(3, 2, 1), blocked_conv(16, 16, 3), Norm(16)]
        network = nn.SequentialCell(cells[: 5 if where > 2 else where + 1])
        initialise(network, seed=1)
        if half:
            cells[where].to_float(ms.float16)
        network.set_train()

        def loss(x):
            return (leave(network(x)).astype(ms.float32) ** 2).mean()

        function = ops.value_and_grad(loss, 0, network.trainable_params())
        value, (dx, dw) = function(x)
        return [value, dx, *dw]

    for single, half in zip(run(False), run(True), strict=True):
        a, b = single.asnumpy(), half.asnumpy()
        assert half.dtype == ms.float32
        assert np.abs(a - b).max() < 0.02 * max(np.abs(a).max(), 0.05)


def test_a_residual_at_half_precision_is_added_to_blocks(mode, eight):
    x, residual = np.random.default_rng(0).standard_normal((2, 4, 16, 5, 5)).astype(np.float32)
    cell = Norm(16).set_train()
    expected = cell(Tensor(x), Tensor(residual)).asnumpy()
    for other in (residual, to_blocks(residual, 8)):
        z = cell(Tensor(to_blocks(x, 8)), Tensor(other.astype(np.float16))).asnumpy()
        assert_close(from_blocks(z), expected, "float16", factor=2)


@pytest.mark.parametrize("kind", [ms.float16, ms.bfloat16])
@pytest.mark.parametrize("size", [8, 16])
def test_numbers_of_sixteen_bits_leave_their_blocks(kind, size):
    x = Tensor(np.random.default_rng(0).standard_normal((3, 48, 5, 7)), ms.float32).astype(kind)
    blocks = layout._reorder(size)(x)
    assert blocks.dtype == kind
    np.testing.assert_array_equal(blocks.float().asnumpy(), to_blocks(x.float().asnumpy(), size))
    np.testing.assert_array_equal(leave(blocks).float().asnumpy(), x.float().asnumpy())


def test_blocks_behind_a_convolution_that_onednn_refuses(mode, eight, monkeypatch):
    cell = blocked_conv(16, 8, 3).set_train()
    x = np.random.default_rng(0).standard_normal((4, 16, 9, 9)).astype(np.float32)
    expected = cell(Tensor(x)).asnumpy()
    monkeypatch.setattr(conv2d, "_refusal", lambda *_: "no")
    other = blocked_conv(16, 8, 3).set_train()
    other.weight.set_data(cell.weight.value())
    assert_close(other(Tensor(to_blocks(x, 8))).asnumpy(), from_blocks(expected))


def test_five_axes_that_are_no_blocks_are_named(mode):
    with pytest.raises(Exception, match=r"x must have the shape \(N, 3, H, W\)"):
        Conv2d(3, 4, 3)(Tensor(np.ones((2, 1, 8, 8, 3), np.float32))).asnumpy()
    with pytest.raises(Exception, match=r"x must have the shape \(N, C, H, W\) or \(N, G, H, W, 8 or 16\), got \(2, 1"):
        leave(Tensor(np.ones((2, 1, 8, 8, 3), np.float32))).asnumpy()


def windows_maximum(x, dz, kernel, stride, padding):
    """z and dx in float64, a window at a time; the first of equal numbers has the gradient."""
    n, c, height, width = x.shape
    wide = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2), constant_values=-np.inf)
    z, dwide = np.zeros(dz.shape), np.zeros_like(wide)
    for i in range(dz.shape[2]):
        for j in range(dz.shape[3]):
            rows, columns = slice(i * stride, i * stride + kernel), slice(j * stride, j * stride + kernel)
            window = wide[:, :, rows, columns].reshape(n, c, -1)
            first = window.argmax(axis=2)  # NumPy's is the first, too
            z[:, :, i, j] = window.max(axis=2)
            one = np.eye(kernel * kernel)[first].reshape(n, c, kernel, kernel)
            dwide[:, :, rows, columns] += one * dz[:, :, i, j, None, None]
    return z, dwide[:, :, padding : padding + height, padding : padding + width]


@pytest.mark.parametrize("size", [1, 8, 16])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "pixels"),
    [(3, 2, 1, (12, 13)), (2, 2, 0, (7, 6)), (3, 1, 1, (5, 4)), (5, 3, 2, (3, 9))],
)
def test_the_maximum_over_windows(mode, size, kernel, stride, padding, pixels):
    rng = np.random.default_rng(kernel)
    x = rng.integers(-3, 4, (5, 32, *pixels)).astype(np.float64)  # many equal numbers, and windows below 0
    x[:, :4] -= 9
    sizes = [(pixel + 2 * padding - kernel) // stride + 1 for pixel in pixels]
    dz = rng.standard_normal((5, 32, *sizes))
    z, dx = windows_maximum(x, dz, kernel, stride, padding)
    cell, weights = MaxPool2d(kernel, stride, padding), Tensor(to_blocks(dz, size), ms.float32)

    def loss(x):
        y = cell(x)
        return (y * weights).sum(), y

    (_, actual), gradient = ops.value_and_grad(loss, 0, None, has_aux=True)(Tensor(to_blocks(x, size), ms.float32))
    np.testing.assert_array_equal(from_blocks(actual.asnumpy()), z)
    assert_close(from_blocks(gradient.asnumpy()), dx)


def test_the_maximum_does_not_hide_what_is_not_a_number():
    x = np.ones((1, 1, 5, 5, 8), np.float32)
    x[0, 0, 2, 2, 3] = np.nan
    z = MaxPool2d(3, 2, 1)(Tensor(x)).asnumpy()
    assert np.isnan(z[..., 3]).sum() == 1
    assert not np.isnan(np.delete(z, 3, axis=4)).any()


def test_five_axes_that_are_no_blocks_have_no_maximum(mode):
    with pytest.raises(Exception, match="x must have the shape"):
        MaxPool2d(3, 2, 1)(Tensor(np.ones((2, 1, 8, 8, 3), np.float32))).asnumpy()


@pytest.mark.parametrize(
    ("build", "part"),
    [
        (lambda: CifarResNet(8, branches=2), "branches.conventional"),
        (lambda: CifarResNet(8, branches=2), "branches.rebalancing.bn2"),
        (lambda: CifarResNet(8, experts=2), "branches.each.0"),
        (lambda: ResNet(BasicBlock, (1, 1, 1, 1), experts=3), "branches.each.1"),
    ],
)
def test_a_branch_at_rest_beside_one_that_is_trained(mode, eight, monkeypatch, build, part):
    """Its normalisation is MindSpore's own and ends the blocks; the other's does not."""
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 32, 32)), ms.float32)
    results = []
    for size in (8, 1):
        monkeypatch.setattr(layout, "lanes", lambda size=size: size)
        network = build()
        initialise(network, seed=1)
        freeze(network, [part], [p.name for p in network.trainable_params()])
        results.append(network.set_train()(x).asnumpy())
    assert_close(*results, factor=30 * np.abs(results[1]).max())


def test_a_window_with_more_padding_than_half_is_refused():
    with pytest.raises(ValueError, match="padding = 2 is more than half of a window of 3"):
        MaxPool2d(3, 1, 2)
