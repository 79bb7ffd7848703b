"""The compiled convolution: values and gradients against float64, fallbacks, memory, repeatability."""

import copy
import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn, ops

from ms_longtail import doctor, runtime
from ms_longtail.kernels import UNBUILT, Conv2d, conv2d, extension
from ms_longtail.models import ResNet
from ms_longtail.models.layers import conv, initialise
from ms_longtail.models.resnet import BasicBlock

built = pytest.mark.skipif(extension.compiled() is None, reason="the extension was not built: no C++ compiler")


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """The tests of the operator hold whatever the environment of the test run says."""
    monkeypatch.delenv(runtime.CONVOLUTION_VARIABLE, raising=False)


def pads(sizes, kernel, stride, dilation, pad_mode, padding):
    """(top, bottom, left, right) from the documentation of nn.Conv2d."""
    if pad_mode == "pad":
        return padding if isinstance(padding, tuple) else (padding,) * 4
    result = []
    for size, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        total = max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0) if pad_mode == "same" else 0
        result += [total // 2, total - total // 2]
    return tuple(result)


def reference(x, w, dy, stride, dilation, padding, groups):
    """y, dx, dw in float64: one matrix product for every place in the kernel. dy None: only y."""
    top, bottom, left, right = padding
    n, c, height, width = x.shape
    o, inner, kh, kw = w.shape
    wide = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    oh = (wide.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (wide.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y, dwide, dw = np.zeros((n, groups, o // groups, oh, ow)), np.zeros_like(wide), np.zeros_like(w)
    wg = w.reshape(groups, o // groups, inner, kh, kw)
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dilation[0], i * dilation[0] + (oh - 1) * stride[0] + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + (ow - 1) * stride[1] + 1, stride[1])
            part = wide[:, :, rows, columns].reshape(n, groups, inner, oh, ow)
            y += np.einsum("goc,ngchw->ngohw", wg[..., i, j], part)
            if dy is not None:
                dyg = dy.reshape(n, groups, o // groups, oh, ow)
                back = np.einsum("goc,ngohw->ngchw", wg[..., i, j], dyg)
                dwide[:, :, rows, columns] += back.reshape(n, c, oh, ow)
                dw[:, :, i, j] = np.einsum("ngohw,ngchw->goc", dyg, part).reshape(o, inner)
    return y.reshape(n, o, oh, ow), dwide[:, :, top : top + height, left : left + width], dw


def draw(number):
    """(batch and sizes of x, arguments of Conv2d) from a number."""
    rng = np.random.default_rng((17, number))
    groups = int(rng.choice([1, 1, 1, 2, 4, 8]))
    inner, outer = int(rng.integers(1, 20)), int(rng.integers(1, 20))
    if rng.random() < 0.15:
        inner = outer = 1  # depthwise
    kernel = tuple(int(k) for k in rng.choice([1, 1, 2, 3, 3, 3, 5, 7], 2))
    stride, dilation = (tuple(int(v) for v in rng.choice([1, 1, 2, 3], 2)) for _ in range(2))
    pad_mode = str(rng.choice(["pad", "pad", "same", "valid"]))
    padding = 0
    if pad_mode == "pad":
        padding = int(rng.integers(0, 4)) if rng.random() < 0.5 else tuple(int(v) for v in rng.integers(0, 4, 4))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    sizes = tuple(int(rng.integers(r, r + 14)) for r in reach)
    settings = {"kernel_size": kernel, "stride": stride, "dilation": dilation, "pad_mode": pad_mode, "padding": padding}
    return rng, (int(rng.integers(1, 6)), groups * inner, *sizes), groups * outer, settings | {"group": groups}


def check(number):
    rng, shape, outputs, settings = draw(number)
    cell = Conv2d(shape[1], outputs, **settings, has_bias=number % 3 == 0)
    x = rng.standard_normal(shape)
    w = rng.standard_normal(cell.weight.shape) / np.sqrt(np.prod(cell.weight.shape[1:]))
    cell.weight.set_data(Tensor(w, ms.float32))
    padding = pads(shape[2:], *(settings[k] for k in ("kernel_size", "stride", "dilation", "pad_mode", "padding")))
    rest = settings["stride"], settings["dilation"], padding, settings["group"]
    y, _, _ = reference(x, w, None, *rest)
    dy = rng.standard_normal(y.shape)
    _, dx, dw = reference(x, w, dy, *rest)
    weights = Tensor(dy, ms.float32)

    def loss(images):
        output = cell(images)
        return (output * weights).sum(), output

    gradient = ops.value_and_grad(loss, 0, cell.trainable_params(), has_aux=True)
    (_, output), (image_gradient, gradients) = gradient(Tensor(x, ms.float32))
    bias = cell.bias.asnumpy()[:, None, None] if cell.has_bias else 0
    assert output.shape == y.shape
    for actual, expected in ((output, y + bias), (image_gradient, dx), (gradients[0], dw)):
        assert_close(actual.asnumpy(), expected, factor=max(1.0, np.abs(expected).max()))
    if cell.has_bias:
        assert_close(gradients[1].asnumpy(), dy.sum((0, 2, 3)), factor=max(1.0, np.abs(dy.sum((0, 2, 3))).max()))


@built
@pytest.mark.parametrize("first", range(0, 200, 25))
def test_values_and_gradients_are_those_of_float64(first):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    for number in range(first, first + 25):
        check(number)


@built
@pytest.mark.parametrize("number", range(0, 200, 10))
def test_values_and_gradients_in_graph_mode(number):
    ms.set_context(mode=ms.GRAPH_MODE)
    check(number)


class Several(nn.Cell):
    """Convolutions that differ only in stride or padding: graph mode must not take one for another."""

    def __init__(self, cell):
        super().__init__()
        self.a, self.b, self.c = cell(4, 4, 3, 1), cell(4, 4, 3, 2), cell(4, 4, 3, 1, pad_mode="valid")
        self.d = cell(4, 6, 3, 1, pad_mode="pad", padding=(2, 1, 0, 3), group=2, has_bias=True)

    def construct(self, x):
        return self.d(self.c(self.b(self.a(self.a(x)))))  # `a` twice: its gradient is a sum


def values(cell, x):
    def loss(images):
        y = cell(images)
        return (y * y).mean(), y

    (_, y), (dx, dw) = ops.value_and_grad(loss, 0, cell.trainable_params(), has_aux=True)(x)
    return [t.asnumpy() for t in (y, dx, *dw)]


@built
def test_one_network_of_several_agrees_with_nn_conv2d(mode):
    x = Tensor(np.random.default_rng(0).standard_normal((3, 4, 15, 13)), ms.float32)
    ours, theirs = Several(Conv2d), Several(nn.Conv2d)
    missing, unused = ms.load_param_into_net(ours, theirs.parameters_dict(), strict_load=True)
    assert not missing
    assert not unused
    for actual, expected in zip(values(ours, x), values(theirs, x), strict=True):
        assert_close(actual, expected)
    for actual, expected in zip(values(copy.deepcopy(ours), x), values(ours, x), strict=True):
        np.testing.assert_array_equal(actual, expected)


@built
def test_a_tensor_that_is_a_view_of_another(mode):
    x = Tensor(np.random.default_rng(0).standard_normal((4, 2, 9, 11)), ms.float32)
    cell = Conv2d(4, 5, 3)
    np.testing.assert_array_equal(cell(x.transpose(1, 0, 2, 3)[:, :, 1:]).asnumpy().shape, (2, 5, 8, 11))
    plain = Tensor(np.ascontiguousarray(x.asnumpy().transpose(1, 0, 2, 3)[:, :, 1:]))
    np.testing.assert_array_equal(cell(x.transpose(1, 0, 2, 3)[:, :, 1:]).asnumpy(), cell(plain).asnumpy())


@built
def test_initial_values_and_names_are_those_of_nn_conv2d():
    drawn = []
    for cell in (Conv2d, nn.Conv2d):
        ms.set_seed(3)
        drawn.append(cell(4, 8, 3, has_bias=True).parameters_dict())
    assert list(drawn[0]) == list(drawn[1]) == ["weight", "bias"]
    for name in drawn[0]:
        np.testing.assert_array_equal(drawn[0][name].asnumpy(), drawn[1][name].asnumpy())


@built
def test_half_precision_goes_to_nn_conv2d_and_says_so_once(mode, caplog):
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4, 8, 8)), ms.float32)
    cell, other = Conv2d(4, 8, 3), Conv2d(4, 8, 3)
    other.weight.set_data(cell.weight.value())
    expected = cell(x).asnumpy()
    conv2d._say_half.cache_clear()
    with caplog.at_level(logging.WARNING):
        half = nn.SequentialCell([other]).to_float(ms.float16)(x)
        Conv2d(4, 8, 3).to_float(ms.float16)
    assert half.dtype == ms.float16
    assert [r.message for r in caplog.records] == [
        "convolution by MindSpore's own kernels: half precision was asked for"
    ]
    assert_close(half.asnumpy(), expected, "float16", factor=3)


@built
def test_no_image_at_all(mode):
    empty = Tensor(np.ones((0, 4, 15, 13), np.float32))
    cell = Conv2d(4, 5, 3)
    assert cell(empty).shape == nn.Conv2d(4, 5, 3)(empty).shape == (0, 5, 15, 13)

    def total(x):
        return cell(x).sum()

    gradients = ops.grad(total, None, cell.trainable_params())(empty)
    np.testing.assert_array_equal(gradients[0].asnumpy(), np.zeros((5, 4, 3, 3)))


@built
@pytest.mark.parametrize(
    ("shape", "words"),
    [((2, 4, 8, 8), "must have the shape"), ((3, 8, 8), "must have the shape"), ((2, 3, 2, 9), "leaves nothing")],
)
def test_a_shape_that_does_not_fit_is_named(mode, shape, words):
    with pytest.raises(Exception, match=words):
        Conv2d(3, 4, 3, pad_mode="valid")(Tensor(np.ones(shape, np.float32))).asnumpy()


@built
def test_a_shape_that_onednn_refuses_goes_to_nn_conv2d_with_one_line(mode, caplog, monkeypatch):
    class Refusing:
        def mslt_accepts(self, *arrays):
            return b"oneDNN refuses this convolution, status 3" if arrays[0][3] == 13 else None

    monkeypatch.setattr(conv2d, "opened", Refusing)
    conv2d._refusal.cache_clear()
    ours, theirs = Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    theirs.weight.set_data(ours.weight.value())
    used = []
    monkeypatch.setattr(ours, "conv2d", theirs.conv2d if ms.get_context("mode") == ms.GRAPH_MODE else spy(theirs, used))
    x = Tensor(np.random.default_rng(0).standard_normal((2, 4, 8, 13)), ms.float32)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            np.testing.assert_array_equal(ours(x).asnumpy(), theirs(x).asnumpy())
        ours(x[..., :12].copy())
    conv2d._refusal.cache_clear()
    assert [r.message for r in caplog.records] == [
        "convolution of (2, 4, 8, 13) by (8, 4, 3, 3) by MindSpore's own kernels: oneDNN refuses this convolution, status 3"
    ]
    assert len(used) == (2 if ms.get_context("mode") == ms.PYNATIVE_MODE else 0)


def spy(cell, used):
    def called(*tensors):
        used.append(1)
        return cell.conv2d(*tensors)

    return called


@built
def test_onednn_itself_says_why_it_refuses():
    numbers = (
        (1, 4, 8, 8),
        (8, 4, 3, 3),
        (1, 8, 9, 9),
        (1, 1, 1, 1, 0, 0, 0, 0, 1),
    )  # a result too large for the kernel
    x, weight, y, geometry = ((ctypes.c_int64 * len(n))(*n) for n in numbers)
    refused = extension.opened().mslt_accepts(x, 4, weight, y, 4, geometry)
    assert refused == b"oneDNN refuses this convolution, status 2"


@built
def test_models_take_it_on_the_cpu_alone(monkeypatch):
    assert type(conv(4, 8, 3)) is Conv2d
    monkeypatch.setattr(runtime, "on_cpu", lambda: False)
    assert type(conv(4, 8, 3)) is nn.Conv2d
    with pytest.raises(RuntimeError, match=r"the device is no CPU; use nn\.Conv2d"):
        Conv2d(4, 8, 3)


@built
def test_the_variable_turns_it_off(monkeypatch):
    assert "compiled convolution" in doctor._path().found
    monkeypatch.setenv(runtime.CONVOLUTION_VARIABLE, "gemm")
    assert type(conv(4, 8, 3)) is nn.Conv2d
    assert doctor._path().advice == "unset MSLT_CPU_CONV for the fast one"
    monkeypatch.setenv(runtime.CONVOLUTION_VARIABLE, "fats")
    with pytest.raises(runtime.DeviceError, match="MSLT_CPU_CONV='fats' is not known; choose from onednn, gemm"):
        runtime.start("cpu")


@pytest.fixture
def opened_anew():
    extension._open.cache_clear()
    yield
    extension._open.cache_clear()


def test_without_the_extension_mindspores_own_serves(monkeypatch, opened_anew):
    monkeypatch.setattr(extension, "compiled", lambda: None)
    assert extension.reason() == UNBUILT
    assert type(conv(4, 8, 3)) is nn.Conv2d
    assert "compiler" in doctor._path().advice


def test_a_file_that_cannot_be_loaded_costs_one_line(monkeypatch, opened_anew, tmp_path, caplog):
    wrong = tmp_path / "_compiled.so"
    wrong.write_bytes(b"no library")
    monkeypatch.setattr(extension, "compiled", lambda: wrong)
    with caplog.at_level(logging.WARNING):
        assert [type(conv(4, 8, 3)) for _ in range(3)] == [nn.Conv2d] * 3
    assert len(caplog.records) == 1
    assert "MindSpore's own" in caplog.text


@built
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler for a library of another version")
@pytest.mark.parametrize(("version", "told"), [("4, 10, 0, 0, 8, 0", "found 4.10"), ("3, 10, 0, 0, 2, 0", "runtime 2")])
def test_another_onednn_is_refused(tmp_path, version, told):
    (tmp_path / "other.c").write_text(
        "struct v {int a, b, c; const char *h; unsigned r, g;};\n"
        f"static struct v it = {{{version}}};\nconst struct v *dnnl_version(void) {{ return &it; }}\n"
    )
    other = tmp_path / "libdnnl.so.3"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libdnnl.so.3", "-o", str(other)]
    subprocess.run(["gcc", *flags, str(tmp_path / "other.c")], check=True)
    code = (
        "import ctypes, sys; library = ctypes.CDLL(sys.argv[1]); library.mslt_open.restype = ctypes.c_char_p;"
        "print(library.mslt_open(sys.argv[2].encode(), 1, 1).decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(extension.compiled()), str(other)], capture_output=True, text=True
    )
    assert told in done.stdout


def operate(name, *arrays, library=None):
    """The status of one operator without MindSpore between; the arrays are its inputs and then its outputs."""
    count = len(arrays)
    pointers = (ctypes.c_void_p * count)(*(a.ctypes.data for a in arrays))
    shapes = [(ctypes.c_int64 * a.ndim)(*a.shape) for a in arrays]
    each = (ctypes.c_void_p * count)(*(ctypes.addressof(s) for s in shapes))
    types = (ctypes.c_char_p * count)(*(str(a.dtype).encode() for a in arrays))
    axes = (ctypes.c_int * count)(*(a.ndim for a in arrays))
    return getattr(library or extension.opened(), name)(count, pointers, axes, each, types, None, None)


def call(shape, outputs, kernel, library=None):
    """One forward convolution without MindSpore between; returns the result."""
    n, c, height, width = shape
    x, w = np.ones(shape, np.float32), np.ones((outputs, c, kernel, kernel), np.float32)
    geometry = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1], np.int64)
    y = np.empty((n, outputs, height - kernel + 1, width - kernel + 1), np.float32)
    assert operate("ConvForward", x, w, geometry, y, library=library) == 0
    return y


def call_others(number):
    """Every other operator once, at a shape of its own."""
    rows, columns = 8 + number % 31, 9 + number % 37

    def of(*shape):
        return np.ones(shape, np.float32)

    geometry, settings = np.array([1, 1, 1, 1, 1, 1, 1, 1, 1], np.int64), np.array([3, 2, 1], np.int64)
    x, w, y, c = of(2, 1, rows, columns, 8), of(5, 8, 3, 3), of(2, 5, rows, columns), of(8)
    z = of(2, 1, (rows - 1) // 2 + 1, (columns - 1) // 2 + 1, 8)
    numbers = np.array([1e-5, 0.9], np.float32)
    done = (
        operate("ConvData", y, w, geometry, x, x),
        operate("ConvWeights", x, y, geometry, w, w),
        operate("Reorder", x, of(2, 8, rows, columns)),
        operate("NormAddReluForward", x, c, c, c, c, numbers, x, x, c, c, c, c),
        operate("NormAddReluBackward", x, x, c, c, c, c, x, x, c, c, x),
        operate("MaxPoolForward", x, settings, z),
        operate("MaxPoolBackward", z, x, z, settings, x),
    )
    assert done == (0,) * len(done)


SIDE_BY_SIDE = """
import ctypes, os
import mindspore as ms, numpy as np
from mindspore import Tensor, nn
from ms_longtail import runtime
from ms_longtail.kernels import Conv2d
runtime.start("cpu")
x = Tensor(np.ones((2, 16, 8, 8), np.float32))
Conv2d(16, 16, 3)(x).asnumpy()
nn.Conv2d(16, 16, 3)(x).asnumpy()
print("limit of MindSpore's:", ctypes.CDLL("libdnnl.so.3", mode=os.RTLD_NOLOAD).dnnl_get_effective_cpu_isa())
"""


@built
@pytest.mark.skipif(not runtime.tune_cpu(), reason="the limit is for x86")
def test_mindspores_own_convolution_keeps_its_fast_path_beside_ours(tmp_path):
    """Its library must stay limited to AVX2 while ours is not: with AVX-512 its plain layouts take a reference loop."""
    script = tmp_path / "side.py"
    script.write_text(SIDE_BY_SIDE)
    environment = {k: v for k, v in os.environ.items() if k != "ONEDNN_MAX_CPU_ISA"} | {
        "ONEDNN_VERBOSE": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    ran = [line.split(",")[6] for line in lines if ",exec,cpu,convolution," in line]
    assert len(ran) == 2
    assert all(kernel.startswith(("jit", "brg")) for kernel in ran[:1])
    assert "ref" not in ran[1]
    assert lines[-1] == "limit of MindSpore's: 7"  # dnnl_cpu_isa_avx2


@built
@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("ConvForward", "xwg", "x"),
        ("ConvData", "xwgx", "x"),
        ("ConvWeights", "xxgw", "w"),
        ("NormForward", "xccccs", "xcccc"),
        ("NormAddReluBackward", "xxccccx", "xccx"),
        ("MaxPoolForward", "xg", "x"),
        ("MaxPoolBackward", "xxxg", "x"),
        ("Reorder", "x", "p"),
    ],
)
def test_what_is_no_float32_is_refused_before_it_is_read(name, inputs, outputs, capfd):
    shapes = {"x": (1, 1, 1, 1, 8), "p": (1, 8, 1, 1), "w": (8, 8, 1, 1), "g": (9,), "c": (8,), "s": (2,)}
    for odd in (i for i, letter in enumerate(inputs) if letter != "g"):
        arrays = [np.ones(shapes[letter], np.int64 if letter == "g" else np.float32) for letter in inputs + outputs]
        arrays[odd] = arrays[odd].astype(np.float16)
        assert operate(name, *arrays) == 1, odd
        assert "float32 expected, got float16" in capfd.readouterr().err


def resident() -> float:
    """Megabytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


@built
def test_what_is_kept_is_bounded_and_memory_does_not_grow():
    assert extension.reason() == ""

    def cycle(count):
        for number in range(count):
            y = call((1 + number % 3, 3 + number % 7, 8 + number % 31, 9 + number % 37), 5, 3)
            assert y[0, 0, 0, 0] == 9 * (3 + number % 7)
            call_others(number)

    cycle(1500)  # fills our own table and the library's, which keeps 1024
    assert extension.opened().mslt_kept() <= 512
    before = resident()
    cycle(1000)
    assert extension.opened().mslt_kept() <= 512
    assert resident() - before < 8
    scratch = extension.opened().mslt_scratch()
    cycle(100)
    assert extension.opened().mslt_scratch() == scratch


FORK = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
from test_kernels import call
call((4, 16, 64, 64), 8, 3)
stop = threading.Event()
def work():
    while not stop.is_set():
        call((4, 16, 64, 64), 8, 3)
thread = threading.Thread(target=work)
thread.start()
for _ in range(10):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        os._exit(int(call((4, 16, 64, 64), 8, 3)[0, 0, 0, 0]))  # 3 x 3 x 16 ones
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 144
stop.set()
thread.join()
"""


def run_script(tmp_path, text, *arguments, **environment):
    script = tmp_path / "script.py"
    script.write_text(text)
    where = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | environment
    command = [sys.executable, str(script), os.path.dirname(__file__), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=where, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@built
def test_a_process_that_forks_while_an_operator_works(tmp_path):
    run_script(tmp_path, FORK, OMP_NUM_THREADS="2")


@built
def test_values_with_more_threads_than_this_process_has():
    """The test run gives its processes few threads, often one; the sums are divided among three here."""
    here = os.path.dirname(__file__)
    chosen = [
        "test_kernels.py::test_values_and_gradients_are_those_of_float64",
        "test_layout.py::test_convolution_is_that_of_float64_in_any_layout",
        "test_layout.py::test_normalisation_is_that_of_float64_in_any_layout",
        "test_layout.py::test_the_large_groups_that_are_cut_are_normalised_alike",
        "test_layout.py::test_the_maximum_over_windows",
    ]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        *(f"{here}/{name}" for name in chosen),
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"OMP_NUM_THREADS": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=os.path.dirname(here))
    assert done.returncode == 0, done.stdout[-2000:]


COPY = """
import ctypes, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import mindspore
import ms_longtail
from pathlib import Path
from test_kernels import call
library = ctypes.CDLL(sys.argv[2])
library.mslt_open.restype = ctypes.c_char_p
assert library.mslt_open(str(Path(mindspore.__file__).parent / "lib" / "libdnnl.so.3").encode(), 2, 2) is None
assert call((4, 16, 64, 64), 8, 3, library)[3, 7, 5, 6] == 144
print(library.mslt_isa(), sum("libdnnl" in line and "r-xp" in line for line in open("/proc/self/maps")))
"""


@built
@pytest.mark.skipif(shutil.which("g++") is None or not runtime.tune_cpu(), reason="needs a C++ compiler, and x86")
def test_a_second_instance_of_onednn_has_a_limit_of_its_own(tmp_path):
    """As on processors with AVX-512, made here by a build that always takes it."""
    source, library = extension.compiled().parent, tmp_path / "always.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-DMSLT_ALWAYS_COPY", "-o", str(library)]
    subprocess.run(["g++", *flags, str(source / "convolution.cpp"), "-ldl", "-lpthread"], check=True)
    limited = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    isa, instances = run_script(tmp_path, COPY, str(library), **limited).split()
    assert int(instances) == 2
    assert int(isa) & 7 == 7
    # A limit of somebody's own holds for both: there is no second instance.
    isa, instances = run_script(tmp_path, COPY, str(library), ONEDNN_MAX_CPU_ISA="SSE41").split()
    assert (isa, instances) == ("1", "1")


@built
def test_rules_of_mindspore_about_files_are_found_before_a_network_is_built(monkeypatch, opened_anew, caplog, tmp_path):
    monkeypatch.setenv("MS_CUSTOM_AOT_WHITE_LIST", str(tmp_path))
    assert "the legal path" in extension.reason()
    assert type(conv(4, 8, 3)) is nn.Conv2d
    assert "pip install again" in doctor._path().advice
    monkeypatch.delenv("MS_CUSTOM_AOT_WHITE_LIST")
    extension._open.cache_clear()
    other = tmp_path / "a:b" / "_compiled.so"
    other.parent.mkdir()
    shutil.copy(extension.compiled(), other)
    monkeypatch.setattr(extension, "compiled", lambda: other)
    assert "colon" in extension.reason()
    assert len(caplog.records) == 2


@built
def test_what_the_last_digits_depend_on_is_written_down():
    parts, blocks = runtime.convolution_parts(), extension.opened().mslt_lanes()
    assert extension.description().startswith(f"compiled, {parts} parts, blocks of {blocks}, ")


REPEAT = """
import hashlib, sys
import mindspore as ms, numpy as np
from mindspore import Tensor, ops
import ms_longtail
from ms_longtail.kernels import Conv2d
ms.set_context(mode=ms.PYNATIVE_MODE)
digest = hashlib.sha256()
rng = np.random.default_rng(0)
for inputs, outputs, kernel, size in ((3, 16, 3, 32), (16, 32, 3, 16), (64, 64, 1, 8), (24, 40, 5, 9)):
    cell = Conv2d(inputs, outputs, kernel, 2, weight_init=Tensor(rng.standard_normal((outputs, inputs, kernel, kernel)), ms.float32))
    x = Tensor(rng.standard_normal((37, inputs, size, size)), ms.float32)
    function = ops.value_and_grad(lambda x: (cell(x) ** 2).sum(), 0, cell.trainable_params())
    value, (dx, dw) = function(x)
    for t in (cell(x), dx, dw[0]):
        digest.update(t.asnumpy().tobytes())
print(digest.hexdigest())
"""


@built
def test_runs_give_the_same_bits_with_any_number_of_threads(tmp_path):
    script = tmp_path / "repeat.py"
    script.write_text(REPEAT)
    common = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    runs = [
        subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, env=common | {"OMP_NUM_THREADS": threads}
        )
        for threads in ("1", "2", "2")[: 3 if os.cpu_count() > 1 else 1]
    ]
    assert runs[0].returncode == 0, runs[0].stderr
    assert len(runs[0].stdout.strip()) == len(hashlib.sha256().hexdigest())
    assert len({run.stdout for run in runs}) == 1


FEW_THREADS = """
import resource
import mindspore as ms, numpy as np
from mindspore import Tensor, nn
from ms_longtail.kernels import Conv2d, reason
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), resource.RLIM_INFINITY))
assert not reason(), reason()
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ms.set_context(mode=ms.PYNATIVE_MODE)
threads = len(__import__("os").listdir("/proc/self/task"))
assert 20 < threads < 900, threads
a = Conv2d(3, 8, 3)
b = nn.Conv2d(3, 8, 3, weight_init=Tensor(a.weight.asnumpy()))
x = Tensor(np.random.default_rng(0).standard_normal((8, 3, 16, 16)), ms.float32)
print(abs(a(x).asnumpy() - b(x).asnumpy()).max() < 1e-5)
"""


@built
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads Linux's /proc")
def test_a_machine_that_gives_fewer_threads_is_served_by_those(tmp_path):
    """A thousand stacks do not fit into what is left of the address space."""
    script = tmp_path / "few.py"
    script.write_text(FEW_THREADS)
    where = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1000"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=where, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


@built
@pytest.mark.parametrize("sizes", [(None, 3, 16, 16), (None, 3, None, None)])
def test_shapes_that_are_not_known_when_the_graph_is_compiled(sizes):
    ms.set_context(mode=ms.GRAPH_MODE)
    a = Conv2d(3, 8, 3, stride=2)
    b = nn.Conv2d(3, 8, 3, stride=2, weight_init=Tensor(a.weight.asnumpy()))
    a.set_inputs(Tensor(shape=list(sizes), dtype=ms.float32))
    for batch in (2, 5):
        x = Tensor(np.random.default_rng(batch).standard_normal((batch, 3, 16, 16)), ms.float32)
        assert_close(a(x), b(x))


@pytest.mark.parametrize("sizes", [(None, 3, 64, 64), (None, 3, None, None)])
@pytest.mark.parametrize("train", [True, False])
def test_a_network_whose_shapes_are_not_known(sizes, train):
    """With the extension and without: no operator of ours is in such a graph."""
    ms.set_context(mode=ms.GRAPH_MODE)
    network = ResNet(BasicBlock, (1, 1, 1, 1))
    initialise(network, seed=1)
    network.set_train(train)
    x = Tensor(np.random.default_rng(0).standard_normal((4, 3, 64, 64)), ms.float32)
    expected = network(x).asnumpy()
    network.set_inputs(Tensor(shape=list(sizes), dtype=ms.float32))
    assert_close(network(x).asnumpy(), expected, factor=30 * np.abs(expected).max())


def test_threads_follow_the_variable_and_the_workers_share_the_processors(monkeypatch):
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert runtime.convolution_threads() == 8
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("MS_WORKER_NUM", "4")
    assert runtime.convolution_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert runtime.convolution_threads() == 3
    monkeypatch.setattr(runtime.os, "cpu_count", lambda: 8)
    assert runtime.convolution_parts() == 8
    monkeypatch.setattr(runtime.os, "cpu_count", lambda: 64)
    assert runtime.convolution_parts() == 16
    monkeypatch.setenv("OMP_NUM_THREADS", "24")
    assert runtime.convolution_parts() == 24


@pytest.mark.parametrize(
    ("size", "settings", "expected"),
    [(32, (3, 2, 1, -1, -1), 16), (33, (3, 2, 1, -1, -1), 17), (32, (3, 1, 2, 0, 0), 28), (7, (2, 3, 1, 1, 0), 3)],
)
def test_output_size(size, settings, expected):
    assert conv2d.output_size(size, *settings) == expected
