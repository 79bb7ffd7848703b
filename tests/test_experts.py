"""Several experts (RIDE) against float64: sizes counted by hand, logits, the loss with its two divergences, gradients, maps."""

import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from contrastive_oracles import log_softmax, ride
from mindspore import Tensor, nn
from test_bilateral import block, first_convolution, norm, slopes, values
from test_models import count_by_hand

import ms_longtail.losses
import ms_longtail.models  # noqa: F401  (both fill the registry)
from ms_longtail import recipe as recipes
from ms_longtail.errors import RecipeError
from ms_longtail.models.activation_map import ActivationMaps
from ms_longtail.models.experts import narrowed
from ms_longtail.objectives.experts import Experts, divergence
from ms_longtail.parameters import assign
from ms_longtail.registry import LOSSES, MODELS
from ms_longtail.run.posthoc import linear_parts
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

B, C, E, D = 6, 4, 3, 48
PYNATIVE = pytest.mark.parametrize("mode", ["pynative"], indirect=True)
COUNTS = np.array([400, 60, 9, 2])
CLASS_WEIGHTS = np.array([0.5, 1.0, 3.0, 10.0])
RNG = np.random.default_rng(21)
IMAGES = RNG.integers(0, 256, (B, 3, 16, 16)).astype(np.uint8)
Y = np.array([0, 1, 0, 3, 2, 0], np.int32)


def network(head="linear", seed=3, experts=E, **settings):
    """In evaluation, with running statistics, norms and biases that are not the trivial ones."""
    model = MODELS.get("resnet8_cifar")(num_classes=C, head=head, experts=experts, seed=seed, **settings)
    rng = np.random.default_rng(1)
    for parameter in model.get_parameters():
        if parameter.ndim == 1:
            assign(parameter, rng.uniform(0.5, 1.5, parameter.shape))
    return model.set_train(False)


class Seen(nn.Cell):
    """(features, logits of each expert, logits)."""

    def __init__(self, model):
        super().__init__(auto_prefix=False)
        self.model = model

    def construct(self, images):
        features = self.model.features(images)
        return features, self.model.head.each(features), self.model(images)


def of_expert(w, e):
    """The last feature map of expert e, (B, D, h, w), in float64."""
    x = np.maximum(norm(w, first_convolution(w, IMAGES), "backbone.bn1"), 0)
    x = block(w, x, "backbone.layer1.0", 1)
    for layer in (0, 1):
        x = block(w, x, f"backbone.branches.each.{e}.{layer}.0", 2)
    return x


def split(rows):
    """(N, E D) -> E times (N, D)."""
    return np.split(np.asarray(rows, np.float64), E, axis=1)


def each_of(features, weight, bias=None, scale=1.0):
    """Every expert's logits (E, B, C): linear with a bias, cosines without."""
    logits = []
    for e, (f, w) in enumerate(zip(split(features), split(weight), strict=True)):
        if bias is None:
            f, w = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (f, w))
            logits.append(scale * f @ w.T)
        else:
            logits.append(f @ w.T + bias[e * len(w) : (e + 1) * len(w)])
    return np.array(logits)


# ---- sizes


def late_by_hand(n, inputs, widths):
    total = 0
    for width in widths:
        for _ in range(n):
            total += 9 * inputs * width + 9 * width * width + 4 * width
            inputs = width
    return total


@pytest.mark.parametrize(("width", "widths"), [(0.75, (24, 48)), (1.0, (32, 64)), (0.5, (16, 32))])
@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_resnet32_with_three_experts(head, width, widths):
    model = MODELS.get("resnet32_cifar")(num_classes=100, experts=3, expert_width=width, head=head)
    stem, first = 3 * 3 * 3 * 16 + 2 * 16, 5 * (2 * 9 * 16 * 16 + 4 * 16)
    classifiers = 100 * 3 * widths[1] + (3 * 100 if head == "linear" else 0)
    expected = stem + first + 3 * late_by_hand(5, 16, widths) + classifiers
    assert sum(p.size for p in model.trainable_params()) == expected
    assert model.feature_size == 3 * widths[1]
    assert model.head.weight.shape == (100, 3 * widths[1])
    if (head, width) == ("linear", 1.0):
        late = count_by_hand(32, 100) - stem - first - 6500
        assert expected == stem + first + 3 * (late + 6500)


def bottlenecks(count, inputs, width):
    total = 0
    for place in range(count):
        total += inputs * width + 9 * width * width + 4 * width * width + 2 * (2 * width + 4 * width)
        if place == 0:
            total += inputs * 4 * width + 2 * 4 * width  # the shortcut
        inputs = 4 * width
    return total


@pytest.mark.parametrize(("experts", "width", "planes"), [(3, 0.75, (192, 384)), (2, 1.0, (256, 512))])
def test_resnet50_with_experts(experts, width, planes):
    model = MODELS.get("resnet50")(num_classes=1000, experts=experts, expert_width=width)
    shared = 3 * 64 * 49 + 2 * 64 + bottlenecks(3, 64, 64) + bottlenecks(4, 256, 128)
    own = bottlenecks(6, 512, planes[0]) + bottlenecks(3, 4 * planes[0], planes[1]) + 4 * planes[1] * 1000 + 1000
    assert shared + bottlenecks(6, 512, 256) + bottlenecks(3, 1024, 512) + 2_049_000 == 25_557_032  # the published one
    assert sum(p.size for p in model.trainable_params()) == shared + experts * own
    assert model.feature_size == experts * 4 * planes[1]


@pytest.mark.parametrize(("name", "width"), [("resnet8_cifar", 1.0), ("resnet32_cifar", 0.75), ("resnet10", 0.5)])
def test_one_expert_is_the_plain_network(name, width):
    plain, one = MODELS.get(name)(num_classes=7), MODELS.get(name)(num_classes=7, experts=1, expert_width=width)
    assert [p.name for p in plain.get_parameters()] == [p.name for p in one.get_parameters()]
    for a, b in zip(plain.get_parameters(), one.get_parameters(), strict=True):
        np.testing.assert_array_equal(a.asnumpy(), b.asnumpy(), err_msg=a.name)
    assert one.experts == 1


def test_widths_are_even():
    assert [narrowed(w, 0.75) for w in (32, 64, 256, 512)] == [24, 48, 192, 384]
    assert all(narrowed(w, f) % 2 == 0 and narrowed(w, f) > 0 for w in (32, 64) for f in np.linspace(0.01, 1, 60))


def test_experts_begin_apart_and_early_layers_are_shared():
    model = MODELS.get("resnet8_cifar")(num_classes=C, experts=E)
    names = {p.name for p in model.get_parameters()}
    assert not any(name.startswith(("backbone.layer2", "backbone.layer3")) for name in names)
    own = [{n.split(f"each.{e}.")[1] for n in names if f"each.{e}." in n} for e in range(E)]
    assert own[0] == own[1] == own[2] != set()
    w = values(model)
    for part in own[0]:
        if part.endswith("weight"):
            assert not np.array_equal(w[f"backbone.branches.each.0.{part}"], w[f"backbone.branches.each.1.{part}"])
    parts = split(w["head.weight"])
    assert not np.array_equal(parts[0], parts[1])


def test_what_is_refused():
    for head in ("lws", "disalign"):
        with pytest.raises(ValueError, match="experts"):
            MODELS.get("resnet8_cifar")(num_classes=C, head=head, experts=2)
    for name in ("resnet8_cifar", "resnet10"):
        with pytest.raises(ValueError, match="not both"):
            MODELS.get(name)(num_classes=C, branches=2, experts=2)
    for bad in (
        {"experts": 0},
        {"experts": 17},
        {"experts": 2, "expert_width": 0.0},
        {"experts": 2, "expert_width": 1.5},
    ):
        content = {
            "name": "tiny",
            "data": "digits_lt",
            "model": {"name": "resnet8_cifar"} | bad,
            "stages": [{"epochs": 1}],
        }
        with pytest.raises(RecipeError, match=[*bad][-1]):
            recipes.from_map(content)
    with pytest.raises(ValueError, match=r"expert_width 0.3: 10 channels behind 16"):
        MODELS.get("resnet8_cifar")(num_classes=C, experts=2, expert_width=0.3)
    with pytest.raises(ValueError, match="several"):
        Experts(MODELS.get("resnet8_cifar")(num_classes=C), LOSSES.get("ce")())
    for bad in ({"diversity": -0.1}, {"temperature": 0.0}, {"distill_weight": -1.0}, {"distill_temperature": 0.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Experts(network(), LOSSES.get("ce")(), **bad)


# ---- what the network answers


HEADS = [
    ("graph", "linear", {}),
    ("pynative", "linear", {}),
    ("pynative", "cosine", {}),
    ("graph", "cosine", {"scale": 16.0}),
]


@pytest.mark.parametrize(("mode", "head", "settings"), HEADS, indirect=["mode"])
def test_features_and_logits_against_numpy(mode, head, settings):
    model = network(head, **settings)
    w = values(model)
    maps = [of_expert(w, e) for e in range(E)]
    expected = np.concatenate([m.mean(axis=(2, 3)) for m in maps], axis=1)
    features, each, logits = (t.asnumpy() for t in Seen(model)(Tensor(IMAGES)))
    size = np.abs(expected).max()
    assert_close(features, expected, factor=5 * max(1, size))
    wanted = each_of(expected, w["head.weight"], w.get("head.bias"), settings.get("scale", 1.0))
    assert each.shape == (E, B, C)
    assert_close(each, wanted, factor=10 * max(1, np.abs(wanted).max()))
    assert_close(logits, wanted.mean(axis=0), factor=10 * max(1, np.abs(wanted).max()))
    assert_close(model.feature_map(Tensor(IMAGES)).asnumpy(), np.concatenate(maps, axis=1), factor=20 * max(1, size))


@PYNATIVE
def test_experts_that_are_all_the_plain_network_answer_as_it_does(mode):
    plain = network(experts=1)
    model, w = network(expert_width=1.0), values(plain)
    for p in model.get_parameters():
        name = p.name
        for e in range(E):
            for layer in (2, 3):
                name = name.replace(f"branches.each.{e}.{layer - 2}.", f"layer{layer}.")
        value = w[name]
        if name.startswith("head."):
            value = np.tile(value, (1, E) if value.ndim == 2 else E)
        assign(p, value)
    expected = plain(Tensor(IMAGES)).asnumpy()
    assert_close(model(Tensor(IMAGES)).asnumpy(), expected, factor=10 * max(1, np.abs(expected).max()))


@PYNATIVE
def test_a_feature_of_length_zero_stays_finite(mode):
    model = network("cosine")
    features = np.random.default_rng(0).normal(size=(2, E * D))
    features[0, :D] = 0
    found = model.head.each(Tensor(features, ms.float32)).asnumpy()
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[0, 0], 0)


def test_activation_maps_are_those_of_the_mean_s_weights(mode):
    model = network()
    w = values(model)
    maps, *_ = ActivationMaps(model)(Tensor(IMAGES), Tensor(Y), Tensor(np.arange(B, dtype=np.int32)))
    all_of_them = np.concatenate([of_expert(w, e) for e in range(E)], axis=1)
    expected = np.einsum("bk,bkhw->bhw", w["head.weight"][Y], all_of_them).reshape(B, -1)
    low, high = expected.min(axis=1, keepdims=True), expected.max(axis=1, keepdims=True)
    assert np.abs(maps.asnumpy() - 255 * (expected - low) / (high - low)).max() <= 0.5 + 0.01


@PYNATIVE
def test_mixing_inside_the_network(mode):
    """At every point that is offered, blending with oneself changes nothing and with another does."""
    model = network()
    expected = model(Tensor(IMAGES)).asnumpy()
    partner, half = Tensor(np.arange(B)[::-1].copy(), ms.int32), Tensor(np.full(B, 0.5), ms.float32)
    for point in model.points:
        _, logits = model.mixed(Tensor(IMAGES), point, Tensor(np.arange(B), ms.int32), half)
        assert_close(logits.asnumpy(), expected, factor=10 * max(1, np.abs(expected).max()))
        _, logits = model.mixed(Tensor(IMAGES), point, partner, half)
        assert np.abs(logits.asnumpy() - expected).max() > 1e-3


def test_the_linear_classifier_that_the_heads_are():
    """What post-hoc corrections take for W and b gives the network's own logits."""
    model = network()
    features, _, logits = (t.asnumpy().astype(np.float64) for t in Seen(model)(Tensor(IMAGES)))
    weight, bias = linear_parts(model.head)
    assert_close(features @ weight.T + bias, logits, factor=10 * max(1, np.abs(logits).max()))


# ---- the objective


def margin_losses(each, labels, scale=30.0, max_margin=0.5):
    """LDAM of every expert and image, (E, B): cross-entropy of s (z - m_y e_y)."""
    margins = max_margin * (COUNTS.min() / COUNTS) ** 0.25
    found = np.zeros(each.shape[:2])
    for e, logits in enumerate(each):
        for b, y in enumerate(labels):
            z = logits[b].copy()
            z[y] -= margins[y]
            found[e, b] = -log_softmax(scale * z)[y]
    return found


def plain_losses(each, labels):
    return np.array([[-log_softmax(z)[y] for z, y in zip(logits, labels, strict=True)] for logits in each])


def towards(target, logits, T):
    """T^2 KL(softmax(t / T) || softmax(z / T)), (B,)."""
    found = np.zeros(len(target))
    for b, (t, z) in enumerate(zip(target, logits, strict=True)):
        log_p, log_q = log_softmax(t / T), log_softmax(z / T)
        found[b] = T**2 * np.sum(np.exp(log_p) * (log_p - log_q))
    return found


def numerator_of(objective):
    def function(image, label):
        return objective(image, label)[0]

    return function


CASES = {  # head, loss, its settings, the objective's, whether there is a teacher
    "ldam": ("cosine", "ldam", {}, {}, False),
    "weighted": ("cosine", "ldam", {"class_weights": CLASS_WEIGHTS}, {"temperature": 2.0}, False),
    "scale 10": ("cosine", "ldam", {"scale": 10.0}, {"diversity": 0.45}, False),
    "by images": (
        "linear",
        "ce",
        {"class_weights": CLASS_WEIGHTS, "denominator": "batch"},
        {"diversity": 0.3, "temperature": 0.7},
        False,
    ),
    "no diversity": ("cosine", "ldam", {}, {"diversity": 0.0}, False),
    "taught": ("cosine", "ldam", {"scale": 5.0, "class_weights": CLASS_WEIGHTS}, {}, True),
    "taught by halves": (
        "linear",
        "ce",
        {},
        {"distill_weight": 0.5, "distill_temperature": 3.0, "diversity": 0.1},
        True,
    ),
    "deaf": ("linear", "ce", {}, {"distill_weight": 0.0}, True),
}


def build(case):
    """(objective, model, taught logits or None, the oracle: logits of each and their mean -> (numerator, denominator))."""
    head, loss, loss_settings, settings, has_teacher = CASES[case]
    model, teacher = network(head), None
    taught = None
    if has_teacher:
        teacher = network(head, seed=8)
        taught = teacher(Tensor(IMAGES)).asnumpy().astype(np.float64)
    made = LOSSES.get(loss)(class_counts=COUNTS, **loss_settings)
    objective = Experts(model, made, teacher, **settings)
    objective.set_train(False)
    scale = loss_settings.get("scale", 30.0) if loss == "ldam" else 1.0
    weights = loss_settings.get("class_weights", np.ones(C))[Y]
    divide_by = B if loss_settings.get("denominator") == "batch" else weights.sum()
    factor, T = settings.get("diversity", 0.2), settings.get("temperature", 1.0)

    def totals(each, mean):
        base = margin_losses(each, Y, scale) if loss == "ldam" else plain_losses(each, Y)
        total = base.sum(axis=0)
        for logits in each:
            total = total - factor * towards(scale * mean, scale * logits, T)
            if taught is not None:
                own = settings.get("distill_temperature", 1.5)
                total = total + settings.get("distill_weight", 1.0) * towards(scale * taught, scale * logits, own)
        if taught is None and np.array_equal(mean, each.mean(axis=0)):  # two ways to the same
            np.testing.assert_allclose(total, ride(scale * each, Y, base, factor, T), rtol=1e-9, atol=1e-9)
        # Class weights are the loss's alone; the divergences are plain means.
        return (weights * base.sum(axis=0)).sum() + (total - base.sum(axis=0)).mean() * divide_by, divide_by

    return objective, model, totals


BOTH = [*(("pynative", case) for case in CASES), ("graph", "weighted"), ("graph", "taught by halves")]


@pytest.mark.parametrize(("mode", "case"), BOTH, indirect=["mode"])
def test_value_and_gradient(mode, case):
    objective, model, totals = build(case)
    w = values(model)
    features = model.features(Tensor(IMAGES)).asnumpy().astype(np.float64)
    weight, bias = w["head.weight"], w.get("head.bias")
    each = each_of(features, weight, bias)
    mean = each.mean(axis=0)

    def quotient(image, label):
        numerator, denominator, _ = objective(image, label)
        return numerator / denominator, numerator, denominator

    step = ms.value_and_grad(quotient, None, ms.ParameterTuple([model.head.weight]), has_aux=True)
    (value, numerator, denominator), (gradient,) = step(Tensor(IMAGES), Tensor(Y))
    expected = totals(each, mean)
    size = max(1.0, abs(expected[0] / expected[1]))
    assert_close(denominator.asnumpy(), expected[1])
    assert_close(numerator.asnumpy() / expected[1], expected[0] / expected[1], factor=10 * size)
    assert_close(value.asnumpy(), expected[0] / expected[1], factor=10 * size)
    # Along random directions. Whether the mean rests cannot be seen here: it is where the sum of the divergences is least.
    rng = np.random.default_rng(4)
    for _ in range(4):
        direction = rng.normal(size=weight.shape) * np.abs(weight).mean()
        ends = [totals(each_of(features, weight + h * direction, bias), mean) for h in (1e-5, -1e-5)]
        slope = (ends[0][0] / ends[0][1] - ends[1][0] / ends[1][1]) / 2e-5
        products = gradient.asnumpy().astype(np.float64) * direction
        assert abs(products.sum() - slope) < 1e-4 * max(1.0, np.abs(products).sum())


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
def test_the_divergence_and_what_gets_a_gradient(mode, T):
    """T^2 KL and its gradient T (q - p) for what is pulled; none for what it is pulled to."""
    rng = np.random.default_rng(0)
    target, logits = 4 * rng.normal(size=(2, B, C))
    value = divergence(Tensor(target, ms.float32), Tensor(logits, ms.float32), T)
    assert_close(value.asnumpy(), towards(target, logits, T), factor=10)

    def total(target, logits):
        return divergence(target, logits, T).sum()

    of_target, of_logits = ms.grad(total, (0, 1))(Tensor(target, ms.float32), Tensor(logits, ms.float32))
    np.testing.assert_array_equal(of_target.asnumpy(), 0)
    p, q = (np.exp([log_softmax(row / T) for row in x]) for x in (target, logits))
    assert_close(of_logits.asnumpy(), T * (q - p), factor=5)
    assert_close(of_logits.asnumpy(), slopes(lambda z: towards(target, z, T).sum(), logits), factor=5)


@PYNATIVE
def test_the_divergence_of_sure_experts_is_finite(mode):
    target, logits = np.array([[300.0, 0, 0, -300]]), np.array([[-300.0, 0, 0, 300]])
    value = divergence(Tensor(target, ms.float32), Tensor(logits, ms.float32), 1.0)
    assert_close(value.asnumpy(), [600.0])


@PYNATIVE
def test_each_expert_gets_the_gradient_of_its_own_loss_alone(mode):
    """Expert 0's classifier does not move when the logits of expert 1 do, if the mean's are not looked at."""
    objective, model, _ = build("no diversity")
    gradients = []
    for factor in (1.0, -3.0):
        weight = values(model)["head.weight"]
        weight[:, D : 2 * D] *= factor
        assign(model.head.weight, weight)
        gradient = ms.grad(numerator_of(objective), None, ms.ParameterTuple([model.head.weight]))
        gradients.append(split(gradient(Tensor(IMAGES), Tensor(Y))[0].asnumpy()))
    np.testing.assert_array_equal(gradients[0][0], gradients[1][0])
    assert np.abs(gradients[0][1] - gradients[1][1]).max() > 1e-3


@PYNATIVE
def test_the_teacher_gets_no_gradient(mode):
    objective, model, _ = build("taught")
    assert not any(p.name.startswith("teacher.") for p in objective.trainable_params())
    before = {p.name: p.asnumpy().copy() for p in objective.teacher.get_parameters()}
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.01])).set_train()
    start = values(model)
    step(Tensor(IMAGES), Tensor(Y))
    for p in objective.teacher.get_parameters():
        np.testing.assert_array_equal(p.asnumpy(), before[p.name], err_msg=p.name)
    after = values(model)
    for name, value in after.items():
        assert not np.array_equal(value, start[name]), name  # every expert learns, every running statistic follows


@pytest.mark.parametrize("name", ["influence_balanced", "cs_ce", "softmax_eql", "eqlv2", "balanced_softmax"])
def test_any_loss_is_that_of_every_expert_with_its_own_features(name):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model, loss = network(), LOSSES.get(name)(class_counts=COUNTS)
    objective = Experts(model, loss, diversity=0.0)
    objective.set_train(False)
    draw = (Tensor(np.arange(B), ms.int64),) if loss.random else ()
    assert objective.columns == ("image", "label", "draw")[: 2 + len(draw)]
    numerator, denominator, observed = objective(Tensor(IMAGES), Tensor(Y), *draw)
    features, each, logits = Seen(model)(Tensor(IMAGES))
    totals = [
        loss.totals(each[e], Tensor(Y), features[:, e * D : (e + 1) * D], None, *(draw or (None,))) for e in range(E)
    ]
    assert_close(numerator.asnumpy(), sum(float(t[0].asnumpy()) for t in totals), factor=5)
    assert_close(denominator.asnumpy(), totals[0][1].asnumpy())
    assert_close(observed.asnumpy(), loss.observe(logits, Tensor(Y)).asnumpy())


@PYNATIVE
def test_halves_add_up_to_the_whole(mode):
    objective, *_ = build("weighted")
    whole, *halves = (
        [float(t.asnumpy()) for t in objective(Tensor(IMAGES[part]), Tensor(Y[part]))[:2]]
        for part in (slice(0, B), slice(0, 3), slice(3, B))
    )
    assert_close(np.sum(halves, axis=0), whole, factor=10 * abs(whole[0]))


@PYNATIVE
def test_a_backbone_at_rest(mode):
    model = network("cosine")
    for p in model.backbone.get_parameters():
        p.requires_grad = False
    objective = Experts(model, LOSSES.get("ldam")(class_counts=COUNTS))
    objective.set_train(False)
    gradient = ms.grad(numerator_of(objective), 0)(Tensor(IMAGES, ms.float32), Tensor(Y))
    np.testing.assert_array_equal(gradient.asnumpy(), 0)
