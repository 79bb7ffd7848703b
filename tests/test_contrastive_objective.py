"""`contrastive` and `momentum_contrast` around a small classifier against float64: losses, gradients, queue and keys."""

import contrastive_oracles as oracle
import mindspore as ms
import numpy as np
import pytest
from conftest import assert_close
from contrast_parallel_run import CLASS_WEIGHTS, CLASSES, COUNTS, PIXELS, Tiny, f32, i32
from mindspore import Tensor

from ms_longtail.losses import LDAM, PSC, BalancedSoftmax, BalancedSupCon, CrossEntropy, LogitAdjustment, PaCo, SupCon
from ms_longtail.objectives.contrastive import Contrastive, contrastive_share
from ms_longtail.objectives.momentum_contrast import MomentumContrast
from ms_longtail.parameters import assign
from ms_longtail.registry import MODELS
from ms_longtail.training.optimizers import sgd
from ms_longtail.training.step import TrainStep

B, HIDDEN, SIZE = 7, 8, 5
RNG = np.random.default_rng(31)
VIEWS = RNG.normal(size=(3, B, PIXELS)).astype(np.float32)
Y = np.array([0, 1, 0, 2, 1, 0, 1], np.int32)  # no image of the rarest class
PYNATIVE = pytest.mark.parametrize("mode", ["pynative"], indirect=True)
SHARE = {"none": None, "parabolic": lambda p: 1 - p**2, "linear": lambda p: 1 - p}


def values(cell):
    return {p.name: p.asnumpy().astype(np.float64) for p in cell.get_parameters()}


# ---- the network and what stands behind it, in float64


def features(w, x, prefix=""):
    x = x @ w[f"{prefix}backbone.0.weight"].T + w[f"{prefix}backbone.0.bias"]
    return x / np.sqrt(1 + x**2)


def logits_of(w, f):
    if "head.bias" in w:
        return f @ w["head.weight"].T + w["head.bias"]
    return oracle.unit(f) @ oracle.unit(w["head.weight"]).T


def project(w, x, kind, name):
    """A projection in training: batch normalisation takes the mean and variance of what it sees."""
    if kind == "none":
        return x
    if kind == "linear":
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    x = x @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"]
    last = 2
    if kind == "mlp_norm":
        x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5) * w[f"{name}.1.gamma"] + w[f"{name}.1.beta"]
        last = 3
    return np.maximum(x, 0) @ w[f"{name}.{last}.weight"].T + w[f"{name}.{last}.bias"]


def cross_entropy(z, y):
    return np.array([-oracle.log_softmax(row)[c] for row, c in zip(z, y, strict=True)])


LOSS = {  # name -> (cell, what it adds to the logits, class weights, whether it divides by them)
    "ce": (CrossEntropy, {}, 0, np.ones(CLASSES), True),
    "balanced": (BalancedSoftmax, {"class_counts": COUNTS}, np.log(COUNTS), np.ones(CLASSES), True),
    "weighted": (CrossEntropy, {"class_weights": CLASS_WEIGHTS}, 0, CLASS_WEIGHTS, True),
    "by images": (CrossEntropy, {"class_weights": CLASS_WEIGHTS, "denominator": "batch"}, 0, CLASS_WEIGHTS, False),
}
CONTRAST = {  # name -> (cell, the loss of every anchor)
    "balanced_supcon": (
        lambda mean: BalancedSupCon(temperature=0.2, anchor_mean=mean),
        lambda z, y, p: oracle.balanced_supcon(z, y, 0.2, prototypes=p),
    ),
    "supcon": (lambda mean: SupCon(temperature=0.2, anchor_mean=mean), lambda z, y, p: oracle.supcon(z, y, 0.2)),
    "psc": (lambda mean: PSC(temperature=0.2, anchor_mean=mean), lambda z, y, p: oracle.psc(z, y, p, 0.2)),
}
CASES = {  # contrast, loss, views, anchor mean, head, settings
    "as it comes": ("balanced_supcon", "ce", 3, "anchor", "cosine", {}),
    "bcl": ("balanced_supcon", "balanced", 3, "class", "cosine", {"loss_weight": 2.0, "contrast_weight": 0.6}),
    "weighted": ("balanced_supcon", "weighted", 3, "anchor", "linear", {"projection": "mlp", "loss_weight": 0.7}),
    "by images": ("supcon", "by images", 3, "class", "linear", {"projection": "mlp", "contrast_weight": 3.0}),
    "hybrid": ("supcon", "ce", 2, "anchor", "linear", {"decay": "parabolic", "contrasted": "all", "projection": "mlp"}),
    "faded": (
        "psc",
        "weighted",
        2,
        "class",
        "linear",
        {"decay": "linear", "contrasted": "all", "projection": "linear", "prototypes": "learned", "loss_weight": 0.5},
    ),
    "one view": (
        "psc",
        "ce",
        1,
        "anchor",
        "cosine",
        {"contrasted": "all", "projection": "none", "prototypes": "learned"},
    ),
    "bare": ("psc", "balanced", 2, "anchor", "linear", {"projection": "none"}),
    "linear both": ("balanced_supcon", "ce", 3, "class", "linear", {"projection": "linear", "decay": "linear"}),
    "alone": ("supcon", "ce", 2, "anchor", "linear", {"loss_weight": 0.0, "contrasted": "all", "projection": "mlp"}),
    "alone with prototypes": ("balanced_supcon", "weighted", 3, "anchor", "linear", {"loss_weight": 0.0}),
}


def build(case, model=None):
    contrast, loss, views, mean, head, settings = CASES[case]
    model = Tiny(3, head=head) if model is None else model
    rng = np.random.default_rng(2)
    for p in model.get_parameters():
        if p.name.endswith("bias"):
            assign(p, rng.normal(size=p.shape) / 3)
    made = LOSS[loss][0](**LOSS[loss][1])
    objective = Contrastive(
        model,
        made,
        contrast=CONTRAST[contrast][0](mean),
        views=views,
        hidden_size=HIDDEN,
        embedding_size=SIZE,
        seed=4,
        **settings,
    )
    for p in objective.embedding.get_parameters():
        if p.name.endswith(("bias", "gamma", "beta")):
            assign(p, rng.uniform(0.5, 1.5, p.shape))
    return objective.set_train()


def columns(case, progress, views=VIEWS):
    return f32(views[0]), i32(Y), f32([progress]), *(f32(v) for v in views[1 : CASES[case][2]])


def expected(case, w, progress, part=slice(None)):
    """(numerator, denominator)."""
    y = Y[part]
    contrast, loss, views, mean, _, settings = CASES[case]
    _, _, shift, class_weights, by_weights = LOSS[loss]
    kind, weights = settings.get("projection", "mlp_norm"), class_weights[y]
    f = [features(w, v.astype(np.float64)) for v in VIEWS[:views, part]]
    plain = cross_entropy(logits_of(w, f[0]) + shift, y)
    used = f if settings.get("contrasted") == "all" else f[1:]
    z = project(w, np.concatenate(used), kind, "embedding.projection")
    if settings.get("prototypes") == "learned":
        prototypes = w["embedding.learned"]
    elif contrast == "supcon":
        prototypes = None
    else:
        prototypes = project(w, w["head.weight"], kind, "embedding.of_classifier")
    labels = np.tile(y, len(used))
    contrastive = oracle.anchor_mean(CONTRAST[contrast][1](z, labels, prototypes), labels, mean)
    denominator = weights.sum() if by_weights else len(y)
    a, b = settings.get("loss_weight", 1.0), settings.get("contrast_weight", 1.0)
    share = SHARE[settings.get("decay", "none")]
    if share is not None:
        a, b = a * (1 - share(progress)), b * share(progress)
    return denominator * (a * (weights * plain).sum() / denominator + b * contrastive), denominator


def quotient_of(objective):
    def function(*args):
        numerator, denominator, _ = objective(*args)
        return numerator / denominator, numerator, denominator

    return function


BOTH = [*(("pynative", case) for case in CASES), ("graph", "bcl"), ("graph", "faded")]


@pytest.mark.parametrize(("mode", "case"), BOTH, indirect=["mode"])
def test_value_and_gradient_of_contrastive(mode, case):
    objective = build(case)
    names = [p.name for p in objective.trainable_params()]
    weights = ms.ParameterTuple(objective.trainable_params())
    function = ms.value_and_grad(quotient_of(objective), None, weights, has_aux=True)
    decays = CASES[case][5].get("decay", "none") != "none"
    rng = np.random.default_rng(0)
    for progress in [0.0, 0.25, 0.9] if decays else [0.4]:
        w = values(objective)
        (value, numerator, denominator), gradients = function(*columns(case, progress))
        wanted = expected(case, w, progress)
        assert_close(denominator.asnumpy(), wanted[1])
        assert_close(numerator.asnumpy(), wanted[0], factor=max(1, abs(wanted[0])))
        assert_close(value.asnumpy(), wanted[0] / wanted[1], factor=2)
        for name, gradient in zip(names, gradients, strict=True):
            direction, h = rng.normal(size=gradient.shape), 1e-6
            ends = [expected(case, w | {name: w[name] + s * h * direction}, progress) for s in (1, -1)]
            slope = (ends[0][0] / ends[0][1] - ends[1][0] / ends[1][1]) / (2 * h)
            found = (gradient.asnumpy().astype(np.float64) * direction).sum()
            size = max(1.0, np.abs(gradient.asnumpy() * direction).sum())
            assert abs(found - slope) < 2e-4 * size, (name, progress, found, slope)


def numerator_of(objective):
    def function(*args):
        return objective(*args)[0]

    return function


def test_shares_of_an_epoch():
    for p in (0.0, 0.25, 0.5, 0.9):
        assert contrastive_share(p, "parabolic") == 1 - p**2
        assert contrastive_share(p, "linear") == 1 - p


def gradients_of(objective, *args):
    weights = objective.trainable_params()
    found = ms.grad(numerator_of(objective), None, ms.ParameterTuple(weights))(*args)
    return {p.name: np.abs(g.asnumpy()).max() for p, g in zip(weights, found, strict=True)}


def test_what_the_contrastive_loss_alone_reaches():
    """lambda 0: the backbone through the embeddings, the classifier's weight through the prototypes, its bias not at all."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    found = gradients_of(build("alone with prototypes"), *columns("alone with prototypes", 0.5))
    assert found.pop("head.bias") == 0
    # A bias in front of batch normalisation has no effect.
    assert all(value > 1e-4 for name, value in found.items() if not name.endswith((".0.bias",))), found
    assert found["head.weight"] > 1e-2
    assert found["backbone.0.weight"] > 1e-2
    found = gradients_of(build("alone"), *columns("alone", 0.5))
    assert found["head.weight"] == found["head.bias"] == 0
    assert found["backbone.0.weight"] > 1e-2


@PYNATIVE
def test_no_gradient_passes_a_backbone_at_rest(mode):
    model = Tiny(3, head="cosine")
    for p in model.backbone.get_parameters():
        p.requires_grad = False
    objective = build("bcl", model)
    assert not any(p.name.startswith("backbone") for p in objective.trainable_params())
    slopes = ms.grad(numerator_of(objective), (0, 3, 4))(*columns("bcl", 0.5))
    for slope in slopes:
        np.testing.assert_array_equal(slope.asnumpy(), 0)
    trained = build("bcl")
    slopes = ms.grad(numerator_of(trained), (0, 3, 4))(*columns("bcl", 0.5))
    assert all(np.abs(slope.asnumpy()).max() > 1e-3 for slope in slopes)


def test_the_network_that_is_tested_holds_nothing_of_the_training():
    model = Tiny(3, head="cosine")
    own = [p.name for p in model.get_parameters()]
    objective = build("bcl", model)
    assert [p.name for p in model.get_parameters()] == own == ["backbone.0.weight", "backbone.0.bias", "head.weight"]
    more = {p.name for p in objective.get_parameters()} - set(own)
    assert more
    assert all(name.startswith("embedding.") for name in more)
    assert {p.name for p in objective.trainable_params()} - set(own) == {n for n in more if "moving" not in n}
    assert objective.columns == ("image", "label", "progress", "view2", "view3")


def test_a_step_in_micro_batches_weighs_each_contrast_by_what_its_part_counts():
    """(sum of lambda w L + sum over parts of their weights times mu L_con) over all weights."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    objective = build("weighted")
    step = TrainStep(
        objective, sgd(objective.trainable_params(), [0.0] * 2, weight_decay=0.0), accumulate=2
    ).set_train()
    w, parts, found = values(objective), [slice(0, 3), slice(3, 6)], []
    for number, part in enumerate(parts):
        image, _, progress, *more = columns("weighted", 0.0, VIEWS[:, part])
        loss, _ = step(image, i32(Y[part]), progress, *more, i32([number]))
        found.append(expected("weighted", w, 0.0, part))
    numerator, denominator = np.sum(found, axis=0)
    assert denominator == CLASS_WEIGHTS[Y[:6]].sum()
    assert_close(loss.asnumpy(), numerator / denominator, factor=2)


def test_what_contrastive_refuses():
    model = Tiny(3)
    for contrast in (None, PaCo()):
        with pytest.raises(ValueError, match="compares views"):
            Contrastive(model, CrossEntropy(), contrast=contrast, views=3)
    with pytest.raises(ValueError, match="2 views, of which 1 are contrasted"):
        Contrastive(model, CrossEntropy(), contrast=SupCon(), views=2)
    with pytest.raises(ValueError, match="1 view, of which 0"):
        Contrastive(model, CrossEntropy(), contrast=PSC(), views=1)
    for bad in (
        {"loss_weight": -1.0},
        {"contrast_weight": 0.0},
        {"decay": "cosine"},
        {"hidden_size": 0},
        {"contrasted": "first"},
    ):
        with pytest.raises((ValueError, TypeError), match=next(iter(bad))):
            Contrastive(model, CrossEntropy(), contrast=SupCon(), views=3, **bad)


# ---- momentum contrast


def momentum(loss=None, *, batch=4, room=9, projection="mlp", model=None, twin=None, paco=None, **settings):
    objective = MomentumContrast(
        Tiny(1) if model is None else model,
        BalancedSoftmax(class_counts=COUNTS) if loss is None else loss,
        contrast=PaCo(temperature=0.3, **({"alpha": 0.3} if paco is None else paco)),
        views=2,
        twin=Tiny(7) if twin is None else twin,
        batch=batch,
        queue_size=room,
        hidden_size=HIDDEN,
        embedding_size=SIZE,
        projection=projection,
        **settings,
    )
    return objective.set_train()


def keys_of(w, x, kind="mlp"):
    """Keys of length 1 by the copy of the network."""
    return oracle.unit(
        project(w, features(w, np.asarray(x, np.float64), "keys.network."), kind, "keys.embedding.projection")
    )


def step_columns(count, seed, batch=None):
    rng = np.random.default_rng((77, seed))
    place = np.arange(count)
    image, view2 = rng.normal(size=(2, count, PIXELS)).astype(np.float32)
    return image, rng.integers(0, CLASSES, count).astype(np.int32), view2, place.astype(np.int32)


def tensors(columns):
    image, label, view2, place = columns
    return f32(image), i32(label), f32(view2), i32(place)


ADJUSTED = {"alpha": 0.05, "beta": 2.0, "gamma": 0.5, "supt": 0.7}
SETTINGS = {
    "balanced": (BalancedSoftmax(class_counts=COUNTS), {}, np.log(COUNTS / COUNTS.sum())),
    "adjusted": (LogitAdjustment(class_counts=COUNTS, tau=0.7), ADJUSTED, 0.7 * np.log(COUNTS / COUNTS.sum())),
    "plain": (CrossEntropy(), {"alpha": 1.0}, np.zeros(CLASSES)),
}
QUEUES = [*(("pynative", name, filled) for name in SETTINGS for filled in (0, 5, 9)), ("graph", "adjusted", 5)]


@pytest.mark.parametrize(("mode", "name", "filled"), QUEUES, indirect=["mode"])
def test_value_and_gradient_of_momentum_contrast(mode, name, filled):
    loss, paco, shift = SETTINGS[name]
    objective = momentum(loss, paco=paco, batch=B)
    rng = np.random.default_rng(9)
    for p in (*objective.slow, *objective.fast):
        if p.ndim == 1:
            assign(p, rng.normal(size=p.shape) / 3)
        if p.name.startswith("keys."):
            assign(p, p.asnumpy() * 0.8)  # another network
    queue, queue_labels = oracle.unit(rng.normal(size=(9, SIZE))), rng.integers(0, CLASSES, 9)
    queue[filled:], queue_labels[filled:] = 0, -1
    assign(objective.queue, queue)
    assign(objective.queue_labels, queue_labels)
    settings = {"T": 0.3, "alpha": 0.01, "beta": 1.0, "gamma": 1.0, "supt": 1.0} | paco
    w, keys = values(objective), keys_of(values(objective), VIEWS[1])

    def wanted(w):
        f = features(w, VIEWS[0].astype(np.float64))
        q = project(w, f, "mlp", "embedding.projection")
        losses = oracle.paco(q, keys, queue[:filled], Y, queue_labels[:filled], logits_of(w, f), shift, **settings)
        return losses.sum()

    weights = objective.trainable_params()
    place = np.array([6, 2, 0, 1, 3, 5, 4])
    function = ms.value_and_grad(objective, None, ms.ParameterTuple(weights), has_aux=True)
    (numerator, denominator, observed), gradients = function(*tensors((VIEWS[0], Y, VIEWS[1], place)))
    assert float(denominator.asnumpy()) == B
    assert_close(numerator.asnumpy(), wanted(w), factor=B)
    assert observed.shape == objective.observed_shape == (B, SIZE + 1)
    assert_close(observed.asnumpy()[place], np.concatenate([keys, Y[:, None] + 1], axis=1))
    for p, gradient in zip(weights, gradients, strict=True):
        direction, h = rng.normal(size=p.shape), 1e-6
        slope = (wanted(w | {p.name: w[p.name] + h * direction}) - wanted(w | {p.name: w[p.name] - h * direction})) / (
            2 * h
        )
        found = (gradient.asnumpy().astype(np.float64) * direction).sum()
        assert abs(found - slope) < 2e-4 * max(1.0, np.abs(gradient.asnumpy() * direction).sum()), p.name


@PYNATIVE
def test_keys_carry_no_gradient(mode):
    objective = momentum()
    slopes = ms.grad(numerator_of(objective), (0, 2))(*tensors(step_columns(4, 0)))
    assert np.abs(slopes[0].asnumpy()).max() > 1e-3
    np.testing.assert_array_equal(slopes[1].asnumpy(), 0)
    assert not any(p.name.startswith(("keys.", "queue")) for p in objective.trainable_params())

    def observed(*args):
        return objective(*args)[2].sum()

    weights = ms.ParameterTuple(objective.trainable_params())
    for slope in ms.grad(observed, None, weights)(*tensors(step_columns(4, 0))):
        np.testing.assert_array_equal(slope.asnumpy(), 0)


def test_the_loss_itself_passes_no_gradient_to_keys():
    """As with several workers, where the gathered keys are constants."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    rng = np.random.default_rng(0)
    q, k, queue = (f32(rng.normal(size=(n, SIZE))) for n in (4, 4, 6))
    columns = q, k, i32([0, 1, 0, 2]), queue, i32([0, 1, 2, -1, -1, -1]), f32(rng.normal(size=(4, CLASSES)))
    slopes = ms.grad(PaCo(temperature=0.3, alpha=0.3), (0, 1))(*columns)
    assert np.abs(slopes[0].asnumpy()).max() > 1e-3
    np.testing.assert_array_equal(slopes[1].asnumpy(), 0)


def test_a_copy_begins_as_the_network_whatever_the_twin_was():
    model, twin = Tiny(1), Tiny(99)
    objective = momentum(model=model, twin=twin)
    w = values(objective)
    names = [p.name for p in objective.slow]
    assert len(names) == len(objective.fast) == 6
    for slow, fast in zip(objective.slow, objective.fast, strict=True):
        np.testing.assert_array_equal(slow.asnumpy(), fast.asnumpy())
        assert slow.name.startswith("keys.")
        assert slow.name.endswith(fast.name.removeprefix("embedding."))
    assert (w["queue_labels"] == -1).all()
    assert (w["queue"] == 0).all()
    assert [p.name for p in model.get_parameters()] == [
        "backbone.0.weight",
        "backbone.0.bias",
        "head.weight",
        "head.bias",
    ]
    assert len({p.name for p in objective.get_parameters()}) == len(list(objective.get_parameters()))
    assert not any(name.startswith("keys.") and "head" in name for name in w)
    assert objective.learnt() == {"queue_filled": 0.0}


def replay(objective, step, counts, m, seeds=None):
    """Run steps; after each, compare key weights, queue and labels with a replay in NumPy. The number of exact equals."""
    room = objective.queue.shape[0]
    queue, labels = np.zeros((room, SIZE)), -np.ones(room)
    slow = [p.asnumpy().copy() for p in objective.slow]
    for number, count in enumerate(counts):
        columns = step_columns(count, number if seeds is None else seeds[number])
        columns = (*columns[:3], np.random.default_rng(number).permutation(count).astype(np.int32))
        keys, new = np.zeros((count, SIZE)), np.zeros(count)
        keys[columns[3]], new[columns[3]] = keys_of(values(objective), columns[2]), columns[1]
        before = [p.asnumpy().copy() for p in objective.fast]
        loss, finite = step(*tensors(columns))
        assert bool(finite.asnumpy())
        assert np.isfinite(float(loss.asnumpy()))
        fast = [p.asnumpy() for p in objective.fast]
        assert all(np.abs(a - b).max() > 0 for a, b in zip(before, fast, strict=True))
        slow = [np.float32(m) * a + np.float32(1 - m) * b for a, b in zip(slow, fast, strict=True)]
        queue, labels = np.concatenate([keys, queue])[:room], np.concatenate([new, labels])[:room]
        for p, value in zip(objective.slow, slow, strict=True):
            # The sum may be rounded once (a fused operation) or twice.
            np.testing.assert_allclose(p.asnumpy(), value, rtol=3e-7, atol=1e-9, err_msg=p.name)
        slow = [p.asnumpy().copy() for p in objective.slow]
        assert_close(objective.queue.asnumpy(), queue)
        np.testing.assert_array_equal(objective.queue_labels.asnumpy(), labels)
        filled = min(1.0, sum(counts[: number + 1]) / room)
        assert objective.learnt() == {"queue_filled": round(filled, 6)}


@pytest.mark.parametrize(("mode", "room"), [("graph", 9), ("pynative", 9), ("pynative", 4)], indirect=["mode"])
def test_keys_follow_and_the_queue_holds_the_last_steps(mode, room):
    objective = momentum(momentum=0.7, room=room)
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.3] * 9)).set_train()
    replay(objective, step, (4, 4, 3, 4, 1) if mode == "pynative" else (4, 3, 4), 0.7)


BAD = [("graph", "mlp_norm", 0), ("pynative", "mlp_norm", 0), ("pynative", "linear", 2), ("pynative", "linear", 0)]


@pytest.mark.parametrize(("mode", "projection", "place"), BAD, indirect=["mode"])
def test_a_step_that_is_not_finite_moves_nothing(mode, projection, place):
    """In a query, or in a key alone (whose rectified projection would hide it, as MindSpore's ReLU does on a CPU)."""
    objective = momentum(momentum=0.7, projection=projection)
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.3] * 9)).set_train()
    step(*tensors(step_columns(4, 0)))
    before = {p.name: p.asnumpy().copy() for p in objective.get_parameters()}
    assert (before["queue_labels"][:4] >= 0).all()
    for number in range(2):
        columns = list(step_columns(4, number))
        columns[place][1, 0] = np.nan
        _, finite = step(*tensors(columns))
        assert not bool(finite.asnumpy())
        for p in objective.get_parameters():
            np.testing.assert_array_equal(p.asnumpy(), before[p.name], err_msg=p.name)
    _, finite = step(*tensors(step_columns(4, 1)))
    assert bool(finite.asnumpy())
    assert int(step.skipped.asnumpy()) == 2
    labels = objective.queue_labels.asnumpy()
    np.testing.assert_array_equal(labels[:4], step_columns(4, 1)[1])
    np.testing.assert_array_equal(labels[4:8], before["queue_labels"][:4])
    np.testing.assert_array_equal(objective.queue.asnumpy()[4:8], before["queue"][:4])
    for p in objective.get_parameters():
        # What is added in front of batch normalisation has no effect, so neither have its bias's last digits.
        assert np.abs(p.asnumpy() - before[p.name]).max() > 0 or "projection.0.bias" in p.name, p.name


def halves_of(columns):
    """Two micro-batches with the places of their images in the step, the last of them with apply 1."""
    count = len(columns[1])
    for part in range(2):
        yield *tensors([c[part::2] for c in columns]), i32([int(part == 1)])
    assert count % 2 == 0


def accumulated(rate, **settings):
    objective = momentum(momentum=0.7, **settings)
    step = TrainStep(objective, sgd(objective.trainable_params(), [rate] * 9, weight_decay=0.0), accumulate=2)
    return objective, step.set_train()


def test_micro_batches_fill_the_queue_as_a_batch_does(mode):
    """With a learning rate of 0 the keys are the same however a step is cut."""
    objective, step = accumulated(0.0)
    w, queue, labels = values(objective), np.zeros((9, SIZE)), -np.ones(9)
    for number, count in enumerate((4, 4, 2) if mode == "pynative" else (4, 4)):
        columns = step_columns(count, number)
        queue = np.concatenate([keys_of(w, columns[2]), queue])[:9]
        labels = np.concatenate([columns[1], labels])[:9]
        for part in halves_of(columns):
            step(*part)
        np.testing.assert_array_equal(objective.queue_labels.asnumpy(), labels)
        assert_close(objective.queue.asnumpy(), queue)


@pytest.mark.parametrize(("mode", "bad"), [("graph", 2), ("pynative", 2), ("pynative", 0)], indirect=["mode"])
def test_after_a_step_in_micro_batches_that_is_not_finite_the_next_one_counts(mode, bad):
    """What was observed must be cleared with the rest: 0 times what is not a number is not 0."""
    objective, step = accumulated(0.1, projection="linear")
    columns = step_columns(4, 0)
    columns[bad][1, 0] = np.nan
    finite = [bool(step(*part)[1].asnumpy()) for part in halves_of(columns)]
    assert not finite[1]
    assert (objective.queue_labels.asnumpy() == -1).all()
    finite = [bool(step(*part)[1].asnumpy()) for part in halves_of(step_columns(4, 1))]
    assert finite == [True, True]
    np.testing.assert_array_equal(objective.queue_labels.asnumpy()[:4], step_columns(4, 1)[1])
    assert int(step.skipped_in_row.asnumpy()) == 0


def test_the_keys_have_running_statistics_of_their_own(mode):
    objective = momentum(momentum=0.7, projection="mlp_norm")
    w = values(objective)
    columns = step_columns(4, 3)
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.1] * 9)).set_train()
    step(*tensors(columns))
    after = values(objective)
    for prefix, network, x in (("", "", columns[0]), ("keys.", "keys.network.", columns[2])):
        f = features(w, x.astype(np.float64), network)
        name = f"{prefix}embedding.projection"
        hidden = f @ w[f"{name}.0.weight"].T + w[f"{name}.0.bias"]
        assert_close(after[f"{name}.1.moving_mean"], 0.1 * hidden.mean(axis=0))
        assert_close(after[f"{name}.1.moving_variance"], 0.9 + 0.1 * hidden.var(axis=0, ddof=1))
    own, other = (after[f"{prefix}embedding.projection.1.moving_mean"] for prefix in ("", "keys."))
    assert np.abs(own - other).max() > 1e-3
    statistics = {p.name for p in step.statistics}
    assert statistics == {name for name in after if "moving_" in name}
    assert len(statistics) == 4


def test_the_keys_of_a_resnet():
    """Batch statistics in training, running ones of its own; weights and statistics begin as the network's."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    model = MODELS.get("resnet8_cifar")(num_classes=CLASSES, seed=1)
    rng = np.random.default_rng(0)
    for p in model.get_parameters():
        if "moving" in p.name:
            assign(p, rng.uniform(0.5, 1.5, p.shape))
    objective = momentum(model=model, twin=MODELS.get("resnet8_cifar")(num_classes=CLASSES, seed=2), momentum=0.7)
    start = values(objective)
    own = {f"keys.network.{p.name}" for p in model.get_parameters() if not p.name.startswith("head.")}
    assert own == {name for name in start if name.startswith("keys.network.")}
    for name in own:
        np.testing.assert_array_equal(start[name], start[name.removeprefix("keys.network.")])
    images = rng.integers(0, 256, (2, 4, 3, 16, 16)).astype(np.uint8)
    columns = Tensor(images[0]), i32([0, 1, 2, 0]), Tensor(images[1]), i32(range(4))
    step = TrainStep(objective, sgd(objective.trainable_params(), [0.1])).set_train()
    step(*columns)
    after = values(objective)
    for name in own:
        mine = name.removeprefix("keys.network.")
        if "moving" in name:
            assert np.abs(after[name] - after[mine]).max() > 1e-6, name
            assert np.abs(after[name] - start[name]).max() > 1e-6, name
        else:
            assert_close(after[name], 0.7 * start[name] + 0.3 * after[mine], factor=0.1)


def test_what_momentum_contrast_refuses():
    for bad, fault in (
        ({"contrast": SupCon()}, "contrast: paco"),
        ({"contrast": None}, "contrast: paco"),
        ({"loss": LDAM(class_counts=COUNTS)}, "balanced_softmax, logit_adjustment or ce"),
        ({"loss": CrossEntropy(class_weights=CLASS_WEIGHTS)}, "no class_weights"),
        ({"views": 3}, "3 views"),
        ({"views": 1}, "1 view:"),
        ({"queue_size": 3}, "queue_size = 3"),
        ({"momentum": 1.0}, "momentum"),
    ):
        settings = {"loss": CrossEntropy(), "contrast": PaCo(), "views": 2, "batch": 4, "queue_size": 4} | bad
        with pytest.raises(ValueError, match=fault):
            MomentumContrast(Tiny(1), settings.pop("loss"), twin=Tiny(2), **settings)


def test_a_second_order_is_what_the_classifier_learns_on(mode):
    """Numerator: lambda times the loss on the second images with their labels, plus the contrast of the views, which the second
    images have no part in."""
    settings = {"contrasted": "all", "projection": "mlp", "hidden_size": HIDDEN, "embedding_size": SIZE, "seed": 4}
    model = Tiny(3)
    made = {"contrast": SupCon(temperature=0.2), "views": 2}
    alone = Contrastive(model, CrossEntropy(), **made, loss_weight=0.0, **settings).set_train()
    both = Contrastive(model, CrossEntropy(), **made, second=True, loss_weight=2.0, **settings).set_train()
    assert both.columns == ("image", "label", "progress", "view2", "second", "second_label")
    other, labels = np.random.default_rng(9).normal(size=VIEWS[0].shape), (Y + 1) % CLASSES
    views = f32(VIEWS[0]), i32(Y), f32([0.0]), f32(VIEWS[1])
    contrast, count, _ = alone(*views)
    numerator, denominator, _ = both(*views, f32(other), i32(labels))
    plain = cross_entropy(model(f32(other)).asnumpy().astype(np.float64), labels).sum()
    assert float(denominator) == float(count) == len(Y)
    assert float(numerator) == pytest.approx(float(contrast) + 2.0 * plain, rel=1e-5)
