"""Weights out of files: every kind that is read, kinds that are refused, damage, and files that want to run something."""

import json
import struct
import zipfile
from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, nn
from torch_files import SAVE, Ordered, Raw, Stored, Tensor, With, Writer, archive, bfloat16, called, legacy, tensor

from ms_longtail.training import checkpoints, torch_pickle
from ms_longtail.training.weights_file import read_weights

RNG = np.random.default_rng(0)
A = RNG.standard_normal((6, 8)).astype(np.float32)


@pytest.fixture(params=list(SAVE))
def save(request):
    return SAVE[request.param]


def refused(path, *parts):
    """Reading ends with one line that names the file and holds these parts."""
    with pytest.raises(ValueError) as error:
        read_weights(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 500
    for part in parts:
        assert part in message, message
    return message


# ---- PyTorch's files


def views():
    """(tensors that show one storage in several ways and storages of all kinds, what they are by NumPy)."""
    whole, flat = Stored(A.reshape(-1)), A.reshape(-1)
    half = RNG.standard_normal(5).astype(np.float16)
    exact = np.array([1.0, -2.5, 3.140625, 0.0], np.float32)  # 8 bits of mantissa are enough for these
    tensors = {
        "a.weight": Tensor(whole, (6, 8), (8, 1)),
        "transposed.weight": Tensor(whole, (8, 6), (1, 8)),
        "part.weight": Tensor(whole, (3, 2), (8, 3), 8 + 2),
        "row.bias": Tensor(whole, (8,), (1,), 16),
        "last.bias": Tensor(whole, (), (), 47),
        "repeated.weight": Tensor(whole, (4, 3), (0, 1), 5),
        "empty.weight": Tensor(whole, (0, 4), (4, 1)),
        "parameter.weight": tensor(A[:2, :3], parameter=True),
        "double.weight": tensor(A[0].astype(np.float64)),
        "half.weight": tensor(half),
        "bf.weight": bfloat16(exact),
        "count.num_batches_tracked": tensor(np.array(7, np.int64)),
        "mask": tensor(np.array([True, False])),
        "short": tensor(np.array([-3, 300], np.int16)),
    }
    expected = {
        "a.weight": A,
        "transposed.weight": A.T,
        "part.weight": A[1:4, 2:6:3],
        "row.bias": A[2],
        "last.bias": A[5, 7],
        "repeated.weight": np.stack([flat[5:8]] * 4),
        "empty.weight": np.zeros((0, 4)),
        "parameter.weight": A[:2, :3],
        "double.weight": A[0],
        "half.weight": half.astype(np.float32),
        "bf.weight": exact,
        "count.num_batches_tracked": np.array(7),
        "mask": np.array([True, False]),
        "short": np.array([-3, 300]),
    }
    return tensors, expected


def test_every_view_and_kind_of_number(tmp_path, save):
    tensors, expected = views()
    found, what = read_weights(save(tmp_path / "w.pth", Ordered(tensors, {"_metadata": {"": {"version": 1}}})))
    assert list(found) == list(tensors)
    assert what == f"PyTorch: {len(tensors)} tensors"
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        assert found[name].shape == np.shape(value)
        assert found[name].dtype == np.float32 or np.asarray(value).dtype.kind in "bi", name
        assert found[name].flags.owndata or found[name].base.flags.owndata  # not a view of the file


def test_bytes_in_the_other_order_and_a_file_that_says_none(tmp_path):
    tensors, expected = views()
    for order in ("big", None):
        found, _ = read_weights(archive(tmp_path / f"{order}.pt", tensors, order=order, root="any name"))
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_newest_form_of_a_tensor(tmp_path):
    numbers = np.array([1.5, -2.0, 4.0], np.float64)
    writer_sees = Stored(np.frombuffer(numbers.tobytes(), np.uint8), "Untyped")
    raw = Writer()
    place = (writer_sees, 0, (3,), (1,), False, Ordered({}), Raw(called("torch", "float64")))
    made = called("torch._utils", "_rebuild_tensor_v3") + raw.code(place) + b"R"
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", raw.pickle({"x.weight": Raw(made)}))
        file.writestr("a/data/0", numbers.tobytes())
    np.testing.assert_array_equal(read_weights(path)[0]["x.weight"], numbers)


def network(count, start=0.0):
    return {f"layer{n}.weight": tensor(np.full(2, start + n, np.float32)) for n in range(count)}


@pytest.mark.parametrize(
    ("content", "place", "first"),
    [
        ({"epoch": 3, "state_dict": network(3, 5), "optimizer": {"state": {0: {"momentum_buffer": tensor(A)}}}}, "state_dict", 5),
        ({"ema": network(3, 1), "model": network(3, 2)}, "model", 2),
        ({"ema": network(3, 1), "model": network(2, 2)}, "ema", 1),
        ({"best": {"net": network(4, 8)}, "model": network(3, 2), "best_acc.weight": tensor(A)}, "best.net", 8),
        ({"other": {"moment": tensor(A), "square": tensor(A), "third": tensor(A)}, "q": network(1, 4)}, "q", 4),
        ({"q": network(2, 4), "args": {"lr": 0.1, "name": "x", "ratio": [1, (2.5, None)]}}, "q", 4),
    ],
)  # fmt: skip
def test_which_map_of_a_file_is_taken(tmp_path, save, content, place, first):
    found, what = read_weights(save(tmp_path / "w.pth", content))
    assert what.startswith(f"PyTorch, '{place}': ")
    np.testing.assert_array_equal(found["layer0.weight"], [first] * 2)
    beside = [key for key in ("ema", "model") if key in content and key != place]
    assert all(key in what.partition("not taken: ")[2] for key in beside)


def test_a_network_in_two_maps_side_by_side(tmp_path, save):
    parts = {"feat_model": {"module.conv1.weight": tensor(A)}, "classifier": {"module.fc.weight": tensor(A[:2])}}
    found, _ = read_weights(save(tmp_path / "w.pth", {"state_dict_best": parts, "epoch": 2}))
    assert set(found) == {"feat_model.module.conv1.weight", "classifier.module.fc.weight"}


def test_settings_and_scores_beside_the_weights_are_passed_over(tmp_path, save):
    options = called("argparse", "Namespace") + b")\x81}(X\x02\x00\x00\x00lrG" + struct.pack(">d", 0.1) + b"ub"
    score = called("numpy.core.multiarray", "scalar") + b"(" + called("numpy", "dtype") + b"(X\x02\x00\x00\x00f8tR"
    score += called("_codecs", "encode") + b"(X\x02\x00\x00\x00abX\x06\x00\x00\x00latin1tRtR"
    content = {"args": Raw(options), "best": Raw(score), "state_dict": network(2)}
    found, _ = read_weights(save(tmp_path / "w.pth", content))
    assert set(found) == {"layer0.weight", "layer1.weight"}


# ---- files that want to run something


def attacks(target):
    """Opcodes that would make a file at `target`, each in another way of calling."""
    line = f"import pathlib; pathlib.Path({str(target)!r}).touch()"
    text = b"X" + struct.pack("<I", len(line)) + line.encode()
    shell = f"touch {target}".encode()
    shell = b"X" + struct.pack("<I", len(shell)) + shell
    return {
        "os.system": called("os", "system") + b"(" + shell + b"tR",
        "posix.system": called("posix", "system") + b"(" + shell + b"tR",
        "builtins.exec": called("builtins", "exec") + b"(" + text + b"tR",
        "builtins.getattr": called("builtins", "getattr") + b"(" + called("os", "name") + text + b"tR",
        "subprocess.Popen": b"(" + shell + b"isubprocess\nPopen\n",
        "operator.attrgetter": b"X\x08\x00\x00\x00operatorX\x0a\x00\x00\x00attrgetter\x93(" + text + b"tR",
        "torch._utils.os.system": called("torch._utils", "os.system") + b"(" + shell + b"tR",
        "torch.load": called("torch", "load") + b"(" + shell + b"tR",
        "collections.namedtuple": called("collections", "namedtuple") + b"(" + text + b"tR",
    }


@pytest.mark.parametrize("name", attacks("x"))
def test_code_in_a_file_is_named_and_not_run(tmp_path, save, name):
    target = tmp_path / "was run"
    content = {"state_dict": network(1), "extra": Raw(attacks(target)[name])}
    refused(save(tmp_path / "w.pth", content), f"asks for {name}, ")
    (tmp_path / "bare.pkl").write_bytes(b"\x80\x02" + attacks(target)[name] + b".")
    refused(tmp_path / "bare.pkl", f"asks for {name}, ")
    assert not target.exists()


def test_a_file_cannot_change_our_functions(tmp_path, save):
    before = torch_pickle._tensor.__defaults__, dict(vars(torch_pickle._tensor))
    function = called("torch._utils", "_rebuild_tensor_v2")
    for state in (b"}(X\x01\x00\x00\x00aK\x01u", b"N}(X\x0c\x00\x00\x00__defaults__K\x01)u\x86"):
        refused(save(tmp_path / "w.pth", {"s": network(1), "x": Raw(function + state + b"b")}))
    placeholder = called("argparse", "Namespace") + b"}(X\x04\x00\x00\x00evilK\x01ub"
    refused(save(tmp_path / "w.pth", {"s": network(1), "x": Raw(placeholder)}))
    assert (torch_pickle._tensor.__defaults__, dict(vars(torch_pickle._tensor))) == before
    assert not hasattr(torch_pickle.Inert, "evil")


def test_a_file_cannot_put_something_in_the_place_of_the_bounds_check(tmp_path, save):
    writer = Tensor(Stored(A[0]), (900,), (1,))
    made = save(tmp_path / "w.pth", {"a.weight": writer})
    refused(made, "reaches to element 899")

    for name in ("_check", "array", "storage"):
        state = b"}(X" + struct.pack("<I", len(name)) + name.encode() + called("numpy", "dtype") + b"u"
        refused(save(tmp_path / "w.pth", {"a.weight": With(writer, state + b"b")}), "reaches to element 899")


def test_deep_keys_end_in_a_message(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.")
    refused(tmp_path / "w.pth", "a map with a key of type tuple")
    (tmp_path / "w.pth").write_bytes(b"\x80\x02\x8f(" + b")" + b"\x85" * 200_000 + b"\x90.")
    refused(tmp_path / "w.pth", "a map with a key of type tuple")
    (tmp_path / "w.pth").write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".")
    refused(tmp_path / "w.pth", "byte array")


# ---- damage


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (Tensor(Stored(A[0]), (9,), (1,)), "reaches to element 8 of a storage that has 8"),
        (Tensor(Stored(A[0]), (2, 2), (7, 1)), "reaches to element 8"),
        (Tensor(Stored(A[0]), (1,), (1,), 8), "reaches to element 8"),
        (Tensor(Stored(A[0]), (0,), (1,), 9), "begins at element 9"),
        (Tensor(Stored(A[0]), (2,), (1,), -1), "impossible place"),
        (Tensor(Stored(A[0]), (2,), (-1,), 4), "impossible place"),
        (Tensor(Stored(A[0]), (-2,), (1,)), "impossible place"),
        (Tensor(Stored(A[0]), (2, 2), (1,)), "impossible place"),
        (Tensor(Stored(A[0]), (True,), (1,)), "impossible place"),
        (Tensor(Stored(A[0]), (2.0,), (1,)), "impossible place"),
        (Tensor(Stored(A[0]), (10**12,), (0,)), "shows a storage of 8 elements as 1000000000000"),
        (Tensor(Stored(A[0], length=9), (2,), (1,)), "has 32 bytes, 36 are needed"),
        (Tensor(Stored(A[0], length=-1), (2,), (1,)), "a storage of -1 elements"),
        (Tensor(Stored(A[0].astype(np.complex64), "ComplexFloat"), (2,), (1,)), "ComplexFloatStorage"),
        (Tensor(Stored(A[0], "Imagined"), (2,), (1,)), "asks for torch.ImaginedStorage"),
    ],
)
def test_a_tensor_beyond_its_storage(tmp_path, save, made, said):
    content = {"good.weight": tensor(A), "good.bias": tensor(A), "bad.weight": made}
    message = refused(save(tmp_path / "w.pth", content), said)
    assert "bad.weight: " in message or "asks for" in message or "elements" in message


def test_a_tensor_that_nobody_takes_is_not_read(tmp_path, save):
    content = {"model": network(3), "optimizer": {"moments": Tensor(Stored(A[0], length=9), (2,), (1,))}}
    assert len(read_weights(save(tmp_path / "w.pth", content))[0]) == 3


def test_files_that_are_cut_short_or_changed_are_refused_or_read(tmp_path, save):
    path = save(tmp_path / "w.pth", {"state_dict": Ordered(views()[0]), "epoch": 3})
    whole, expected = path.read_bytes(), views()[1]
    for length in range(0, len(whole), 23):
        path.write_bytes(whole[:length])
        refused(path)
    rng = np.random.default_rng(1)
    for _ in range(150):
        changed = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            found, _ = read_weights(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017
        else:
            assert len(found) <= len(expected)


def test_an_index_that_would_fill_the_memory(tmp_path):
    (tmp_path / "w.pth").write_bytes(
        b"\x80\x02Nr\xff\xff\xff\x7f."
    )  # the compiled unpickler makes room for 2^32 values
    refused(tmp_path / "w.pth", "not one by torch.save")


def test_other_zip_archives_and_pickles(tmp_path):
    np.savez(tmp_path / "w.npz", a=A)
    refused(tmp_path / "w.npz", "data.pkl")
    refused(archive(tmp_path / "z.pth", network(1), compression=zipfile.ZIP_DEFLATED), "compressed")
    refused(legacy(tmp_path / "v.pth", network(1), version=1002), "version 1002")
    with zipfile.ZipFile(archive(tmp_path / "s.pt", network(1)), "a") as file:
        file.writestr("archive/constants.pkl", b"\x80\x02).")
    refused(tmp_path / "s.pt", "TorchScript")
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as file:
        file.writestr("a/data.pkl", Writer().pickle({"x.weight": tensor(A)}))
    refused(tmp_path / "m.pt", "lacks a/data/0")
    module = called("torchvision.models.resnet", "ResNet") + b")\x81}b"
    refused(archive(tmp_path / "n.pt", Raw(module)), "torchvision.models.resnet.ResNet", "state_dict() alone")
    for number, content in enumerate(({}, {"a": 1}, [tensor(A)], {"x": tensor(A)}, {1: tensor(A)})):
        refused(archive(tmp_path / f"{number}.pt", content), "holds no map from names to weights")


# ---- the other kinds


def safe(path, entries):
    """A file by its published layout: the header's length, a header of JSON, the data."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (kind, shape, data) in entries.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data for _, _, data in entries.values()))
    return path


def test_safetensors(tmp_path):
    exact = np.array([1.0, -2.5, 3.140625], np.float32)
    entries = {
        "a.weight": ("F32", [6, 8], A.tobytes()),
        "bf.weight": ("BF16", [3], (exact.view(np.uint32) >> 16).astype("<u2").tobytes()),
        "half.weight": ("F16", [2], np.array([0.5, -4], "<f2").tobytes()),
        "double.weight": ("F64", [2, 1], np.array([0.1, 7], "<f8").tobytes()),
        "count": ("I64", [], np.array(9, "<i8").tobytes()),
        "mask": ("BOOL", [2], b"\x01\x00"),
    }
    for name in ("w.safetensors", "w.bin"):
        found, what = read_weights(safe(tmp_path / name, entries))
        assert what == "safetensors: 6 tensors"
        expected = {"a.weight": A, "bf.weight": exact, "half.weight": np.array([0.5, -4]), "count": np.array(9)}
        expected |= {"double.weight": np.array([[0.1], [7]], np.float32), "mask": np.array([True, False])}
        assert set(found) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(found[key], value, err_msg=key)
        assert all(found[key].dtype == np.float32 for key in found if key.endswith("weight"))
    whole = (tmp_path / "w.safetensors").read_bytes()
    for length in (0, 5, 8, 60, len(whole) - 1):
        (tmp_path / "w.safetensors").write_bytes(whole[:length])
        refused(tmp_path / "w.safetensors", "damaged")
    refused(safe(tmp_path / "f8.safetensors", {"x": ("F8_E4M3", [1], b"\x00")}))
    refused(safe(tmp_path / "none.safetensors", {}), "no tensor")


def test_mindspore_checkpoints(tmp_path):
    halves = ms.Tensor(np.array([1.0, -2.5, 3.140625], np.float32))
    rows = [
        {"name": "conv1.weight", "data": ms.Tensor(A)},
        {"name": "bf.weight", "data": halves.astype(ms.bfloat16)},
        {"name": "half.weight", "data": halves.astype(ms.float16)},
        {"name": "count", "data": ms.Tensor(np.array(4, np.int32))},
    ]
    for number, options in enumerate(({}, {"crc_check": True}, {"append_dict": {"epoch_num": 3, "note": "x"}})):
        path = tmp_path / f"{number}.ckpt"
        ms.save_checkpoint(rows, str(path), **options)
        found, what = read_weights(path)
        assert set(found) >= {"conv1.weight", "bf.weight", "half.weight", "count"}
        np.testing.assert_array_equal(found["conv1.weight"], A)
        for name in ("bf.weight", "half.weight"):
            np.testing.assert_array_equal(found[name], halves.asnumpy())
            assert found[name].dtype == np.float32
        assert what == f"MindSpore: {len(found)} tensors"


def test_a_runs_own_checkpoints(tmp_path):
    cell = nn.Dense(3, 2)
    checkpoints.write(tmp_path / "last.ckpt", cell, checkpoints.Position(draw=7, fingerprint="f"))
    found, _ = read_weights(tmp_path / "last.ckpt")
    assert {name: value.tolist() for name, value in found.items()} == {
        p.name: p.asnumpy().tolist() for p in cell.get_parameters()
    }
    whole = bytearray((tmp_path / "last.ckpt").read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(whole)
    refused(tmp_path / "last.ckpt", "damaged")
    empty = SimpleNamespace(get_parameters=lambda: [Parameter(ms.Tensor(A), name="a")])
    checkpoints.write(tmp_path / "other.ckpt", empty, checkpoints.Position())
    assert list(read_weights(tmp_path / "other.ckpt")[0]) == ["a"]


def test_a_checkpoint_of_pytorchs_that_is_called_ckpt(tmp_path, save):
    assert read_weights(save(tmp_path / "lightning.ckpt", {"state_dict": network(2)}))[1].startswith("PyTorch")


def test_files_that_are_nothing_of_the_kind(tmp_path):
    refused(tmp_path / "none.pth", "missing")
    refused(tmp_path, "no file")
    for name, data in (
        ("a.pth", b""),
        ("b.pth", b"hello, world"),
        ("c.h5", b"\x89HDF\r\n\x1a\n"),
        ("d.png", b"\x89PNG"),
    ):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path / name, "none of the files that can be read", ".safetensors")
    (tmp_path / "e.ckpt").write_bytes(b"hello, world")
    refused(tmp_path / "e.ckpt", "damaged")
