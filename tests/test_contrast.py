"""Contrastive losses against brute-force float64 oracles: values, gradients, both modes, half precision, refusals."""

import contrastive_oracles as oracle
import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from ms_longtail.losses import PSC, BalancedSupCon, Contrast, PaCo, SupCon
from ms_longtail.registry import CONTRASTS

BALANCED = [
    {},
    {"form": "L2"},
    {"form": "L3"},
    {"averaging": False},
    {"complement": False},
    {"averaging": False, "complement": False},
    {"form": "L2", "complement": False},
]


def data(batch=7, views=2, size=5, classes=4, seed=0, labels=None):
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((views, batch, size)) * 3
    labels = rng.integers(0, classes, batch) if labels is None else np.asarray(labels)
    return z, labels.astype(np.int32), rng.standard_normal((classes, size))


def expected(name, settings, temperature, mean):
    """(z (V, B, E), labels, prototypes) -> the loss in float64."""
    functions = {
        "supcon": lambda z, y, p: oracle.supcon(z, y, temperature),
        "psc": lambda z, y, p: oracle.psc(z, y, p, temperature),
        "balanced_supcon": lambda z, y, p: oracle.balanced_supcon(
            z, y, temperature, prototypes=p if settings.get("complement", True) else None, **settings
        ),
    }

    def value(z, y, p):
        losses = functions[name](z.reshape(-1, z.shape[-1]), np.tile(y, len(z)), p)
        return oracle.anchor_mean(losses, np.tile(y, len(z)), mean)

    return value


def with_gradient(loss, z, labels, prototypes):
    """(value, gradients of embeddings and, where they are used, prototypes)."""
    used = loss.needs_prototypes
    inputs = [Tensor(z, ms.float32), Tensor(prototypes, ms.float32)]
    y = Tensor(labels)
    if used:
        value, gradients = ms.value_and_grad(loss, (0, 2))(inputs[0], y, inputs[1])
    else:
        value, gradient = ms.value_and_grad(loss, 0)(inputs[0], y)
        gradients = (gradient,)
    return float(value), [g.asnumpy().astype(np.float64) for g in gradients]


CASES = [("supcon", {}), ("psc", {}), *(("balanced_supcon", s) for s in BALANCED)]


SHAPES = [
    ("pynative", (1, 2), "anchor"),
    ("pynative", (7, 2), "class"),
    ("pynative", (12, 3), "anchor"),
    ("graph", (7, 2), "class"),
]


@pytest.mark.parametrize(("mode", "shape", "mean"), SHAPES, indirect=["mode"], ids=str)
@pytest.mark.parametrize(("name", "settings"), CASES, ids=lambda v: v if isinstance(v, str) else str(v))
def test_values_and_gradients(mode, name, settings, shape, mean):
    batch, views = shape
    z, labels, prototypes = data(batch, views)
    temperature = 0.2
    loss = CONTRASTS.get(name)(temperature=temperature, anchor_mean=mean, **settings)
    wanted = expected(name, settings, temperature, mean)
    value, gradients = with_gradient(loss, z, labels, prototypes)
    assert value == pytest.approx(wanted(z, labels, prototypes), rel=1e-5, abs=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(3):  # slopes along random directions
        steps = [rng.standard_normal(z.shape), rng.standard_normal(prototypes.shape)][: len(gradients)]
        h = 1e-5
        ends = []
        for sign in (1, -1):
            moved = [z + sign * h * steps[0], prototypes + (sign * h * steps[1] if len(steps) > 1 else 0)]
            ends.append(wanted(moved[0], labels, moved[1]))
        slope = (ends[0] - ends[1]) / (2 * h)
        ours = sum((g * s).sum() for g, s in zip(gradients, steps, strict=True))
        assert ours == pytest.approx(slope, rel=2e-4, abs=2e-5)


def paco_inputs(batch=6, size=5, classes=4, room=9, filled=9, seed=3):
    rng = np.random.default_rng(seed)
    q, k, queue = (rng.standard_normal((n, size)) for n in (batch, batch, room))
    labels, queue_labels = rng.integers(0, classes, batch), rng.integers(0, classes, room)
    queue_labels[filled:] = -1
    logits, counts = rng.standard_normal((batch, classes)) * 2, np.array([40, 20, 5, 1])
    return q, k, queue, labels, queue_labels, logits, np.log(counts / counts.sum())


@pytest.mark.parametrize(
    ("settings", "filled"), [({}, 9), ({"alpha": 1.0}, 0), ({"alpha": 0.05, "beta": 2.0, "gamma": 0.5, "supt": 0.7}, 4)]
)
def test_paco(mode, settings, filled):
    q, k, queue, y, queue_y, logits, prior = paco_inputs(filled=filled)
    temperature = 0.3
    loss = PaCo(temperature=temperature, **settings)
    full = {"alpha": 0.01, "beta": 1.0, "gamma": 1.0, "supt": 1.0} | settings

    def wanted(q, logits):
        losses = oracle.paco(q, k, queue[:filled], y, queue_y[:filled], logits, prior, T=temperature, **full)
        return losses.mean()

    there = queue / np.linalg.norm(queue, axis=1, keepdims=True)  # a queue holds what is of length 1

    floats = {name: Tensor(x, ms.float32) for name, x in {"q": q, "k": k, "there": there, "u": logits + prior}.items()}
    value, gradients = ms.value_and_grad(loss, (0, 5))(
        floats["q"], floats["k"], Tensor(y, ms.int32), floats["there"], Tensor(queue_y, ms.int32), floats["u"]
    )
    assert float(value) == pytest.approx(wanted(q, logits), rel=1e-5)
    rng = np.random.default_rng(1)
    for _ in range(3):
        a, b, h = rng.standard_normal(q.shape), rng.standard_normal(logits.shape), 1e-5
        slope = (wanted(q + h * a, logits + h * b) - wanted(q - h * a, logits - h * b)) / (2 * h)
        mine = (gradients[0].asnumpy() * a).sum() + (gradients[1].asnumpy() * b).sum()
        assert mine == pytest.approx(slope, rel=2e-4, abs=2e-5)


@pytest.mark.parametrize("name", ["supcon", "psc", "balanced_supcon"])
def test_half_precision_and_low_temperature(mode, name):
    z, labels, prototypes = data(32, 2, 16, seed=5)
    half, halves = z.astype(np.float16), prototypes.astype(np.float16)
    loss = CONTRASTS.get(name)(temperature=0.03)
    wanted = expected(name, {}, 0.03, "anchor")(half.astype(np.float64), labels, halves.astype(np.float64))
    inputs = (Tensor(half), Tensor(labels)) + ((Tensor(halves),) if loss.needs_prototypes else ())
    value = loss(*inputs)
    assert value.dtype == ms.float32
    assert float(value) == pytest.approx(wanted, rel=1e-5)
    gradient = ms.grad(loss, 0)(*inputs)
    assert gradient.dtype == ms.float16
    assert np.isfinite(gradient.asnumpy()).all()
    # Collapsed and opposite embeddings are the extremes of what a temperature can do.
    same = np.ones((2, 32, 16), np.float16)
    same[:, ::2] *= -1
    more = (Tensor(np.ones_like(halves)),) if loss.needs_prototypes else ()
    assert np.isfinite(float(loss(Tensor(same), Tensor(labels), *more)))


def test_paco_half_precision(mode):
    q, k, queue, y, queue_y, logits, prior = paco_inputs()
    there = queue / np.linalg.norm(queue, axis=1, keepdims=True)
    loss = PaCo(temperature=0.03)
    half = [Tensor(x.astype(np.float16)) for x in (q, k)]
    labels, queue_labels = Tensor(y, ms.int32), Tensor(queue_y, ms.int32)
    value = loss(*half, labels, Tensor(there, ms.float32), queue_labels, Tensor(logits + prior, ms.float32))
    rows = [x.asnumpy().astype(np.float64) for x in half]
    losses = oracle.paco(*rows, queue, y, queue_y, logits, prior, T=0.03, alpha=0.01, beta=1.0, gamma=1.0, supt=1.0)
    assert float(value) == pytest.approx(losses.mean(), rel=1e-5)


def test_classes_of_one_image(mode):
    z, labels, _ = data(3, 2, labels=[0, 1, 2])
    assert np.isfinite(float(SupCon()(Tensor(z, ms.float32), Tensor(labels))))


def test_order_of_images_and_names_of_classes_do_not_matter(mode):
    z, labels, prototypes = data(9, 2, seed=8)
    loss, rng = BalancedSupCon(), np.random.default_rng(0)
    place, names = rng.permutation(9), rng.permutation(4)
    one = float(loss(Tensor(z, ms.float32), Tensor(labels), Tensor(prototypes, ms.float32)))
    renamed = np.empty_like(prototypes)
    renamed[names] = prototypes
    moved = Tensor(z[:, place], ms.float32), Tensor(names[labels[place]].astype(np.int32))
    other = loss(*moved, Tensor(renamed, ms.float32))
    assert float(other) == pytest.approx(one, rel=1e-5)


def test_forms_agree_where_every_class_has_one_other_member(mode):
    """With all members of a class at one place, the mean inside the exponential is the mean outside."""
    rng = np.random.default_rng(0)
    places = rng.standard_normal((4, 5))
    labels = np.array([0, 0, 1, 2, 3, 3], np.int32)
    z = np.tile(places[labels], (2, 1, 1))
    values = [
        float(
            BalancedSupCon(form=f, temperature=1.0)(Tensor(z, ms.float32), Tensor(labels), Tensor(places, ms.float32))
        )
        for f in ("L1", "L2", "L3")
    ]
    assert values[0] > 0.1
    assert values == pytest.approx([values[0]] * 3, rel=1e-5)


@pytest.mark.parametrize("name", ["supcon", "psc", "balanced_supcon", "paco"])
@pytest.mark.parametrize("temperature", [0.0, -0.1, float("nan")])
def test_temperatures_that_mean_nothing(name, temperature):
    with pytest.raises(ValueError, match="temperature"):
        CONTRASTS.get(name)(temperature=temperature)


def test_what_is_refused(mode):
    z, labels, prototypes = data(4, 2)
    one, y, p = Tensor(z[:1], ms.float32), Tensor(labels), Tensor(prototypes, ms.float32)
    for loss in (SupCon(), BalancedSupCon(complement=False)):
        with pytest.raises(ValueError, match="2 or more views"):
            loss(one, y)
    with pytest.raises(ValueError, match="needs prototypes"):
        BalancedSupCon()(Tensor(z, ms.float32), y)
    with pytest.raises(ValueError, match="4 prototypes for 3 class_counts"):
        PSC(class_counts=[3, 2, 1])(one, y, p)
    with pytest.raises(ValueError, match="L3"):
        BalancedSupCon(form="L3", complement=False)
    with pytest.raises(ValueError, match="averag"):
        BalancedSupCon(form="L2", averaging=False)


def test_a_contrastive_loss_without_elements_is_named():
    class Half(Contrast):
        pass

    with pytest.raises(NotImplementedError, match=r"^Half must define elements\(\)"):
        Half()(Tensor(np.ones((2, 3, 4), np.float32)), Tensor([0, 1, 1], ms.int32))
