"""The contrastive oracles by themselves: values worked out by hand, and identities between them."""

import numpy as np
import pytest
from contrastive_oracles import (
    alignment,
    anchor_mean,
    balanced_supcon,
    log_sum_exp,
    numeric_gradient,
    paco,
    psc,
    ride,
    simplex_deviation,
    supcon,
    uniformity,
    unit,
)
from numpy.testing import assert_allclose

E1, E2 = [1.0, 0.0], [0.0, 1.0]
E = np.e
NOWHERE = np.full(4, -1e30)  # a log prior under which no class has any share


def features(rows, width=3, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


# ---- parts


def test_unit_rows_and_the_zero_row():
    assert_allclose(unit([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]]), [[0.6, 0.8], [0.0, 0.0], [0.1, 0.0]])


def test_log_sum_exp_by_hand_and_far_out():
    assert_allclose(log_sum_exp([0.0, np.log(2)], [3.0, 2.0]), np.log(7))
    assert_allclose(log_sum_exp([1e4, 1e4]), 1e4 + np.log(2))


def test_the_inputs_are_left_alone():
    z, kept = features(4), features(4)
    supcon(z, [0, 0, 1, 1], 1.0)
    numeric_gradient(np.sum, z)
    assert np.array_equal(z, kept)


# ---- supcon


def test_supcon_of_two_tight_pairs():
    # every anchor meets its twin at s = 1 and two strangers at s = 0
    assert_allclose(supcon([E1, E1, E2, E2], [0, 0, 1, 1], 1.0), np.full(4, np.log(E + 2) - 1))


def test_supcon_of_two_tight_pairs_at_half_temperature():
    assert_allclose(supcon([E1, E1, E2, E2], [0, 0, 1, 1], 0.5), np.full(4, np.log(E**2 + 2) - 2))


def test_supcon_averages_over_positives_outside_the_logarithm():
    # rows 0 and 1 see s = 1 and s = -1; row 2 sees s = -1 twice
    third = [-1.0, 0.0]
    assert_allclose(supcon([E1, E1, third], [0, 0, 0], 1.0), [np.log(E + 1 / E), np.log(E + 1 / E), np.log(2)])


def test_supcon_of_equal_features_counts_the_others():
    assert_allclose(supcon([E1] * 6, [0, 0, 0, 1, 1, 1], 0.1), np.full(6, np.log(5)))


def test_supcon_without_positives_is_zero():
    assert_allclose(supcon(features(3), [0, 1, 2], 0.1), np.zeros(3))
    assert supcon(features(3), [0, 0, 2], 0.1)[2] == 0


def test_supcon_does_not_see_lengths_rotations_or_order():
    z, y = features(5), np.array([0, 1, 0, 1, 1])
    losses = supcon(z, y, 0.3)
    rotation = np.linalg.qr(features(3, seed=1))[0]
    order = [3, 0, 4, 1, 2]
    assert_allclose(supcon(z * [[1], [2], [3], [0.1], [50]], y, 0.3), losses)
    assert_allclose(supcon(z @ rotation, y, 0.3), losses)
    assert_allclose(supcon(z[order], y[order], 0.3), losses[order])


# ---- balanced_supcon


def test_balanced_without_both_parts_is_supcon():
    z, y = features(7), [0, 0, 0, 1, 1, 2, 2]
    assert_allclose(balanced_supcon(z, y, 0.2, averaging=False, complement=False), supcon(z, y, 0.2))


def test_the_complement_without_averaging_is_supcon_with_more_rows():
    z, y, prototypes = features(4), [0, 0, 1, 2], features(3, seed=1)
    longer = supcon(np.concatenate([z, prototypes]), [*y, 0, 1, 2], 0.2)
    assert_allclose(balanced_supcon(z, y, 0.2, prototypes, averaging=False), longer[:4])


def test_averaging_by_hand():
    # row 0: its twin once at e, three strangers of one class at 1 each
    z, y = [E1, E1, E2, E2, E2], [0, 0, 1, 1, 1]
    averaged = balanced_supcon(z, y, 1.0, complement=False)
    plain = balanced_supcon(z, y, 1.0, complement=False, averaging=False)
    assert_allclose(averaged, np.full(5, np.log(E + 1) - 1))
    assert_allclose(plain, [np.log(E + 3) - 1] * 2 + [np.log(2 * E + 2) - 1] * 3)


def test_the_complement_by_hand():
    # one image and two prototypes: the own one is the only positive
    assert_allclose(balanced_supcon([E1], [0], 1.0, [E1, E2]), [np.log(E + 1) - 1])
    # the own prototype at s = 0, a stranger and its prototype at s = 1: (e + e)/2 + 1
    assert_allclose(balanced_supcon([E1, E1], [0, 1], 1.0, [E2, E1])[0], np.log(E + 1))
    assert_allclose(balanced_supcon([E1, E1], [0, 1], 1.0, [E2, E1], averaging=False)[0], np.log(2 * E + 1))


def test_repeating_a_rival_class_changes_nothing():
    z, y, prototypes = features(5), np.array([0, 0, 1, 1, 1]), features(2, seed=1)
    twice = [0, 1, 2, 3, 4, 2, 3, 4]
    short, long = (
        balanced_supcon(z, y, 0.2, complement=False),
        balanced_supcon(z[twice], y[twice], 0.2, complement=False),
    )
    assert_allclose(long[:2], short[:2])
    # with its prototype the mixture shifts, so now it does
    assert (
        abs(balanced_supcon(z, y, 0.2, prototypes) - balanced_supcon(z[twice], y[twice], 0.2, prototypes)[:5])[0] > 1e-6
    )


def test_the_mean_inside_the_exponential_is_no_larger():
    z, y, prototypes = features(6), [0, 0, 0, 1, 1, 2], features(3, seed=1)
    outside, inside = (balanced_supcon(z, y, 0.2, prototypes, form=form) for form in ("L1", "L2"))
    assert np.all(inside < outside)
    tight = unit(features(3, seed=2))[y]  # every class in one point, its prototype too: no difference is left
    centres = unit(features(3, seed=2))
    outside, inside, only = (balanced_supcon(tight, y, 0.2, centres, form=form) for form in ("L1", "L2", "L3"))
    assert_allclose(inside, outside)
    assert_allclose(only, outside)


def test_the_form_l2_by_hand():
    # row 0: twin at s = 1; the class of E1 and E2 has mean s = 1/2
    losses = balanced_supcon([E1, E1, E1, E2], [0, 0, 1, 1], 1.0, complement=False, form="L2")
    assert_allclose(losses[0], np.log(E + np.exp(0.5)) - 1)
    assert_allclose(losses[3], np.log(2))  # one positive and one class of strangers, all at s = 0


def test_the_form_l3_by_hand():
    prototypes = [E1, E2, [-1.0, 0.0]]
    denominator = np.log(E + 1 + 1 / E)
    assert_allclose(balanced_supcon([E1, E2], [0, 0], 1.0, prototypes, form="L3")[0], denominator - 0.5)
    assert_allclose(balanced_supcon([E1, E2], [0, 0], 1.0, prototypes, complement=False, form="L3")[0], denominator)


def test_balanced_without_positives_is_zero():
    assert_allclose(balanced_supcon(features(3), [0, 1, 2], 0.2, complement=False), np.zeros(3))
    assert np.all(balanced_supcon(features(3), [0, 1, 2], 0.2, features(3, seed=1)) > 0)


def test_balanced_does_not_see_the_lengths_of_prototypes():
    z, y, prototypes = features(4), [0, 0, 1, 2], features(3, seed=1)
    for form in ("L1", "L2", "L3"):
        expected = balanced_supcon(z, y, 0.2, prototypes, form=form)
        assert_allclose(balanced_supcon(2 * z, y, 0.2, prototypes * [[5], [0.2], [9]], form=form), expected)


@pytest.mark.parametrize("arguments", [{}, {"complement": False, "form": "L3"}, {"complement": False, "form": "L4"}])
def test_balanced_refuses_what_has_no_meaning(arguments):
    with pytest.raises(ValueError, match=r"prototypes|form"):
        balanced_supcon(features(2), [0, 0], 0.2, **arguments)


# ---- anchor_mean


def test_anchor_means():
    losses, y = np.array([1.0, 3.0, 10.0, 20.0, 30.0, 7.0]), np.array([4, 4, 0, 0, 0, 9])
    assert_allclose(anchor_mean(losses, y, "anchor"), 71 / 6)
    assert_allclose(anchor_mean(losses, y, "class"), (2 + 20 + 7) / 3)
    with pytest.raises(ValueError, match="unknown"):
        anchor_mean(losses, y, "row")


# ---- paco


def test_paco_by_hand():
    # anchor E1 of class 0: key at s = 1 (positive), queue at s = 0 (class 1); two classes with u = (log 2, 0)
    loss = paco([E1], [E1], [E2], [0], [1], [[np.log(2), 0.0]], [0.0, 0.0], 1.0, 0.5, 2.0, 1.0, 1.0)
    log_z = np.log(2 + 1 + E + 1)
    assert_allclose(loss, [-(2 * (np.log(2) - log_z) + 0.5 * (1 - log_z)) / 2.5])


def test_paco_scales_priors_and_pairs():
    # the prior is added before the division by supt; gamma weighs the pairs in the sum alone
    loss = paco([E1], [E1], [E2], [0], [1], [[0.5, 1.0]], [1.5, -1.0], 0.5, 0.5, 2.0, 3.0, 2.0)
    log_z = np.log(E + 1 + 3 * (E**2 + 1))
    assert_allclose(loss, [-(2 * (1 - log_z) + 0.5 * (2 - log_z)) / 2.5])


def paco_problem():
    y, y_queue = np.array([0, 1, 1]), np.array([3, 1, 0, 0])
    return features(3), features(3, seed=1), features(4, seed=2), y, y_queue, features(3, width=4, seed=3)


def test_paco_without_pairs_is_cross_entropy():
    q, k, queue, y, y_queue, logits = paco_problem()
    log_prior = np.log([0.4, 0.3, 0.2, 0.1])
    expected = [log_sum_exp(logits[i] + log_prior) - (logits[i] + log_prior)[y[i]] for i in range(3)]
    assert_allclose(paco(q, k, queue, y, y_queue, logits, log_prior, 0.2, 0.0, 1.0, 0.0, 1.0), expected)


def test_paco_without_centres_is_supcon():
    q, k, queue, y, y_queue, logits = paco_problem()
    expected = supcon(np.concatenate([q, k, queue]), np.concatenate([y, y, y_queue]), 0.2)[:3]
    assert_allclose(paco(q, k, queue, y, y_queue, logits, NOWHERE, 0.2, 1.0, 0.0, 1.0, 1.0), expected)
    assert_allclose(paco(q, k, queue, y, y_queue, logits, NOWHERE, 0.2, 0.05, 0.0, 1.0, 1.0), expected)


def test_paco_takes_an_empty_queue_and_ignores_lengths():
    q, k, _, y, _, logits = paco_problem()
    arguments = (np.zeros((0, 3)), y, [], logits, np.zeros(4), 0.2, 0.05, 1.0, 1.0, 1.0)
    assert_allclose(paco(3 * q, 0.1 * k, *arguments), paco(q, k, *arguments))


def test_paco_sees_only_the_ratio_of_alpha_and_beta():
    problem = paco_problem()
    one, two = (paco(*problem, np.zeros(4), 0.2, 0.05 * scale, scale, 1.0, 1.0) for scale in (1.0, 4.0))
    assert_allclose(one, two)


# ---- psc


def test_psc_by_hand():
    prototypes = [E1, E2, [-1.0, 0.0]]
    losses = psc([[2.0, 0.0], E2], [0, 0], prototypes, 1.0)
    assert_allclose(losses, [np.log(1 + 1 / E) - 1, np.log(E + 1)])
    assert_allclose(psc([E1], [0], [E1, E2], 0.5), [-2])  # negative: the own class is not in the denominator


def test_psc_and_the_full_softmax():
    z, y, prototypes = features(5), [0, 1, 2, 3, 0], features(4, seed=1)
    scores = unit(z) @ unit(prototypes).T / 0.1
    cross_entropy = [log_sum_exp(scores[i]) - scores[i, y[i]] for i in range(5)]
    assert_allclose(np.log1p(np.exp(psc(z, y, prototypes, 0.1))), cross_entropy)


# ---- ride


def test_ride_by_hand():
    # two experts that mirror each other: the mean is uniform
    logits = np.array([[[1.0, -1.0]], [[-1.0, 1.0]]])
    base = [[0.25], [0.5]]
    for T in (1.0, 2.0):
        share = 1 / (1 + np.exp(-2 / T))
        divergence = -np.log(2) - (np.log(share) + np.log(1 - share)) / 2
        assert_allclose(ride(logits, [0], base, 0.2, T), [0.75 - 0.2 * T**2 * 2 * divergence])


def test_ride_takes_the_divergence_from_the_mean():
    # logits (log 9, 0) and (0, 0) have the mean (log 3, 0): p = (3/4, 1/4), q = (9/10, 1/10) and (1/2, 1/2)
    logits = np.array([[[np.log(9), 0.0]], [[0.0, 0.0]]])
    first = 0.75 * np.log(0.75 / 0.9) + 0.25 * np.log(0.25 / 0.1)
    second = 0.75 * np.log(0.75 / 0.5) + 0.25 * np.log(0.25 / 0.5)
    assert_allclose(ride(logits, [0], np.zeros((2, 1)), 1.0, 1.0), [-(first + second)])


def test_ride_of_agreeing_experts_is_the_sum_of_the_base_losses():
    row = features(4, width=5)
    base = features(3, width=4, seed=1)
    # a constant per row does not change a softmax
    logits = np.stack([row, row + 1, row - 7])
    assert_allclose(ride(logits, [0, 1, 2, 3], base, 0.2, 1.5), base.sum(0))


def test_ride_rewards_disagreement():
    logits, base = features(6, width=5).reshape(3, 2, 5), np.ones((3, 2))
    assert np.all(ride(logits, [0, 1], base, 0.2, 1.0) < 3)
    assert_allclose(ride(logits, [0, 1], base, 0.0, 1.0), [3, 3])


# ---- how features lie


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_a_regular_simplex_deviates_nowhere(classes):
    corners = np.eye(classes) - 1 / classes
    assert_allclose(simplex_deviation(corners * np.arange(1, classes + 1)[:, None]), 0, atol=1e-12)


def test_simplex_deviation_by_hand():
    assert_allclose(simplex_deviation(3 * np.eye(3)), 0.5)
    assert_allclose(simplex_deviation([E1, E1]), 2)
    assert_allclose(simplex_deviation([E1, [-1.0, 0.0], E2]), 0.5)


def test_alignment_by_hand():
    # pairs of label 0: E1 with E2 at 2, E1 with -E1 at 4, E2 with -E1 at 2
    z, y = [E1, E2, [-3.0, 0.0], E1], [0, 0, 0, 1]
    assert_allclose(alignment(z, y), 8 / 3)
    assert_allclose(alignment([E1, [5.0, 0.0]], [2, 2]), 0)
    with pytest.raises(ValueError, match="label"):
        alignment(z, [0, 1, 2, 3])


def test_uniformity_by_hand():
    assert_allclose(uniformity([E1, [-1.0, 0.0]]), -8)
    assert_allclose(uniformity([E1, E2, [-1.0, 0.0]]), np.log((2 * np.exp(-4) + np.exp(-8)) / 3))
    assert_allclose(uniformity([E1, E2], t=3), -6)
    assert_allclose(uniformity([E1, E1, E1]), 0)
    with pytest.raises(ValueError, match="two rows"):
        uniformity([E1])


# ---- gradients


def test_numeric_gradient_of_known_functions():
    x = features(3, width=2)
    assert_allclose(numeric_gradient(lambda v: np.sum(v**3), x), 3 * x**2, rtol=1e-8, atol=1e-9)
    assert_allclose(numeric_gradient(lambda v: np.sin(v[0, 0]), x)[0, 0], np.cos(x[0, 0]), rtol=1e-8)


def test_losses_have_no_slope_along_their_features():
    y, prototypes, T = [0, 0, 1, 1], features(2, seed=1), 0.3
    z = features(4)
    for loss in (
        lambda z: supcon(z, y, T).sum(),
        lambda z: balanced_supcon(z, y, T, prototypes).sum(),
        lambda z: psc(z, y, prototypes, T).sum(),
        lambda z: uniformity(z),
    ):
        gradient = numeric_gradient(loss, z)
        assert np.abs(gradient).max() > 1e-3
        assert_allclose(np.sum(gradient * z, axis=1), 0, atol=1e-7)


def test_the_gradient_of_psc_at_one_row():
    # at z = E1 with own prototype E2: the rival E1 pulls along E1, which has no slope on the sphere
    gradient = numeric_gradient(lambda z: psc(z, [0], [E2, E1], 0.5)[0], [E1])
    assert_allclose(gradient, [[0.0, -2.0]], atol=1e-8)
