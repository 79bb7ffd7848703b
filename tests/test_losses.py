"""What every loss of the registry keeps to (a loss added tomorrow too), the base class, and cross-entropy by hand."""

import inspect

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from loss_oracles import DENOMINATOR, HARD, ORACLES
from mindspore import Tensor, nn
from mindspore.dataset import NumpySlicesDataset

from ms_longtail.losses import Loss, cost_sensitive, effective_number
from ms_longtail.objectives import Classification
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES

COUNTS = [500, 120, 40, 12, 3]
B, C, D = 10, len(COUNTS), 6
RNG = np.random.default_rng(8)
LOGITS = RNG.normal(0, 2, (B, C)).astype(np.float32)
LABELS = np.array([0, 4, 0, 2, 0, 4, 0, 1, 0, 0])  # crl finds anchors in class 4; class 3 is absent
OTHERS = np.array([0, 0, 1, 0, 3, 2, 0, 4, 0, 1])  # the other half of a mixed batch
SHARE = RNG.uniform(0.1, 0.9, B).astype(np.float32)
TARGETS = (0.75 * np.eye(C)[LABELS] + 0.25 * np.eye(C)[OTHERS]).astype(np.float32)
EXTRA = {  # what a loss may name in `needs`
    "features": RNG.normal(size=(B, D)).astype(np.float32),
    "teacher_logits": RNG.normal(size=(B, C)).astype(np.float32),
}
DRAWS = np.arange(100, 100 + B)
DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
EVERY_LOSS = sorted(LOSSES)
NEEDS = {"influence_balanced": ("features",), "dive": ("teacher_logits",), "kd": ("teacher_logits",)}

ATTRIBUTES = {"batchwise": {"lade", "crl"}, "stateful": {"eqlv2", "softmax_eql"}, "random": {"seql"}}


def build(name, **settings):
    return LOSSES.get(name)(**{"class_counts": COUNTS} | settings)


def extra(loss, part=slice(None)):
    """Keyword inputs beside logits and labels."""
    inputs = {key: Tensor(EXTRA[key][part]) for key in loss.needs}
    return inputs | ({"draws": Tensor(DRAWS[part], ms.int32)} if loss.random else {})


def integers(labels, dtype=ms.int32):
    return Tensor(labels).astype(dtype)


def call(loss, logits=LOGITS, labels=LABELS, dtype="float32", label_dtype=ms.int32, part=slice(None)):
    """The loss as NumPy float32."""
    value = loss(Tensor(logits).astype(DTYPES[dtype]), Tensor(labels).astype(label_dtype), **extra(loss, part))
    assert value.dtype == ms.float32
    return value.asnumpy()


def totals(loss, labels=LABELS, part=slice(None), **share):
    """(numerator, denominator) as floats."""
    results = loss.totals(Tensor(LOGITS[part]), integers(labels[part]), **extra(loss, part), **share)
    assert [result.dtype for result in results] == [ms.float32, ms.float32]
    assert [result.shape for result in results] == [(), ()]
    return np.array([float(result) for result in results])


def value_and_gradient(loss, logits=LOGITS, labels=LABELS, label_dtype=ms.int32):
    """The loss and its gradient by the logits, as NumPy."""
    more = [Tensor(EXTRA[key]) for key in ("features", "teacher_logits")]
    if loss.random:
        more.append(Tensor(DRAWS, ms.int32))
    results = ms.value_and_grad(loss)(Tensor(logits), Tensor(labels).astype(label_dtype), *more)
    return tuple(result.asnumpy() for result in results)


def rounded(dtype):
    """The logits as `dtype` holds them, back in float32."""
    return Tensor(LOGITS).astype(DTYPES[dtype]).astype(ms.float32).asnumpy()


def log_softmax(z):
    z = np.asarray(z, np.float64)
    top = z.max(axis=1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))


# ---- what every loss does; graphs are compiled where they could differ, and for all values in test_loss_values.py


@pytest.fixture
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_any_float_logits_and_any_integer_labels(mode, name):
    """Everything is computed in float32, and the width of a label is of no account."""
    loss = build(name)
    for dtype, label_dtype in (("float32", ms.int32), ("float16", ms.int64), ("bfloat16", ms.uint8)):
        value = call(loss, dtype=dtype, label_dtype=label_dtype)
        assert value.shape == ()
        assert np.isfinite(value)
        assert_close(value, call(loss, rounded(dtype)))


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_reductions_and_denominators_agree(pynative, name):
    loss = build(name)
    of_image, weight = loss.elements(Tensor(LOGITS), integers(LABELS), **extra(loss))
    assert of_image.shape == weight.shape == (B,)
    assert of_image.dtype == weight.dtype == ms.float32
    each = (of_image * weight).asnumpy()
    weight = weight.asnumpy()
    assert loss.denominator == DENOMINATOR.get(name, loss.denominator)
    for denominator in ("weights", "batch"):
        divisor = weight.sum() if denominator == "weights" else B
        assert_close(call(build(name, denominator=denominator)), each.sum() / divisor)
        assert_close(totals(build(name, denominator=denominator)), [each.sum(), divisor])
    assert_close(call(build(name, reduction="none")), each)
    assert_close(call(build(name, reduction="sum")), each.sum())
    assert_close(call(loss), totals(loss)[0] / totals(loss)[1])  # "mean" is the default


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_class_weights_multiply_the_weight(pynative, name):
    own = np.array([1.0, 0.5, 2.0, 4.0, 3.0])
    plain, weighted = build(name), build(name, class_weights=own)
    (loss, weight), (same, product) = (
        [part.asnumpy() for part in cell.elements(Tensor(LOGITS), integers(LABELS), **extra(cell))]
        for cell in (plain, weighted)
    )
    assert_close(same, loss)
    assert_close(product, weight * own[LABELS])
    if plain.soft_labels:
        _, product = weighted.elements(Tensor(LOGITS), Tensor(TARGETS), **extra(weighted))
        _, weight = plain.elements(Tensor(LOGITS), Tensor(TARGETS), **extra(plain))
        assert_close(product.asnumpy(), weight.asnumpy() * (TARGETS @ own))


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_totals_of_a_mixed_batch(pynative, name):
    """sum(l w_a L_a + (1 - l) w_b L_b) over sum(l w_a + (1 - l) w_b), or over B."""
    elements = []
    for labels in (LABELS, OTHERS):
        loss = build(name)
        of_image, weight = loss.elements(Tensor(LOGITS), integers(labels), **extra(loss))
        elements.append((of_image.asnumpy(), weight.asnumpy()))
    (l_a, w_a), (l_b, w_b) = elements
    numerator = (SHARE * w_a * l_a + (1 - SHARE) * w_b * l_b).sum()
    for denominator, divisor in (("weights", (SHARE * w_a + (1 - SHARE) * w_b).sum()), ("batch", B)):
        loss = build(name, denominator=denominator)
        halves = totals(loss, LABELS, share=Tensor(SHARE)) + totals(loss, OTHERS, share=Tensor(1 - SHARE))
        assert_close(halves, [numerator, divisor])
        whole = totals(loss, share=Tensor(0.25, ms.float32)) + totals(loss, share=Tensor(0.75, ms.float32))
        assert_close(whole, totals(loss))


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if not LOSSES.get(name).batchwise])
def test_images_do_not_see_each_other(pynative, name):
    """The loss of an image is the same in any batch, and totals of micro-batches add up."""
    whole, sums = call(build(name, reduction="none")), totals(build(name))
    each, loss, added = build(name, reduction="none"), build(name), 0
    for part in (slice(0, 3), slice(3, B)):
        assert_close(call(each, LOGITS[part], LABELS[part], part=part), whole[part])
        added = added + totals(loss, part=part)
    assert_close(added, sums)


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if LOSSES.get(name).batchwise])
def test_images_see_each_other_where_it_is_said(pynative, name):
    whole = call(build(name, reduction="none"))[:3]
    alone = call(build(name, reduction="none"), LOGITS[:3], LABELS[:3], part=slice(0, 3))
    assert np.abs(alone - whole).max() > 1e-4


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_gradient_is_that_of_finite_differences(mode, name):
    """And `value_and_grad` takes a loss; one direction suffices here, since test_loss_values.py goes through all."""
    loss = build(name)
    value, gradient = value_and_gradient(loss)
    assert_close(value, call(loss))
    assert gradient.shape == (B, C)
    length = np.linalg.norm(gradient)
    assert length > 1e-3
    way = gradient / length + RNG.normal(0, 0.5 / np.sqrt(B * C), (B, C))
    step = 0.02

    def moved(by):
        return float(call(loss, (LOGITS + by * way).astype(np.float32)))

    slope = (8 * (moved(step) - moved(-step)) - (moved(2 * step) - moved(-2 * step))) / (12 * step)
    assert abs((gradient * way).sum() - slope) < 0.02 * length


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_big_logits_stay_finite(pynative, name):
    logits = np.zeros((B, C), np.float32)
    logits[:, 0], logits[:, 1] = 1e4, -1e4
    value, gradient = value_and_gradient(build(name), logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


class Linear(nn.Cell):
    """A classifier that a loss of logits alone is put behind."""

    def __init__(self):
        super().__init__()
        self.dense = nn.Dense(D, C)

    def construct(self, x):
        return self.dense(x)


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if not LOSSES.get(name)(class_counts=COUNTS).needs])
def test_two_steps_of_a_model(mode, name):
    network, loss = Linear(), build(name)
    before = network.dense.weight.asnumpy().copy()  # a view in PyNative mode
    optimizer = nn.SGD(network.trainable_params(), 0.1)
    model = ms.train.Model(network, loss_fn=loss, optimizer=optimizer)
    columns = {"x": EXTRA["features"], "y": LABELS.astype(np.int32)}
    data = NumpySlicesDataset(columns, shuffle=False).batch(B // 2)
    model.train(1, data, dataset_sink_mode=False)
    after = network.dense.weight.asnumpy()
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-5


# ---- what a loss says of itself


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_attributes(name):
    loss = build(name)
    assert isinstance(loss, Loss)
    assert set(loss.needs) <= set(EXTRA)
    for attribute in ("soft_labels", "batchwise", "stateful", "random"):
        assert isinstance(getattr(loss, attribute), bool)
    assert bool(list(loss.get_parameters())) >= (loss.stateful or loss.random)
    assert not loss.trainable_params()  # nothing that an optimizer should move
    parameters = inspect.signature(LOSSES.get(name).__init__).parameters
    assert all(p.kind is p.KEYWORD_ONLY for key, p in parameters.items() if key not in ("self", "class_counts"))


def test_the_losses_of_today():
    """Those of methods.md, with the attributes that they must have."""
    assert set(ORACLES) <= set(EVERY_LOSS)
    for name in ORACLES:
        loss = build(name)
        assert tuple(loss.needs) == NEEDS.get(name, ())
        assert loss.soft_labels == (name not in HARD)
        for attribute, names in ATTRIBUTES.items():
            assert getattr(loss, attribute) == (name in names)
    assert tuple(build("crl", level="instance").needs) == ("features",)
    assert not build("focal", form="softmax").soft_labels
    assert not build("cb_focal", form="softmax").soft_labels


@pytest.mark.parametrize("name", [*EVERY_LOSS, "focal softmax", "cb_focal softmax"])
def test_soft_labels_are_taken_or_refused(mode, name):
    name, _, form = name.partition(" ")
    loss = build(name, reduction="none", **({"form": form} if form else {}))
    if not loss.soft_labels:
        with pytest.raises(ValueError, match="soft"):
            call(loss, labels=TARGETS, label_dtype=ms.float32)
        return
    mixed = call(loss, labels=TARGETS, label_dtype=ms.float32)
    assert np.isfinite(mixed).all()
    if mode == "graph":
        return
    hard = call(loss)
    for dtype in (ms.float32, ms.float16):  # a tolerance for losses that magnify rounding, as 1 / (1 - p) does
        assert_close(call(loss, labels=np.eye(C)[LABELS], label_dtype=dtype), hard, factor=5)
    assert np.abs(mixed - hard).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"), [*((name, {}) for name in EVERY_LOSS), ("crl", {"level": "instance"})], ids=str
)
def test_a_missing_input_is_named(pynative, name, settings):
    loss = build(name, **settings)
    for missing in loss.needs:
        given = {key: value for key, value in extra(loss).items() if key != missing}
        with pytest.raises(ValueError, match=missing):
            loss(Tensor(LOGITS), integers(LABELS), **given)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_refused_settings(name):
    with pytest.raises(ValueError, match=r"unknown reduction 'average'.*mean, sum, none"):
        build(name, reduction="average")
    with pytest.raises(ValueError, match=r"unknown denominator 'images'.*weights, batch"):
        build(name, denominator="images")
    with pytest.raises(ValueError, match="class 2 has 0 training images"):
        build(name, class_counts=[5, 4, 0, 3, 0])
    with pytest.raises(ValueError, match="class 1 has -3 training images"):
        build(name, class_counts=np.array([5, -3]))
    with pytest.raises(ValueError, match="class 1 has nan"):
        build(name, class_counts=[5.0, float("nan"), 2.0])
    for counts in ([5], [], [[5, 4], [3, 2]], 7):
        with pytest.raises(ValueError, match="class_counts must be a list of at least 2 numbers"):
            build(name, class_counts=counts)
    with pytest.raises(TypeError):
        build(name, no_such_keyword=1)
    assert isinstance(build(name, class_counts=np.array(COUNTS)), Loss)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_class_counts_where_they_are_required(mode, name):
    if not LOSSES.get(name).needs_counts:
        assert_close(call(build(name, class_counts=None)), call(build(name)))
        return
    with pytest.raises(ValueError, match=f"(?i){LOSSES.get(name).__name__}|{name}"):
        build(name, class_counts=None)
    with pytest.raises(ValueError, match=r"(?s)\b5\b.*\b3\b|\b3\b.*\b5\b"):
        call(build(name, class_counts=COUNTS[:3]))


OUT_OF_RANGE = [
    *((name, "gamma", -0.5) for name in ("focal", "cs_ce", "cdt", "vs", "cb_focal")),
    *((name, "beta", value) for name in ("cb_ce", "cb_focal") for value in (-0.1, 1.0)),
    *(("ldam", key, value) for key in ("max_margin", "scale") for value in (0.0, -1.0)),
    *(("label_smoothing", "smoothing", value) for value in (-0.1, 1.0)),
    ("label_aware_smoothing", "head", 1.0),
    ("label_aware_smoothing", "tail", -0.1),
    ("label_aware_smoothing", "tail", 0.5),  # more than the head's
    *(("influence_balanced", "alpha", value) for value in (0.0, -2.0)),
    ("lade", "alpha", -0.1),
    *((name, "lambda_", -0.1) for name in ("lade", "eql", "seql")),
    *(("seql", "gamma", value) for value in (-0.1, 1.1)),
    ("eqlv2", "alpha", -1.0),
    *(("eqlv2", key, 0.0) for key in ("gamma", "first_ratio")),
    ("softmax_eql", "tau", -1.0),
    ("softmax_eql", "eps", 0.0),
    *(("dive", "alpha", value) for value in (-0.1, 1.1)),
    *(("dive", key, 0.0) for key in ("temperature", "power")),
    ("kd", "temperature", 0.0),
    ("crl", "k", 0),
    ("crl", "margin", -0.1),
    *(("crl", "rho", value) for value in (0.0, 1.1)),
    ("crl", "eta", -0.1),
    ("crl", "bins", 1),
    *((name, "tau", float("inf")) for name in ("logit_adjustment", "vs")),
    ("focal", "gamma", float("nan")),
    *((name, "form", "tanh") for name in ("focal", "cb_focal")),
    ("label_smoothing", "spread", "some"),
    ("label_aware_smoothing", "shape", "cubic"),
    *(("crl", key, "colour") for key in ("level", "form", "omega")),
]


@pytest.mark.parametrize(("name", "key", "value"), OUT_OF_RANGE, ids=str)
def test_hyperparameters_out_of_range(name, key, value):
    with pytest.raises(ValueError, match=rf"(?s){key}.*{value}|{value}.*{key}|unknown.*{value}"):
        build(name, **{key: value})


# ---- losses with a state


def states(loss):
    return {parameter.name: parameter.asnumpy().copy() for parameter in loss.get_parameters()}


def same_state(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if LOSSES.get(name).stateful])
def test_state_moves_by_update_alone_and_comes_back(mode, name):
    loss = build(name)
    start = states(loss)
    inputs = Tensor(LOGITS), integers(LABELS)
    first = call(loss)
    observed = loss.observe(*inputs)
    value_and_gradient(loss)
    totals(loss)
    assert same_state(states(loss), start)
    loss.update(*inputs)
    assert not same_state(states(loss), start)
    assert call(loss) != first
    twin = build(name)
    twin.absorb(observed, Tensor(totals(twin)[1], ms.float32))
    for key, value in states(loss).items():
        assert_close(states(twin)[key], value)
    saved, values = states(loss), []
    for _ in range(2):
        values.append(call(loss))
        loss.update(*inputs)
    fresh = build(name)
    call(fresh)  # a graph compiled before must see the restored state
    for parameter in fresh.get_parameters():
        assign(parameter, saved[parameter.name])
    for value in values:
        assert call(fresh) == value
        fresh.update(*inputs)
    assert same_state(states(fresh), states(loss))


@pytest.mark.parametrize("name", [name for name in EVERY_LOSS if LOSSES.get(name).stateful])
def test_observations_add_up(mode, name):
    loss = build(name)
    loss.update(Tensor(LOGITS[::-1].copy()), integers(LABELS[::-1].copy()))
    whole = loss.observe(Tensor(LOGITS), integers(LABELS)).asnumpy()
    parts = sum(loss.observe(Tensor(LOGITS[p]), integers(LABELS[p])).asnumpy() for p in (slice(0, 3), slice(3, B)))
    assert_close(parts, whole)
    a, b = ((labels, share) for labels, share in ((LABELS, SHARE), (OTHERS, 1 - SHARE)))
    mixed = sum(loss.observe(Tensor(LOGITS), integers(y), share=Tensor(share)).asnumpy() for y, share in (a, b))
    one_by_one = sum(
        share[i] * loss.observe(Tensor(LOGITS[i : i + 1]), integers(y[i : i + 1])).asnumpy()
        for y, share in (a, b)
        for i in range(B)
    )
    assert_close(mixed, one_by_one)
    halves = sum(loss.observe(Tensor(LOGITS), integers(LABELS), share=Tensor(s)).asnumpy() for s in (SHARE, 1 - SHARE))
    assert_close(halves, whole)


# ---- losses that draw

RANDOM = [name for name in EVERY_LOSS if LOSSES.get(name).random]
RARE = {"lambda_": 0.3, "gamma": 0.5}  # so that a mask shows in the value


@pytest.mark.parametrize("name", RANDOM)
def test_draws_decide_the_mask(mode, name):
    loss = build(name, reduction="none", **RARE)
    first, order = call(loss), RNG.permutation(B)
    assert np.array_equal(call(loss), first)  # same draws, same mask
    assert np.array_equal(call(build(name, reduction="none", **RARE)), first)
    inputs = Tensor(LOGITS[order]), integers(LABELS[order])
    assert_close(loss(*inputs, draws=Tensor(DRAWS[order], ms.int32)).asnumpy(), first[order])
    later = loss(Tensor(LOGITS), integers(LABELS), draws=Tensor(DRAWS + B, ms.int32)).asnumpy()
    assert not np.array_equal(later, first)
    other_seed = build(name, reduction="none", seed=1, **RARE)
    assert not np.array_equal(call(other_seed), first)


@pytest.mark.parametrize("name", RANDOM)
def test_its_own_draws_go_on_where_they_were(mode, name):
    loss = build(name, reduction="none", **RARE)
    inputs = Tensor(LOGITS), integers(LABELS)
    first = loss(*inputs).asnumpy()
    saved = states(loss)
    following = [loss(*inputs).asnumpy() for _ in range(3)]
    assert not np.array_equal(following[0], first)
    fresh = build(name, reduction="none", **RARE)
    assert np.array_equal(fresh(*inputs).asnumpy(), first)
    for _ in range(2):
        fresh(*inputs)
    for parameter in fresh.get_parameters():
        assign(parameter, saved[parameter.name])
    for value in following:
        assert np.array_equal(fresh(*inputs).asnumpy(), value)


@pytest.mark.parametrize("start", [0, 10**6, 2**31 - 30_001])
@pytest.mark.parametrize("name", RANDOM)
def test_masks_are_fair_and_independent(pynative, name, start):
    n = 30_000
    for gamma in (0.9, 0.5):
        loss = build(name, gamma=gamma)
        mask = loss.mask(Tensor(start + np.arange(n), ms.int32))
        assert mask.dtype == ms.float32
        mask = mask.asnumpy()
        assert mask.shape == (n, C)
        assert set(np.unique(mask)) == {0, 1}
        assert np.abs(mask.mean(axis=0) - gamma).max() < 5 * np.sqrt(gamma * (1 - gamma) / n)
        off = mask - gamma
        scale = 5 * gamma * (1 - gamma) / np.sqrt(n)
        for lag in (1, 2, B, 128):  # neighbouring draws, the same and other classes
            assert np.abs(off[lag:].T @ off[:-lag] / n).max() < scale
        between = off.T @ off / n
        assert np.abs(between[~np.eye(C, dtype=bool)]).max() < scale
        other = build(name, gamma=gamma, seed=1).mask(Tensor(start + np.arange(n), ms.int32)).asnumpy() - gamma
        assert np.abs(off.T @ other / n).max() < scale
    ones = build(name, gamma=1.0).mask(Tensor(np.arange(99), ms.int32)).asnumpy()
    zeros = build(name, gamma=0.0).mask(Tensor(np.arange(99), ms.int32)).asnumpy()
    assert ones.all()
    assert not zeros.any()


# ---- weights of classes


def test_class_weights_from_counts():
    assert_close(cost_sensitive([100, 25, 4]), [0.04, 0.16, 1], "float64")
    assert_close(cost_sensitive([100, 25, 4], gamma=0.5), [0.2, 0.4, 1], "float64")
    assert_close(cost_sensitive([100, 25, 4], gamma=0.0), [1, 1, 1], "float64")
    weight = effective_number([3, 1], beta=0.5)  # 0.5/(1 - 1/8) = 4/7 and 1, over their mean 11/14
    assert_close(weight, [8 / 11, 14 / 11], "float64")
    assert_close(effective_number([7, 7, 7]), [1, 1, 1], "float64")
    assert_close(effective_number(COUNTS, beta=0.0), [1] * C, "float64")
    assert_close(np.mean(effective_number([10**6, 50, 1])), 1, "float64")
    assert cost_sensitive(COUNTS).dtype == effective_number(COUNTS).dtype == np.float64


# ---- the base class


class Weighted(Loss):
    """Loss z_y with weight y + 1: everything about the reduction can be said by hand."""

    def elements(self, logits, labels, features=None, teacher_logits=None, draws=None):
        loss = logits.gather_elements(1, labels.astype(ms.int32).expand_dims(1)).squeeze(1)
        return loss, labels.astype(ms.float32) + 1


@pytest.mark.parametrize("denominator", ["weights", "batch"])
def test_what_the_mean_is_divided_by(mode, denominator):
    z = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
    y = np.array([2, 1])  # losses 3 and 5, weights 3 and 2

    def value(reduction):
        loss = Weighted(class_counts=[3, 2, 1], reduction=reduction, denominator=denominator)
        return loss(Tensor(z), Tensor(y, ms.int32)).asnumpy().tolist()

    assert value("none") == [9, 10]
    assert value("sum") == 19
    assert value("mean") == pytest.approx(19 / 5 if denominator == "weights" else 19 / 2)


def test_base_refuses_an_unknown_denominator_and_missing_elements():
    with pytest.raises(ValueError, match="unknown denominator 'sum'; choose from weights, batch"):
        Loss(denominator="sum")
    with pytest.raises(NotImplementedError, match="Loss must define"):
        Loss()(Tensor(LOGITS), integers(LABELS))


# ---- cross-entropy


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_cross_entropy(mode, dtype):
    each = -log_softmax(rounded(dtype))[np.arange(B), LABELS]
    assert_close(call(build("ce", reduction="none"), dtype=dtype), each)
    assert_close(call(build("ce"), dtype=dtype), each.mean())


def test_cross_entropy_by_hand(mode):
    loss = LOSSES.get("ce")()  # needs no class counts
    assert_close(call(loss, np.array([[2, 0]], np.float32), np.array([0])), np.log1p(np.exp(-2)))
    assert_close(call(loss, np.zeros((3, 4), np.float32), np.array([0, 1, 3])), np.log(4))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_of_cross_entropy(mode, reduction):
    _, gradient = value_and_gradient(build("ce", reduction=reduction))
    expected = np.exp(log_softmax(LOGITS)) - np.eye(C)[LABELS]
    assert_close(gradient, expected / (B if reduction == "mean" else 1))


@pytest.mark.parametrize("label_dtype", [ms.float32, ms.float16])
def test_cross_entropy_with_soft_labels(mode, label_dtype):
    each = -(TARGETS * log_softmax(LOGITS)).sum(axis=1)
    assert_close(call(build("ce", reduction="none"), labels=TARGETS, label_dtype=label_dtype), each)
    assert_close(call(build("ce"), labels=TARGETS, label_dtype=label_dtype), each.mean())
    _, gradient = value_and_gradient(build("ce"), labels=TARGETS, label_dtype=label_dtype)
    assert_close(gradient, (np.exp(log_softmax(LOGITS)) - TARGETS) / B)


def test_cross_entropy_of_big_logits(mode):
    logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    labels = np.array([0, 2, 1])
    assert_close(call(LOSSES.get("ce")(reduction="none"), logits, labels), [0, 2e4, np.log(3)])
    _, gradient = value_and_gradient(LOSSES.get("ce")(), logits, labels)
    assert_close(gradient, np.array([[0, 0, 0], [1, 0, -1], [1 / 3, 1 / 3 - 1, 1 / 3]]) / 3)


# ---- the objective that a step minimises


class Bare(nn.Cell):
    """A classifier whose logits are its input."""

    def features(self, x):
        return x

    def head(self, x):
        return 1.0 * x


class Numerator(nn.Cell):
    def __init__(self, objective):
        super().__init__()
        self.objective = objective

    def construct(self, image, label):
        return self.objective(image, label)[0]


def test_gradient_of_the_objective_is_that_of_the_numerator(mode):
    objective = Classification(Bare(), build("ce"))
    assert objective.columns == ("image", "label")
    numerator, denominator = objective(Tensor(LOGITS), integers(LABELS))[:2]
    each = -log_softmax(LOGITS)[np.arange(B), LABELS]
    assert_close(numerator.asnumpy(), each.sum())
    assert float(denominator) == B
    gradient = ms.grad(Numerator(objective))(Tensor(LOGITS), integers(LABELS)).asnumpy()
    assert_close(gradient, np.exp(log_softmax(LOGITS)) - np.eye(C)[LABELS])
