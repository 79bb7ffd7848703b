"""The objective of mixed images: every loss of the catalogue, every way of mixing, both modes."""

import mindspore as ms
import numpy as np
import pytest
from loss_steps import COUNTS, Network
from mindspore import Tensor, nn

import ms_longtail.losses  # noqa: F401  (fills the registry)
from ms_longtail.models.layers import blended
from ms_longtail.objectives import Classification, Mixture
from ms_longtail.registry import LOSSES, MODELS

B, C, D = 12, len(COUNTS), 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(B, D)).astype(np.float32)
LABELS = RNG.integers(0, C, (B, 4)).astype(np.int32)
SHARES = RNG.dirichlet(np.ones(4), B).astype(np.float32)
ONES, OWN = np.ones(B, np.float32), np.arange(B, dtype=np.int32)
PARTNER = RNG.permutation(B).astype(np.int32)


class Teacher(nn.Cell):
    """Logits that are a fixed function of the input."""

    def construct(self, x):
        return 3.0 * x[:, :C]


def objectives(name, **settings):
    loss = LOSSES.get(name)(class_counts=COUNTS)
    teacher = Teacher() if "teacher_logits" in loss.needs else None
    return loss, Classification(Network(), loss, teacher), Mixture(Network(), loss, teacher, **settings)


def values(result):
    return [np.asarray(part.asnumpy(), np.float64) for part in result]


@pytest.mark.parametrize("name", list(LOSSES))
def test_four_labels_that_are_one_are_one(mode, name):
    """Shares of the same label add up to the label: numerator, denominator and what the state learns."""
    loss, plain, mixture = objectives(name, parts=4)
    label = LABELS[:, 0]
    draw = [Tensor(np.arange(B, dtype=np.int32))] if loss.random else []
    expected = values(plain(Tensor(X), Tensor(label), *draw))
    columns = [X, np.repeat(label[:, None], 4, axis=1), SHARES, ONES, OWN]
    found = values(mixture(*map(Tensor, columns), *draw))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=3e-5, atol=3e-5 * max(1e-3, np.abs(b).max()))


@pytest.mark.parametrize("name", [name for name in LOSSES if not LOSSES.get(name).batchwise])
def test_a_mixture_is_the_sum_of_its_parts(mode, name):
    """n = sum_ik s_ik w_ik L(y_ik), from the losses of single images, weighted and added in float64."""
    loss, _, mixture = objectives(name, parts=4)
    draw = [Tensor(np.arange(B, dtype=np.int32))] if loss.random else []
    network = Network()
    logits = network.head(Tensor(X))
    taught = Tensor(3.0 * X[:, :C]) if "teacher_logits" in loss.needs else None
    numerator = denominator = 0.0
    for k in range(4):
        terms = loss.elements(logits, Tensor(LABELS[:, k]), Tensor(X), taught, draw[0] if draw else None)
        value, weight = values(terms)
        numerator += (SHARES[:, k] * value * weight).sum()
        denominator += (SHARES[:, k] * (weight if loss.denominator == "weights" else 1)).sum()
    found = values(mixture(*map(Tensor, [X, LABELS, SHARES, ONES, OWN]), *draw))
    np.testing.assert_allclose(found[:2], [numerator, denominator], rtol=3e-5)


def test_pixels_are_blended_in_float(mode):
    """The network sees b x_i + (1 - b) x_j, not rounded to whole grey levels."""
    model = MODELS.get("resnet8_cifar")(num_classes=C)
    model.set_train(False)
    image, second = (RNG.integers(0, 256, (B, 3, 16, 16)).astype(np.uint8) for _ in range(2))
    blend = RNG.random(B).astype(np.float32)
    loss = LOSSES.get("ce")()
    columns = [image, LABELS[:, :2], np.stack([blend, 1 - blend], axis=1), blend, OWN, second]
    mixture = Mixture(model, loss, second=True)
    assert mixture.columns == ("image", "labels", "shares", "blend", "partner", "second")
    mixture.set_train(False)
    found = values(mixture(*map(Tensor, columns)))
    share = blend.reshape(-1, 1, 1, 1)
    pixels = (share * image + (1 - share) * second).astype(np.float32)
    logits = model(Tensor(pixels)).asnumpy().astype(np.float64)
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    one = -log_p[OWN, LABELS[:, 0]] * blend - log_p[OWN, LABELS[:, 1]] * (1 - blend)
    np.testing.assert_allclose(found[0], one.sum(), rtol=2e-5)


@pytest.mark.parametrize("point", ["layer1", "layer2", "layer3", "pool", "fc"])
def test_layers_blend_where_they_are_named(mode, point):
    model = MODELS.get("resnet8_cifar")(num_classes=C)
    model.set_train(False)
    image = RNG.integers(0, 256, (B, 3, 16, 16)).astype(np.uint8)
    blend = RNG.random(B).astype(np.float32)
    features, logits = (
        part.asnumpy() for part in model.mixed(*map(Tensor, (image,)), point, Tensor(PARTNER), Tensor(blend))
    )
    plain = model.features(Tensor(image)).asnumpy()
    alone, _ = model.mixed(Tensor(image), point, Tensor(PARTNER), Tensor(ONES))
    np.testing.assert_allclose(alone.asnumpy(), plain, rtol=1e-5, atol=1e-6)
    linear = blend[:, None] * plain + (1 - blend[:, None]) * plain[PARTNER]
    if point in ("layer3", "pool", "fc"):  # the mean over places is linear
        np.testing.assert_allclose(features, linear, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(logits, model.head(Tensor(linear)).asnumpy(), rtol=1e-4, atol=1e-4)
    else:
        assert np.abs(features - linear).max() > 1e-3
    twice = np.concatenate([image, image[PARTNER]])
    rows = Tensor(np.arange(B, dtype=np.int32) + B)
    again, _ = model.mixed(Tensor(twice), point, rows, Tensor(blend))
    np.testing.assert_allclose(again.asnumpy(), features, rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_blended_layer(mode):
    """d/dx of sum(g (b x_i + (1 - b) x_j)): every row is used by itself and by whoever has it as a partner."""
    x, g = (RNG.normal(size=(B, 2, 3, 3)).astype(np.float32) for _ in range(2))
    blend = RNG.random(B).astype(np.float32)

    def total(values):
        return (blended(values, Tensor(PARTNER), Tensor(blend)) * Tensor(g)).sum()

    share = blend.reshape(-1, 1, 1, 1)
    expected = share * g
    np.add.at(expected, PARTNER, (1 - share) * g)
    np.testing.assert_allclose(ms.grad(total)(Tensor(x)).asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_teacher_answers_for_both_images_of_a_mixed_layer(mode):
    """Distillation at a layer: l L(y_i, t(x_i)) + (1 - l) L(y_j, t(x_j))."""
    model, teacher = (MODELS.get("resnet8_cifar")(num_classes=C, seed=seed) for seed in (0, 1))
    image = RNG.integers(0, 256, (B, 3, 16, 16)).astype(np.uint8)
    blend = RNG.random(B).astype(np.float32)
    loss = LOSSES.get("kd")(class_counts=COUNTS)
    taught = teacher.set_train(False)(Tensor(image)).asnumpy()
    mixture = Mixture(model, loss, teacher, layer="pool")
    mixture.set_train(False)
    labels = np.stack([LABELS[:, 0], LABELS[PARTNER, 0]], axis=1)
    shares = np.stack([blend, 1 - blend], axis=1)
    found = values(mixture(*map(Tensor, [image, labels, shares, blend, PARTNER])))
    features, logits = model.mixed(Tensor(image), "pool", Tensor(PARTNER), Tensor(blend))
    expected = 0.0
    for k, logits_of in enumerate((taught, taught[PARTNER])):
        value, weight = values(loss.elements(logits, Tensor(labels[:, k]), features, Tensor(logits_of), None))
        expected += (shares[:, k] * value * weight).sum()
    np.testing.assert_allclose(found[0], expected, rtol=2e-5)


def test_an_unknown_layer_is_refused():
    model = MODELS.get("resnet8_cifar")(num_classes=C)
    with pytest.raises(
        ValueError, match=r"layer = 'layer4': the model has no such layer.*layer1, layer2, layer3, pool, fc"
    ):
        Mixture(model, LOSSES.get("ce")(), layer="layer4")
