"""Parts of a network that rest: their names, what stays to the last bit, and what is trained again afterwards."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor
from test_models import forward

import ms_longtail.models  # noqa: F401  (fills the registry)
from ms_longtail import kernels
from ms_longtail.losses import CrossEntropy
from ms_longtail.models.freezing import freeze, parameters_in, parameters_of, rests
from ms_longtail.models.norm import Norm
from ms_longtail.objectives import Classification
from ms_longtail.parameters import assign
from ms_longtail.registry import MODELS
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

B, C = 6, 4
RNG = np.random.default_rng(8)
IMAGES = RNG.integers(0, 256, (3, B, 3, 16, 16)).astype(np.uint8)
LABELS = RNG.integers(0, C, (3, B)).astype(np.int32)
RATE = 0.01


def network(head="linear", **settings):
    """A network, and the names of what is trained where nothing rests."""
    model = MODELS.get("resnet8_cifar")(num_classes=C, seed=6, head=head, **settings)
    rng = np.random.default_rng(1)
    for parameter in model.get_parameters():
        if "moving" in parameter.name:
            assign(parameter, rng.uniform(0.5, 1.5, parameter.shape))
    return model, [p.name for p in model.trainable_params()]


def stage(model, trainable, parts, norm="running", **settings):
    """A stage's step around the network, as the trainer makes it."""
    resting = freeze(model, parts, trainable, norm)
    objective = Classification(model, CrossEntropy())
    objective.fixed |= resting
    optimizer = sgd(objective.trainable_params(), [RATE] * 8, momentum=0.9, weight_decay=1e-2)
    step = TrainStep(objective, optimizer, **settings)
    step.set_train()
    return step


def run(step, steps=2):
    for number in range(steps):
        loss, finite = step(Tensor(IMAGES[number]), Tensor(LABELS[number]))
        assert bool(finite.asnumpy())
        assert np.isfinite(loss.asnumpy())


def state(cell):
    return {p.name: p.asnumpy().copy() for p in cell.get_parameters()}


def changed(before, after):
    """Names of the parameters of which at least one bit is another."""
    assert set(before) == set(after)
    return {name for name in before if before[name].tobytes() != after[name].tobytes()}


def split(model):
    """Names of the backbone's (weights, statistics), and of the head's weights."""
    names = [p.name for p in model.get_parameters()]
    statistics = {n for n in names if n.endswith(("moving_mean", "moving_variance"))}
    backbone = {n for n in names if n.startswith("backbone.")} - statistics
    head = {n for n in names if n.startswith("head.")}
    assert backbone | statistics | head == set(names)
    assert statistics
    return backbone, statistics, head


# ---- names


def test_names_of_parts():
    model, _ = network("disalign")
    names = {p.name for p in model.get_parameters()}
    own = {f"head.calibration.{n}" for n in ("scale", "shift", "weight", "offset")}
    assert parameters_of(model, "classifier") == {"head.weight", "head.bias"}
    assert parameters_of(model, "calibration") == own
    assert parameters_of(model, "head") == {"head.weight", "head.bias"} | own
    assert parameters_of(model, "backbone") == {n for n in names if n.startswith("backbone.")}
    layer = parameters_of(model, "backbone.layer3")
    assert layer == {n for n in names if n.startswith("backbone.layer3.")}
    assert "backbone.layer3.0.bn2.moving_mean" in layer
    assert parameters_of(model, "backbone.layer3.0.conv1") == {"backbone.layer3.0.conv1.weight"}
    assert parameters_of(model, "backbone.layer3.0.conv1.weight") == {"backbone.layer3.0.conv1.weight"}


def test_names_of_several_parts():
    model, _ = network()
    parts = ["backbone.layer1", "classifier", "backbone.layer1.0"]
    assert parameters_in(model, parts) == parameters_of(model, "backbone.layer1") | {"head.weight", "head.bias"}
    assert parameters_in(model, []) == frozenset()


@pytest.mark.parametrize(
    ("part", "near"),
    [
        ("backbone.layer", "backbone.layer"),  # a path ends at a dot
        ("backbone.layer4", "backbone.layer"),
        ("backbon", "backbone"),
        ("clasifier", "classifier"),
        ("head.wieght", "head"),
        ("ack", None),
        ("", None),
    ],
)
def test_what_is_not_there_is_refused_with_what_is_near(part, near):
    model, names = network()
    for call in (
        lambda: parameters_of(model, part),
        lambda: parameters_in(model, ["backbone", part]),
        lambda: freeze(model, ["backbone", part], names),
    ):
        with pytest.raises(ValueError, match="the network has no such part") as caught:
            call()
        message = str(caught.value)
        assert repr(part) in message
        assert "its parts: classifier, " in message
        for known in ("backbone", "backbone.layer1", "backbone.conv1", "head"):
            assert known in message
        assert near is None or f"did you mean '{near}" in message


def test_a_refused_part_leaves_the_network_as_it_was():
    model, names = network()
    with pytest.raises(ValueError):
        freeze(model, ["backbone", "nothing"], names)
    assert [p.name for p in model.trainable_params()] == names
    assert all(cell.use_batch_statistics is None for _, cell in model.cells_and_names() if isinstance(cell, Norm))


def test_a_linear_head_has_no_calibration():
    model, _ = network()
    with pytest.raises(ValueError, match="'calibration': the network has no such part"):
        parameters_of(model, "calibration")


def test_two_branches_are_parts_too():
    model, names = network(branches=2)
    part = parameters_of(model, "backbone.branches.conventional")
    assert len(part) == 2 + 2 * 4
    freeze(model, ["backbone.branches.conventional"], names)
    assert {p.name for p in model.trainable_params()} == set(names) - part


# ---- what freeze says


def test_what_is_fixed_and_what_is_trained():
    model, names = network()
    backbone, statistics, head = split(model)
    assert not rests(model)
    assert freeze(model, ["backbone"], names) == backbone | statistics
    assert rests(model)
    assert {p.name for p in model.trainable_params()} == head
    assert freeze(model, ["backbone"], names, "batch") == backbone
    assert rests(model)
    assert freeze(model, [], names) == frozenset()
    assert not rests(model)
    assert [p.name for p in model.trainable_params()] == names
    assert freeze(model, ["head"], names) == head
    assert not rests(model)
    part = parameters_of(model, "backbone.layer2")
    assert freeze(model, ["backbone.layer2"], names) == part
    assert not rests(model)
    for _, cell in model.cells_and_names():
        if isinstance(cell, Norm):
            assert cell.use_batch_statistics is (False if cell.gamma.name in part else None)


def test_what_was_never_trained_is_not_trained_after_a_thaw():
    model, names = network()
    names.remove("backbone.conv1.weight")
    assert "backbone.conv1.weight" not in freeze(model, ["classifier"], names)
    freeze(model, [], names)
    assert [p.name for p in model.trainable_params()] == names


# ---- steps


def test_a_backbone_that_rests_with_running_statistics_stays_to_the_last_bit(mode):
    model, names = network()
    _, _, head = split(model)
    step = stage(model, names, ["backbone"])
    before = state(model)
    run(step, 3)
    assert changed(before, state(model)) == head


def test_with_the_batch_s_statistics_the_running_ones_move_and_the_weights_do_not(mode):
    model, names = network()
    _, statistics, head = split(model)
    step = stage(model, names, ["backbone"], "batch")
    before = state(model)
    run(step, 1)
    after = state(model)
    assert changed(before, after) == head | statistics
    # As they move where nothing rests: the first step sees the same weights.
    free, names = network()
    run(stage(free, names, []), 1)
    free = state(free)
    for name in statistics | head:
        assert_close(after[name], free[name])
    run(step)
    assert changed(after, state(model)) == head | statistics


def test_frozen_then_free_then_frozen(mode):
    """One network, stage after stage in one process, graphs compiled before notwithstanding."""
    model, names = network()
    backbone, statistics, head = split(model)
    start = state(model)

    def check(parts, norm, expected):
        step = stage(model, names, parts, norm)
        before = state(model)
        run(step)
        assert changed(before, state(model)) == expected

    check(["backbone"], "running", head)
    for parameter in model.get_parameters():
        assign(parameter, start[parameter.name])
    check([], "running", backbone | statistics | head)
    other, _ = network()  # which never rested, and has taken the same two steps
    run(stage(other, names, []))
    expected = state(other)
    for name, value in state(model).items():
        assert_close(value, expected[name])
    check(["backbone"], "running", head)
    check(["backbone"], "batch", statistics | head)


def test_layers_that_rest_between_layers_that_do_not(mode):
    model, names = network()
    still = parameters_of(model, "backbone.layer2") | {"head.weight", "head.bias"}
    step = stage(model, names, ["backbone.layer2", "classifier"])
    before = state(model)
    run(step)
    assert changed(before, state(model)) == set(before) - still


def test_the_head_s_step_is_that_of_the_free_network_and_of_the_formula(mode):
    """With the same statistics, whether the backbone rests or not is nothing to the head."""
    after = []
    for parts in ([], ["backbone"]):
        model, names = network()
        start = state(model)
        features = forward({name: value.astype(np.float64) for name, value in start.items()}, IMAGES[0], 8)[1]
        step = stage(model, names, parts)
        for _, cell in model.cells_and_names():
            if isinstance(cell, Norm):
                cell.use_batch_statistics = False
        run(step, 1)
        after.append(state(model))
        weight, bias = (start[f"head.{n}"].astype(np.float64) for n in ("weight", "bias"))
        z = features @ weight.T + bias
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        error = (p - np.eye(C)[LABELS[0]]) / B
        assert_close(after[-1]["head.weight"], weight - RATE * (error.T @ features + 1e-2 * weight))
        assert_close(after[-1]["head.bias"], bias - RATE * (error.sum(axis=0) + 1e-2 * bias))
    for name in ("head.weight", "head.bias"):
        assert_close(after[1][name], after[0][name])
    moved = changed(after[0], after[1])
    assert "backbone.conv1.weight" in moved  # the free one did train its backbone


def test_micro_batches_with_a_backbone_at_rest(mode):
    model, names = network()
    _, _, head = split(model)
    run(stage(model, names, ["backbone"]), 1)
    other, names = network()
    step = stage(other, names, ["backbone"], accumulate=2)
    before = state(other)
    for part in (0, 1):
        cut = slice(3 * part, 3 * part + 3)
        step(Tensor(IMAGES[0][cut]), Tensor(LABELS[0][cut]), Tensor([part], ms.int32))
    after = state(other)
    assert changed(before, after) == head
    for name, value in state(model).items():
        assert_close(after[name], value)


@pytest.mark.parametrize("norm", ["running", "batch"])
@pytest.mark.parametrize("parts", [("backbone",), ("backbone.layer1", "backbone.layer3")])
def test_a_loss_that_is_not_finite_leaves_everything_untouched(mode, parts, norm):
    model, names = network()
    step = stage(model, names, parts, norm)

    def take(images=IMAGES[0]):
        loss, finite = step(Tensor(images, ms.float32), Tensor(LABELS[0]))
        return float(loss.asnumpy()), bool(finite.asnumpy())

    def assert_refused(**images):
        before, skipped = state(step), int(step.skipped.asnumpy())
        loss, finite = take(**images)
        # Without the compiled operators MindSpore's own rectifier makes 0 of what an image spoils.
        assert not np.isfinite(loss) or (images and kernels.reason())
        assert not finite
        assert int(step.skipped.asnumpy()) == skipped + 1
        assert changed(before, state(step)) == {"skipped", "skipped_in_row"}

    assert take()[1]
    bias = model.head.bias.asnumpy().copy()
    for bad in (np.nan, np.inf):
        assign(model.head.bias, np.where(np.arange(C) == 1, bad, bias))
        assert_refused()
    assign(model.head.bias, bias)
    if norm == "batch":  # statistics that are not finite have been written by then
        broken = IMAGES[0].astype(np.float32)
        broken[2, 1, 5, 5] = np.nan
        assert_refused(images=broken)
    before = state(step)
    assert take()[1]
    assert "head.weight" in changed(before, state(step))
    assert int(step.skipped_in_row.asnumpy()) == 0
    assert all(np.isfinite(value).all() for value in state(model).values())


def test_learnable_weight_scaling_trains_its_scales_alone(mode):
    model, names = network("lws")
    step = stage(model, names, ["calibration"])
    before = state(model)
    run(step, 1)
    assert changed(before, state(model)) == set(before) - {"head.calibration.scale"}
    step = stage(model, names, ["backbone", "classifier"])
    assert [p.name for p in step.weights] == ["head.calibration.scale"]
    before = state(model)
    run(step)
    assert changed(before, state(model)) == {"head.calibration.scale"}


def test_distribution_alignment_trains_its_corrections_alone(mode):
    model, names = network("disalign")
    step = stage(model, names, ["backbone", "classifier"])
    before = state(model)
    run(step, 3)
    assert changed(before, state(model)) == {f"head.calibration.{n}" for n in ("scale", "shift", "weight", "offset")}
