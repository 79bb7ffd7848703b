"""What must hold between losses and under symmetries, whatever the implementation; class counts of any imbalance."""

import mindspore as ms
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from loss_oracles import DENOMINATOR, ORACLES, More, elements, mean, project, slopes
from mindspore import Tensor

import ms_longtail.losses  # noqa: F401  (fills the registry)
from ms_longtail.registry import LOSSES

B, C, D = 12, 5, 4
COUNTS = [400, 90, 31, 8, 3]
RNG = np.random.default_rng(21)
LOGITS = RNG.normal(0, 1.5, (B, C)).astype(np.float32)
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4])  # crl: minority are 3, 4, 2; no two distances alike
FEATURES = RNG.normal(0, 1, (B, D)).astype(np.float32)
TEACHER = RNG.normal(0, 2, (B, C)).astype(np.float32)
DRAWS = np.arange(B)


@pytest.fixture(autouse=True)
def pynative():
    ms.set_context(mode=ms.PYNATIVE_MODE)


def of(name, counts=COUNTS, logits=LOGITS, labels=LABELS, features=FEATURES, teacher=TEACHER, draws=DRAWS, **settings):
    """Loss times weight of every image, over the mean weight if that is what "mean" divides by."""
    loss = LOSSES.get(name)(class_counts=counts, **settings)
    more = [Tensor(draws, ms.int32)] if loss.random else []
    inputs = Tensor(logits), Tensor(labels, ms.int32), Tensor(features), Tensor(teacher), *more
    of_image, weight = (part.asnumpy().astype(np.float64) for part in loss.elements(*inputs))
    assert np.isfinite(of_image).all()
    return of_image * weight / (weight.mean() if loss.denominator == "weights" else 1)


def same(a, b, bound=2e-5):
    np.testing.assert_allclose(a, b, rtol=bound, atol=bound * np.abs(b).max())


EQUAL = [30] * C
IDENTITIES = {  # each pair of losses is one and the same
    "cs_ce of equal counts": (("cs_ce", {"counts": EQUAL}), ("ce", {})),
    "cb_ce of equal counts": (("cb_ce", {"counts": EQUAL}), ("ce", {})),
    "balanced softmax of equal counts": (("balanced_softmax", {"counts": EQUAL}), ("ce", {})),
    "logit adjustment of equal counts": (("logit_adjustment", {"counts": EQUAL, "tau": 1.7}), ("ce", {})),
    "cdt of equal counts": (("cdt", {"counts": EQUAL}), ("ce", {})),
    "vs of equal counts": (("vs", {"counts": EQUAL}), ("ce", {})),
    "prior of lade of equal counts": (("lade", {"counts": EQUAL, "alpha": 0.0}), ("ce", {})),
    "base of dive of equal counts": (("dive", {"counts": EQUAL, "alpha": 0.0}), ("ce", {})),
    "cb_focal of equal counts": (("cb_focal", {"counts": EQUAL, "gamma": 2.0}), ("focal", {})),
    "label-aware smoothing of equal counts": (
        ("label_aware_smoothing", {"counts": EQUAL, "tail": 0.2}),
        ("label_smoothing", {"smoothing": 0.2}),
    ),
    "cs_ce with gamma 0": (("cs_ce", {"gamma": 0.0}), ("ce", {})),
    "cb_ce with beta 0": (("cb_ce", {"beta": 0.0}), ("ce", {})),
    "cb_focal with beta 0": (("cb_focal", {"beta": 0.0, "gamma": 2.0}), ("focal", {})),
    "softmax focal with gamma 0": (("focal", {"form": "softmax", "gamma": 0.0}), ("ce", {})),
    "softmax cb_focal with gamma 0": (
        ("cb_focal", {"form": "softmax", "gamma": 0.0, "beta": 0.99, "denominator": "weights"}),
        ("cb_ce", {"beta": 0.99}),
    ),
    "ldam with a margin towards 0": (("ldam", {"max_margin": 1e-8, "scale": 3.0}), ("ce", {"logits": 3 * LOGITS})),
    "logit adjustment with tau 1": (("logit_adjustment", {}), ("balanced_softmax", {})),
    "logit adjustment with tau 0": (("logit_adjustment", {"tau": 0.0}), ("ce", {})),
    "vs with tau 0": (("vs", {"tau": 0.0, "gamma": 0.4}), ("cdt", {"gamma": 0.4})),
    "vs with gamma 0": (("vs", {"gamma": 0.0}), ("logit_adjustment", {})),
    "cdt with gamma 0": (("cdt", {"gamma": 0.0}), ("ce", {})),
    "no smoothing": (("label_smoothing", {"smoothing": 0.0}), ("ce", {})),
    "no smoothing of others": (("label_smoothing", {"smoothing": 0.0, "spread": "others"}), ("ce", {})),
    "smoothing over the others is less over all": (
        ("label_smoothing", {"smoothing": 0.16, "spread": "others"}),
        ("label_smoothing", {"smoothing": 0.2}),
    ),
    "no label-aware smoothing": (("label_aware_smoothing", {"head": 0.0, "tail": 0.0}), ("ce", {})),
    "label-aware smoothing with head = tail": (
        ("label_aware_smoothing", {"head": 0.3, "tail": 0.3}),
        ("label_smoothing", {"smoothing": 0.3}),
    ),
    "lade without its term": (("lade", {"alpha": 0.0}), ("balanced_softmax", {})),
    "eql without rare classes": (("eql", {"lambda_": 0.0}), ("focal", {"gamma": 0.0})),
    "seql without rare classes": (("seql", {"lambda_": 0.0}), ("ce", {})),
    "seql that leaves nothing out": (("seql", {"lambda_": 1.0, "gamma": 0.0}), ("ce", {})),
    "eqlv2 at its start": (("eqlv2", {}), ("focal", {"gamma": 0.0})),
    "softmax-eql at its start": (("softmax_eql", {}), ("ce", {})),
    "dive without a teacher": (("dive", {"alpha": 0.0}), ("balanced_softmax", {})),
    "crl without rectification": (("crl", {"eta": 0.0}), ("ce", {})),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identity(name):
    (left, with_left), (right, with_right) = IDENTITIES[name]
    same(of(left, **with_left), of(right, **with_right))


def test_seql_that_leaves_out_every_other_class_is_zero():
    same(1 + of("seql", lambda_=1.5, gamma=1.0), np.ones(B))


def test_a_teacher_that_says_the_same():
    """DiVE: at p = 1 the divergence of equal logits is 0. Distillation: cross-entropy is least where both agree."""
    same(of("dive", teacher=LOGITS, power=1.0, alpha=0.6), 0.4 * of("balanced_softmax"))

    def soft_part(logits):
        return of("kd", logits=logits, teacher=LOGITS, temperature=2.0) - of("ce", logits=logits)

    assert (soft_part(LOGITS) < soft_part(LOGITS + TEACHER)).all()


# ---- symmetries

VARIANTS = {
    **{name: (name, {}) for name in sorted(ORACLES)},
    "focal softmax": ("focal", {"form": "softmax"}),
    "crl absolute": ("crl", {"form": "absolute"}),
    "crl distribution": ("crl", {"form": "distribution"}),
    "crl instance": ("crl", {"level": "instance"}),
    "crl instance distribution": ("crl", {"level": "instance", "form": "distribution"}),
    "eql rare": ("eql", {"lambda_": 0.1}),
    "seql rare": ("seql", {"lambda_": 0.1}),
    "seql all": ("seql", {"lambda_": 0.1, "gamma": 1.0}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_the_images_does_not_matter(variant):
    name, settings = VARIANTS[variant]
    order = np.random.default_rng(2).permutation(B)
    inputs = {"logits": LOGITS, "labels": LABELS, "features": FEATURES, "teacher": TEACHER, "draws": DRAWS}
    permuted = of(name, **{key: value[order] for key, value in inputs.items()}, **settings)
    same(permuted, of(name, **settings)[order])


@pytest.mark.parametrize("variant", sorted(set(VARIANTS) - {"seql rare"}))
def test_names_of_the_classes_do_not_matter(variant):
    name, settings = VARIANTS[variant]
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 4])  # 6, 3, 2, 1 images and none: no ties for crl to break
    order = np.array([3, 0, 4, 1, 2])  # the new class c was order[c]
    permuted = {"logits": LOGITS[:, order], "teacher": TEACHER[:, order], "labels": np.argsort(order)[labels]}
    same(of(name, np.array(COUNTS)[order], **permuted, **settings), of(name, labels=labels, **settings))


SHIFTED = ("cdt", "eql", "eqlv2", "focal", "cb_focal", "lade", "vs")  # a constant added to the logits changes these


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_constant_added_to_the_logits(variant):
    name, settings = VARIANTS[variant]
    constant = np.linspace(-3, 3, B)[:, None].astype(np.float32)
    before, after = of(name, **settings), of(name, logits=LOGITS + constant, **settings)
    if name in SHIFTED and variant != "focal softmax":
        assert np.abs(after - before).max() > 1e-2 * np.abs(before).max()
    else:
        same(after, before, 2e-4 if name in ("kd", "dive", "crl") else 2e-5)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_class_counts_matter_by_their_shares_only_where_the_formula_says_so(name):
    """Ten times the images of every class: all but the losses of effective numbers stay as they are."""
    before, after = of(name), of(name, (10 * np.array(COUNTS)).tolist())
    if name in ("cb_ce", "cb_focal"):
        assert np.abs(after - before).max() > 1e-3 * np.abs(before).max()
    else:
        same(after, before)


# ---- any class counts

ANY_COUNTS = st.lists(st.integers(1, 10**6) | st.sampled_from([1, 2, 10**6]), min_size=C, max_size=C)


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_finite_and_right_for_any_class_counts(name):
    labels = np.arange(B) % C
    z = LOGITS / (16 if name == "ldam" else 1)  # of the size of cosines
    into = np.random.default_rng(3).normal(size=(8, B, C))

    @settings(max_examples=12, deadline=None, derandomize=True, database=None)
    @example([1] * C)
    @example([10**6, 1, 1, 1, 1])
    @example([1, 1, 1, 1, 10**6])
    @given(ANY_COUNTS)
    def holds(counts):
        loss = LOSSES.get(name)(class_counts=counts)
        more = [Tensor(DRAWS, ms.int32)] if loss.random else []
        inputs = Tensor(z), Tensor(labels, ms.int32), Tensor(FEATURES), Tensor(TEACHER), *more
        mask = loss.mask(*more).asnumpy() if loss.random else None
        oracle = More(FEATURES.astype(np.float64), TEACHER.astype(np.float64), mask)
        value, gradient = (result.asnumpy() for result in ms.value_and_grad(loss)(*inputs))
        x = z.astype(np.float64)
        right = mean(name, x, labels, counts, oracle)
        assert abs(value - right) <= 4e-5 * abs(right)
        slope = slopes(lambda x: mean(name, x, labels, counts, oracle), x, into, 1e-6 if name == "crl" else 1e-3)
        assert np.isfinite(gradient).all()
        assert np.abs(project(gradient, into) - slope).max() <= 4e-5 * np.abs(slope).max()

    holds()


def test_two_classes_of_one_image():
    for name in sorted(ORACLES):
        labels = np.array([0, 1, 1])
        value = of(name, [1, 1], LOGITS[:3, :2], labels, FEATURES[:3], TEACHER[:3, :2], DRAWS[:3])
        if name == "seql":  # both classes are frequent: nothing is left out
            same(value, of("ce", [1, 1], LOGITS[:3, :2], labels))
        else:
            more = More(FEATURES[:3].astype(np.float64), TEACHER[:3, :2].astype(np.float64))
            loss, weight = elements(name, LOGITS[:3, :2], labels, [1, 1], more)
            same(value, loss * weight / (weight.mean() if DENOMINATOR[name] == "weights" else 1), 4e-5)
