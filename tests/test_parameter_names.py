"""Names of other libraries' residual networks for ours: tables made from the published layouts, not from the code."""

from unittest.mock import patch

import numpy as np
import pytest

from ms_longtail.models.parameter_names import by_own_name, own_name
from ms_longtail.models.pretrained import architecture, explain, match
from ms_longtail.registry import MODELS

ZERO = np.float32(0)
PUBLISHED = {  # blocks, bottleneck, groups, width of a group
    "resnet10": ((1, 1, 1, 1), False, 1, 64),
    "resnet18": ((2, 2, 2, 2), False, 1, 64),
    "resnet34": ((3, 4, 6, 3), False, 1, 64),
    "resnet50": ((3, 4, 6, 3), True, 1, 64),
    "resnet101": ((3, 4, 23, 3), True, 1, 64),
    "resnet152": ((3, 8, 36, 3), True, 1, 64),
    "resnext50_32x4d": ((3, 4, 6, 3), True, 32, 4),
    "resnext101_32x4d": ((3, 4, 23, 3), True, 32, 4),
}
TORCH = {
    "gain": "weight",
    "shift": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "short": "downsample",
    "fc": "fc",
}
MINDSPORE = {"gain": "gamma", "shift": "beta", "mean": "moving_mean", "var": "moving_variance"}
STYLES = {
    "torchvision": TORCH,
    "model zoo": MINDSPORE | {"short": "down_sample_layer", "fc": "end_point"},
    "mindcv": MINDSPORE | {"short": "down_sample", "fc": "classifier"},
    "last_linear": TORCH | {"fc": "last_linear"},
    "linear": TORCH | {"short": "shortcut", "fc": "linear"},
    "head.fc": TORCH | {"fc": "head.fc"},
    "ours": MINDSPORE | {"short": "shortcut", "fc": "head", "wrapped": "backbone."},
}


def layout(name, style="torchvision", classes=1000):
    """[(name in a style, name in ours, shape)] of a network."""
    words, rows = STYLES[style], []
    ours = STYLES["ours"]

    def norm(path, own, width):
        for part in ("gain", "shift", "mean", "var"):
            rows.append((f"{path}.{words[part]}", f"{own}.{ours[part]}", (width,)))

    def conv(path, own, *shape):
        rows.append((f"{path}.weight", f"{own}.weight", shape))

    if name.endswith("_cifar"):
        count = (int(name[6:-6]) - 2) // 6
        counts, deep, groups, base, stem, side, widths = (count,) * 3, False, 1, 64, 16, 3, (16, 32, 64)
    else:
        counts, deep, groups, base = PUBLISHED[name]
        stem, side, widths = 64, 7, (64, 128, 256, 512)
    conv("conv1", "conv1", stem, 3, side, side)
    norm("bn1", "bn1", stem)
    inputs, expansion = stem, 4 if deep else 1
    for number, (blocks, width) in enumerate(zip(counts, widths, strict=True), 1):
        for block in range(blocks):
            at, outputs, inner = f"layer{number}.{block}", width * expansion, width * base // 64 * groups
            shapes = [(inner, inputs, 1, 1), (inner, inner // groups, 3, 3), (outputs, inner, 1, 1)]
            shapes = shapes if deep else [(width, inputs, 3, 3), (width, width, 3, 3)]
            for step, shape in enumerate(shapes, 1):
                conv(f"{at}.conv{step}", f"{at}.conv{step}", *shape)
                norm(f"{at}.bn{step}", f"{at}.bn{step}", shape[0])
            if stem == 64 and inputs != outputs:
                conv(f"{at}.{words['short']}.0", f"{at}.shortcut.0", outputs, inputs, 1, 1)
                norm(f"{at}.{words['short']}.1", f"{at}.shortcut.1", outputs)
            inputs = outputs
    rows = [(words.get("wrapped", "") + path, f"backbone.{own}", shape) for path, own, shape in rows]
    rows += [
        (f"{words['fc']}.weight", "head.weight", (classes, inputs)),
        (f"{words['fc']}.bias", "head.bias", (classes,)),
    ]
    return rows


def file(rows, wrapped=""):
    """What is read of a file with these names; the arrays take no memory."""
    return {wrapped + name: np.broadcast_to(ZERO, shape) for name, _, shape in rows}


def own(name, classes=1000, **settings):
    """Names and shapes of one of our networks; its weights are drawn for nobody."""
    with patch("ms_longtail.models.resnet.initialise"), patch("ms_longtail.models.cifar_resnet.initialise"):
        return {p.name: p.shape for p in MODELS.get(name)(num_classes=classes, **settings).get_parameters()}


def shapes(name, classes=1000):
    """Names and shapes of one of our networks without building it."""
    return {known: shape for _, known, shape in layout(name, classes=classes)}


@pytest.mark.parametrize("name", ["resnet10", "resnet50", "resnet20_cifar"])
def test_the_table_of_this_file_is_that_of_our_networks(name):
    assert own(name) == shapes(name)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet32_cifar"])
def test_every_style_of_names(name, style):
    rows = layout(name, style)
    found = file(rows) | {"bn1.num_batches_tracked": np.array(3), "layer1.0.bn1.num_batches_tracked": np.array(3)}
    matched = match(shapes(name), found)
    assert matched.assigned == {known: theirs for theirs, known, _ in rows}
    assert (matched.missing, matched.left_over, matched.wrong_shape, matched.head) == ({}, {}, [], "")
    assert not matched.foreign


WRAPPED = (
    "module.",
    "model.",
    "backbone.",
    "encoder.",
    "module.encoder.",
    "module.base_encoder.",
    "network.",
    "net.",
    "0.",
)
WRAPPED += ("module.feat_model.", "module.model.backbone.", "module.encoder_q.")


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_what_networks_are_wrapped_in(wrapped):
    rows = layout("resnet18")
    matched = match(shapes("resnet18"), file(rows, wrapped))
    assert matched.assigned == {known: wrapped + theirs for theirs, known, _ in rows}
    assert not matched.left_over


def test_copies_for_other_ends_are_left_out():
    rows = layout("resnet18", classes=128)
    found = file(rows, "module.encoder_q.") | file(rows, "module.encoder_k.") | {"module.queue": np.zeros((128, 9))}
    found |= file(rows, "teacher.") | file(rows, "moments.backbone.") | file(rows, "keys.network.backbone.")
    matched = match(shapes("resnet18"), found)
    assert all(source.startswith("module.encoder_q.") for source in matched.assigned.values())
    assert len(matched.assigned) == len(rows) - 2
    assert len(matched.left_over) == 4 * len(rows) + 1
    assert "(128, 512) in the file and (1000, 512) here" in matched.head
    assert not matched.foreign


def test_of_two_that_mean_the_same_the_one_with_the_most_company_counts():
    rows = layout("resnet18")
    found = {"conv1.weight": np.broadcast_to(ZERO, (64, 3, 7, 7))} | file(rows, "model.")
    assert by_own_name(found)["backbone.conv1.weight"] == "model.conv1.weight"
    assert by_own_name(reversed(found))["backbone.conv1.weight"] == "model.conv1.weight"
    matched = match(shapes("resnet18"), found)
    assert not matched.foreign
    assert list(matched.left_over) == ["conv1.weight"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("classifier.module.fc.weight", "head.weight"),
        ("feat_model.module.layer4.2.bn3.running_mean", "backbone.layer4.2.bn3.moving_mean"),
        ("head.calibration.scale", "head.calibration.scale"),
        ("fc.0.weight", None),
        ("projector.0.weight", None),
        ("0.weight", None),
        ("weight", None),
        ("", None),
        ("module", None),
        ("layer1", None),
        ("encoder_k.fc.weight", None),
        ("backbone.branches.each.0.1.0.bn1.gamma", "backbone.branches.each.0.1.0.bn1.gamma"),
        ("layer1.0.downsample.0.bias", "backbone.layer1.0.shortcut.0.bias"),
    ],
)
def test_single_names(name, expected):
    assert own_name(name) == expected


# ---- copies of a block


@pytest.mark.parametrize(("name", "trunk"), [("resnet10", 0), ("resnet18", 1), ("resnet20_cifar", 2)])
def test_the_last_block_goes_into_both_branches(name, trunk):
    last = "layer3" if name.endswith("cifar") else "layer4"
    rows, network = layout(name, classes=10), own(name, branches=2, classes=10)
    matched = match(network, file(rows))
    assert not matched.foreign
    assert not matched.left_over.keys() - {"fc.weight", "fc.bias"}
    theirs = {known: path for path, known, _ in rows}
    copies = 0
    for name, source in matched.assigned.items():
        for branch in ("conventional", "rebalancing"):
            if (start := f"backbone.branches.{branch}.") in name:
                assert source == theirs[name.replace(start, f"backbone.{last}.{trunk}.")]
                copies += 1
    assert copies == 2 * sum(path.startswith(f"{last}.{trunk}.") for path, _, _ in rows)
    assert set(matched.missing) | {name for name, *_ in matched.wrong_shape} == {"head.weight", "head.bias"} - set(
        matched.assigned
    )


@pytest.mark.parametrize(("name", "layers"), [("resnet10", (3, 4)), ("resnet20_cifar", (2, 3))])
def test_late_layers_go_into_every_expert(name, layers):
    rows = layout(name, classes=10)
    theirs = {known: path for path, known, _ in rows}
    matched = match(own(name, experts=3, expert_width=1.0, classes=10), file(rows))
    assert not matched.foreign
    assert not matched.narrower
    for expert in range(3):
        for step, layer in enumerate(layers):
            start = f"backbone.branches.each.{expert}.{step}."
            parts = {known for known in theirs if known.startswith(f"backbone.layer{layer}.")}
            copied = {name: source for name, source in matched.assigned.items() if name.startswith(start)}
            assert copied == {known.replace(f"backbone.layer{layer}.", start): theirs[known] for known in parts}


def test_narrower_experts_begin_anew_and_are_listed():
    rows = layout("resnet10", classes=10)
    matched = match(own("resnet10", experts=2, classes=10), file(rows))
    assert not matched.foreign
    late = [known for _, known, _ in rows if known.startswith(("backbone.layer3.", "backbone.layer4."))]
    assert len(matched.narrower) == 2 * len(late)
    assert set(matched.assigned) == {known for _, known, _ in rows if known.startswith("backbone.")} - set(late)
    assert not matched.strange  # they are listed with their shapes, once
    assert match(own("resnet10", experts=2, classes=10), file(layout("resnet18"))).foreign


@pytest.mark.parametrize("settings", [{"branches": 2}, {"experts": 2}, {"head": "disalign"}, {"head": "cosine"}])
def test_our_own_checkpoints(settings):
    network = own("resnet8_cifar", classes=10, **settings)
    found = {name: np.zeros(shape, np.float32) for name, shape in network.items()}
    found |= {f"moments.{name}": value for name, value in found.items()} | {"global_step": np.zeros(1)}
    matched = match(network, found)
    assert matched.assigned == {name: name for name in network}
    assert not matched.foreign
    assert len(matched.left_over) == len(network) + 1


# ---- the head


@pytest.mark.parametrize(
    ("settings", "head", "why"),
    [
        ({}, "auto", ""),
        ({}, "keep", ""),
        ({}, "skip", "the recipe leaves it out"),
        ({"classes": 9}, "auto", "head.weight has shape (10, 64) in the file and (9, 64) here"),
        ({"classes": 9}, "keep", "head.weight has shape (10, 64) in the file and (9, 64) here"),
        ({"head": "lws"}, "auto", ""),
        ({"head": "cosine"}, "auto", "the file's has a head.bias, which this one has no place for"),
        ({"branches": 2}, "auto", "head.weight has shape (10, 64) in the file and (10, 128) here"),
    ],
)
def test_the_head_is_taken_whole_or_not_at_all(settings, head, why):
    rows = layout("resnet8_cifar", classes=10)
    matched = match(own("resnet8_cifar", **{"classes": 10} | settings), file(rows), head)
    assert matched.head == why
    taken = {name for name in matched.assigned if name.startswith("head.")}
    assert taken == (set() if why else {"head.weight", "head.bias"})
    assert not matched.foreign
    assert len(matched.assigned) >= len(rows) - 2


def test_heads_that_are_not_whole():
    network, rows = shapes("resnet8_cifar", 10), layout("resnet8_cifar", classes=10)
    backbone = {name: value for name, value in file(rows).items() if not name.startswith("fc")}
    for extra, why in (
        ({}, "the file has none"),
        ({"fc.weight": np.zeros((10, 64))}, "head.bias is missing in the file"),
        ({"fc.weight": np.zeros((10, 64)), "fc.bias": np.zeros(9)}, "head.bias has shape (9,)"),
        ({"fc.0.weight": np.zeros((10, 64))}, "the file has none"),
        ({"head.calibration.scale": np.zeros(10)} | {f"fc.{n}": np.zeros(s) for n, s in (("weight", (10, 64)), ("bias", (10,)))},
         "the file's has a head.calibration.scale"),
    ):  # fmt: skip
        matched = match(network, backbone | extra)
        assert matched.head.startswith(why)
        assert set(matched.assigned) == {name for name in network if name.startswith("backbone.")}
        assert not matched.foreign
        assert set(extra) == set(matched.left_over) | {source for _, source, *_ in matched.wrong_shape}


# ---- another architecture


@pytest.mark.parametrize("name", [*PUBLISHED, "resnet8_cifar", "resnet32_cifar", "resnet110_cifar"])
def test_whose_weights_they_are(name):
    assert architecture(file(layout(name), "module.")) == name
    others = [other for other in (*PUBLISHED, "resnet20_cifar") if other != name]
    for other in others:
        matched = match(shapes(other), file(layout(name)))
        assert matched.foreign
        text = explain(matched, model=other, found=file(layout(name)))
        assert f"of another architecture than {other}: they are those of {name}; set model.name: {name}" in text


def test_every_network_of_the_registry_has_its_row():
    assert set(MODELS.names()) == set(PUBLISHED) | {f"resnet{n}_cifar" for n in (8, 20, 32, 44, 56, 110)}


def test_networks_that_are_none_of_ours():
    deep = {name.replace("conv1", "stem.0"): value for name, value in file(layout("resnet50")).items()}
    for found in (deep, {}, {"x.weight": np.zeros(2)}, file(layout("resnet18")[:-20])):
        assert architecture(found) is None
        assert match(shapes("resnet50"), found).foreign
    wide = {"layer1.0.conv2.weight": np.broadcast_to(ZERO, (128, 128, 3, 3))}
    assert architecture(file(layout("resnet50")) | wide) is None


def test_the_message_lists_both_sides_with_numbers():
    matched = match(shapes("resnet34"), file(layout("resnet18")))
    text = explain(matched, model="resnet34", found=file(layout("resnet18")))
    more = len(layout("resnet34")) - len(layout("resnet18"))
    assert f"{more} of the network, not in the file: backbone.layer1.2.conv1.weight (64, 64, 3, 3), " in text
    assert text.endswith(f", and {more - 10} more")
    other = {"blocks.0.attn.qkv.weight": np.zeros((6, 2))}
    text = explain(match(shapes("resnet34"), other), model="resnet34", found=other)
    assert "1 in the file, not of the network: blocks.0.attn.qkv.weight (6, 2)" in text
    extra = file(layout("resnet18")) | {"layer1.0.se.fc1.weight": np.zeros((4, 64, 1, 1))}
    matched = match(shapes("resnet18"), extra)
    assert matched.strange == ("layer1.0.se.fc1.weight",)
    assert "1 in the file, not of the network: layer1.0.se.fc1.weight (4, 64, 1, 1)" in explain(
        matched, model="resnet18", found=extra
    )
