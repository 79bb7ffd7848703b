"""What every loss of the registry keeps to, and cross-entropy against float64 NumPy."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from mindspore import Tensor, nn

from ms_longtail.losses import Loss
from ms_longtail.objectives import Classification
from ms_longtail.registry import LOSSES

COUNTS = [500, 120, 40, 12, 3]
B, C, D = 7, len(COUNTS), 6
RNG = np.random.default_rng(8)
LOGITS = RNG.normal(0, 2, (B, C)).astype(np.float32)
LABELS = np.array([0, 4, 1, 2, 3, 0, 4])
EXTRA = {  # what a loss may name in `needs`
    "features": RNG.normal(size=(B, D)).astype(np.float32),
    "teacher_logits": RNG.normal(size=(B, C)).astype(np.float32),
}
DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
EVERY_LOSS = sorted(LOSSES)


def build(name, **settings):
    return LOSSES.get(name)(class_counts=COUNTS, **settings)


def extra(loss):
    """Keyword inputs beside logits and labels."""
    return {key: Tensor(EXTRA[key]) for key in loss.needs}


def call(loss, logits=LOGITS, labels=LABELS, dtype="float32", label_dtype=ms.int32):
    """The loss as NumPy float32."""
    value = loss(Tensor(logits).astype(DTYPES[dtype]), Tensor(labels).astype(label_dtype), **extra(loss))
    assert value.dtype == ms.float32
    return value.asnumpy()


def value_and_gradient(loss, logits=LOGITS, labels=LABELS, label_dtype=ms.int32):
    """The loss and its gradient by the logits, as NumPy."""
    more = [Tensor(EXTRA[key]) for key in ("features", "teacher_logits")] if loss.needs else []
    results = ms.value_and_grad(loss)(Tensor(logits), Tensor(labels).astype(label_dtype), *more)
    return tuple(result.asnumpy() for result in results)


def rounded(dtype):
    """The logits as `dtype` holds them, back in float32."""
    return Tensor(LOGITS).astype(DTYPES[dtype]).astype(ms.float32).asnumpy()


def log_softmax(z):
    z = np.asarray(z, np.float64)
    top = z.max(axis=1, keepdims=True)
    return z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True))


# ---- every loss


@pytest.mark.parametrize("name", EVERY_LOSS)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_logits_of_any_float_type_are_reduced_in_float32(mode, name, dtype):
    loss = build(name)
    value = call(loss, dtype=dtype)
    assert value.shape == ()
    assert np.isfinite(value)
    assert_close(value, call(build(name), rounded(dtype)))


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_labels_of_any_integer_type(mode, name):
    values = [call(build(name), label_dtype=dtype) for dtype in (ms.int32, ms.int64, ms.uint8)]
    assert values[0] == values[1] == values[2]


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_reductions_agree(mode, name):
    mean, total, each = (call(build(name, reduction=reduction)) for reduction in ("mean", "sum", "none"))
    assert mean.shape == total.shape == ()
    assert each.shape == (B,)
    assert_close(total, each.astype(np.float64).sum())
    loss = build(name)
    numerator, denominator = loss.totals(Tensor(LOGITS), Tensor(LABELS, ms.int32), **extra(loss))
    assert numerator.dtype == denominator.dtype == ms.float32
    assert_close(numerator.asnumpy(), total)
    assert_close(mean, total / denominator.asnumpy())
    assert_close(call(build(name)), mean)  # "mean" is the default
    of_image, weight = loss.elements(Tensor(LOGITS), Tensor(LABELS, ms.int32), **extra(loss))
    assert of_image.shape == weight.shape == (B,)
    expected = weight.asnumpy().sum() if loss.denominator == "weights" else B
    assert_close(denominator.asnumpy(), expected)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_images_do_not_see_each_other(mode, name):
    """The loss of an image is the same in any batch, so that micro-batches and workers add up."""
    whole = call(build(name, reduction="none"))
    loss = build(name, reduction="none")
    for part in (slice(0, 3), slice(3, B)):
        inputs = {key: Tensor(EXTRA[key][part]) for key in loss.needs}
        value = loss(Tensor(LOGITS[part]), Tensor(LABELS[part], ms.int32), **inputs)
        assert_close(value.asnumpy(), whole[part])


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_gradient_is_that_of_finite_differences(mode, name):
    loss = build(name)
    value, gradient = value_and_gradient(loss)
    assert_close(value, call(loss))
    assert gradient.shape == (B, C)
    assert np.abs(gradient).max() > 1e-3
    step = 0.02
    for i, j in [(0, 0), (1, 4), (2, 3), (6, 0)]:
        moved = [LOGITS.copy(), LOGITS.copy()]
        moved[0][i, j] += step
        moved[1][i, j] -= step
        slope = (float(call(loss, moved[0])) - float(call(loss, moved[1]))) / (2 * step)
        assert abs(gradient[i, j] - slope) < 2e-3 + 0.02 * abs(slope)


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_big_logits_stay_finite(mode, name):
    logits = np.zeros((B, C), np.float32)
    logits[:, 0], logits[:, 1] = 1e4, -1e4
    value, gradient = value_and_gradient(build(name), logits)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", EVERY_LOSS)
def test_refused_settings(name):
    loss = LOSSES.get(name)
    with pytest.raises(ValueError, match="unknown reduction 'average'; choose from mean, sum, none"):
        loss(class_counts=COUNTS, reduction="average")
    with pytest.raises(ValueError, match="class 2 has 0 training images"):
        loss(class_counts=[5, 4, 0, 3, 0])
    with pytest.raises(ValueError, match="class 1 has -3 training images"):
        loss(class_counts=np.array([5, -3]))
    with pytest.raises(ValueError, match="class_counts must be a list of at least 2 numbers"):
        loss(class_counts=[5])
    assert isinstance(loss(class_counts=np.array(COUNTS)), Loss)
    assert set(loss(class_counts=COUNTS).needs) <= set(EXTRA)


# ---- the base class


class Weighted(Loss):
    """Loss z_y with weight y + 1: everything about the reduction can be said by hand."""

    def elements(self, logits, labels, features=None, teacher_logits=None):
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
    with pytest.raises(NotImplementedError, match="Loss must define elements"):
        Loss().elements(None, None)


# ---- cross-entropy


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_cross_entropy(mode, dtype):
    each = -log_softmax(rounded(dtype))[np.arange(B), LABELS]
    assert_close(call(build("ce", reduction="none"), dtype=dtype), each)
    assert_close(call(build("ce", reduction="sum"), dtype=dtype), each.sum())
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
    numerator, denominator = objective(Tensor(LOGITS), Tensor(LABELS, ms.int32))
    each = -log_softmax(LOGITS)[np.arange(B), LABELS]
    assert_close(numerator.asnumpy(), each.sum())
    assert float(denominator) == B
    gradient = ms.grad(Numerator(objective))(Tensor(LOGITS), Tensor(LABELS, ms.int32)).asnumpy()
    assert_close(gradient, np.exp(log_softmax(LOGITS)) - np.eye(C)[LABELS])


@pytest.mark.parametrize("label_dtype", [ms.float32, ms.float16])
def test_cross_entropy_with_soft_labels(mode, label_dtype):
    target = np.full((B, C), 0.0)
    target[np.arange(B), LABELS] = 0.75
    target[np.arange(B), (LABELS + 2) % C] += 0.25
    each = -(target * log_softmax(LOGITS)).sum(axis=1)
    assert_close(call(build("ce", reduction="none"), labels=target, label_dtype=label_dtype), each)
    assert_close(call(build("ce"), labels=target, label_dtype=label_dtype), each.mean())
    _, gradient = value_and_gradient(build("ce"), labels=target, label_dtype=label_dtype)
    assert_close(gradient, (np.exp(log_softmax(LOGITS)) - target) / B)


def test_soft_labels_of_one_class_are_hard_labels(mode):
    hard = call(build("ce", reduction="none"))
    assert_close(call(build("ce", reduction="none"), labels=np.eye(C)[LABELS], label_dtype=ms.float32), hard)


def test_cross_entropy_of_big_logits(mode):
    logits = np.array([[1e4, 0, -1e4], [1e4, 0, -1e4], [-1e4, -1e4, -1e4]], np.float32)
    labels = np.array([0, 2, 1])
    assert_close(call(LOSSES.get("ce")(reduction="none"), logits, labels), [0, 2e4, np.log(3)])
    _, gradient = value_and_gradient(LOSSES.get("ce")(), logits, labels)
    assert_close(gradient, np.array([[0, 0, 0], [1, 0, -1], [1 / 3, 1 / 3 - 1, 1 / 3]]) / 3)
