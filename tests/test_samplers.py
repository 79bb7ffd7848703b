"""Contract of every sampler in the registry, and what each one is for."""

from functools import partial

import mindspore.dataset as ds
import numpy as np
import pytest
from scipy.stats import chisquare

from ms_longtail.registry import SAMPLERS
from ms_longtail.samplers import (
    OrderSampler,
    SlotSampler,
    class_balanced,
    draw_by_class,
    instance,
    over_sampling,
    padded_length,
    progressive,
    repeat_factor,
    under_sampling,
)

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [600, 90, 9, 1])).astype(np.int32)


COUNTS = np.array([600, 90, 9, 1])
EXTRA = {"progressive": {"epochs": 10}}  # what the run knows and hands in


def by_power(q):
    return COUNTS**q / (COUNTS**q).sum()


SHARES = {  # name -> (settings, P(class) from the formula)
    "class_balanced": ({}, by_power(0.0)),
    "square_root": ({}, by_power(0.5)),
    "power": ({"q": 0.3}, by_power(0.3)),
    "reversed": ({}, by_power(-1.0)),
    "progressive": ({"epochs": 4}, None),  # changes from epoch to epoch, see below
}


@pytest.mark.parametrize("name", SAMPLERS.names())
class TestEverySampler:
    def test_pure_function_of_seed_and_epoch(self, name):
        order = partial(SAMPLERS.get(name), LABELS, **EXTRA.get(name, {}))
        np.random.seed(1)
        first = order(seed=3, epoch=5)
        np.random.seed(2)
        np.testing.assert_array_equal(first, order(seed=3, epoch=5))
        assert not np.array_equal(first, order(seed=3, epoch=6))
        assert not np.array_equal(first, order(seed=4, epoch=5))

    def test_indices_in_range_and_length_constant(self, name):
        order = partial(SAMPLERS.get(name), LABELS, seed=0, **EXTRA.get(name, {}))
        lengths = {len(order(epoch=e)) for e in range(4)}
        assert len(lengths) == 1
        indices = order(epoch=0)
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < len(LABELS)
        assert len(order(epoch=0, num_samples=1234)) == 1234


def fits(drawn, expected):
    """Chi-square test of class counts; the level is so small that a right sampler never fails by chance."""
    seen = np.bincount(drawn, minlength=len(expected))
    return chisquare(seen, np.asarray(expected) * seen.sum()).pvalue > 1e-6


@pytest.mark.parametrize("name", sorted(SHARES))
def test_frequencies_of_drawn_orders(name):
    settings, shares = SHARES[name]
    for epoch in range(4):
        order = SAMPLERS.get(name)(LABELS, seed=1, epoch=epoch, num_samples=100_000, **settings)
        wanted = shares
        if shares is None:
            wanted = (1 - epoch / 4) * by_power(1.0) + epoch / 4 * by_power(0.0)
        assert fits(LABELS[order], wanted)
        assert not fits(LABELS[order], 0.9 * wanted + 0.1 * np.eye(4)[1])  # it can fail
        for c in range(3):  # within a class, images are uniform
            images = np.flatnonzero(c == LABELS)
            assert fits(np.searchsorted(images, order[LABELS[order] == c]), np.full(len(images), 1 / len(images)))


def test_progress_over_the_stage_and_over_the_run():
    def share(**where):
        order = progressive(LABELS, seed=0, num_samples=50_000, **where)
        return (LABELS[order] == 3).mean()

    assert share(epoch=10, first_epoch=10, epochs=10) == pytest.approx(1 / 700, abs=0.002)
    assert share(epoch=19, first_epoch=10, epochs=10) == pytest.approx(0.1 / 700 + 0.9 / 4, abs=0.01)
    run = {"first_epoch": 10, "epochs": 10, "total_epochs": 20, "span": "run"}
    assert share(epoch=10, **run) == pytest.approx(0.5 / 700 + 0.5 / 4, abs=0.01)


def test_over_sampling_holds_every_image_and_equal_classes():
    order = over_sampling(LABELS, seed=0, epoch=0)
    assert np.bincount(LABELS[order]).tolist() == [600] * 4
    times = np.bincount(order, minlength=len(LABELS))
    assert times.min() == 1
    for c, n in enumerate(COUNTS):
        assert set(times[c == LABELS]) <= {600 // n, 600 // n + 1}
    more = np.zeros(len(LABELS))
    for epoch in range(60):
        more += np.bincount(over_sampling(LABELS, seed=0, epoch=epoch), minlength=len(LABELS))
    extra = more[LABELS == 1] - 60 * 6
    assert 20 < extra.min() <= extra.max() < 60  # 600 - 6 * 90 of 90 images an epoch: 40 of 60 times


def test_under_sampling_cuts_every_class_to_the_smallest():
    labels = LABELS[LABELS != 3]
    orders = [under_sampling(labels, seed=0, epoch=epoch) for epoch in range(200)]
    for order in orders:
        assert np.bincount(labels[order]).tolist() == [9, 9, 9]
        assert len(set(order.tolist())) == 27
    seen = np.concatenate(orders)
    images = np.flatnonzero(labels == 1)
    assert fits(np.searchsorted(images, seen[labels[seen] == 1]), np.full(90, 1 / 90))


def test_repeat_factor():
    threshold = 0.05
    wanted = np.maximum(1, np.sqrt(threshold / (COUNTS / 700)))[LABELS]
    times = np.zeros(len(LABELS))
    for epoch in range(400):
        order = repeat_factor(LABELS, seed=2, epoch=epoch, threshold=threshold)
        assert len(order) == round(wanted.sum())
        once = np.bincount(order, minlength=len(LABELS))
        assert (once >= np.floor(wanted)).all()
        assert (once <= np.ceil(wanted)).all()
        times += once
    np.testing.assert_allclose(times / 400, wanted, atol=0.12)  # 5 sigma of 400 coins
    for c, n in enumerate(COUNTS):
        assert times[c == LABELS].mean() / 400 == pytest.approx(wanted[c == LABELS][0], abs=0.6 / n)


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_an_epoch_of_one_image_a_class(name):
    labels = np.arange(5)
    order = SAMPLERS.get(name)(labels, seed=0, epoch=0, **EXTRA.get(name, {}))
    assert len(order) == 5


@pytest.mark.parametrize(
    ("name", "settings"), [("power", {"q": 3.0}), ("repeat_factor", {"threshold": 0.0}), ("progressive", {"span": "x"})]
)
def test_settings_out_of_bounds(name, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SAMPLERS.get(name)(LABELS, seed=0, epoch=0, **{**EXTRA.get(name, {}), **settings})


def test_instance_is_a_permutation_and_longer_epochs_go_round():
    assert sorted(instance(LABELS, seed=0, epoch=0)) == list(range(len(LABELS)))
    longer = instance(LABELS, seed=0, epoch=0, num_samples=1500)
    assert np.bincount(longer).min() >= 2
    assert np.bincount(longer).max() <= 3


def test_class_balanced_frequencies():
    order = class_balanced(LABELS, seed=0, epoch=0, num_samples=40000)
    share = np.bincount(LABELS[order]) / 40000
    np.testing.assert_allclose(share, 0.25, atol=0.01)
    of_class_one = order[LABELS[order] == 1]
    counts = np.bincount(of_class_one, minlength=len(LABELS))[LABELS == 1]
    assert counts.min() > 0.6 * counts.mean()  # images of a class are equally likely


def test_class_balanced_leaves_out_empty_classes():
    labels = np.array([0, 0, 2])
    order = class_balanced(labels, seed=0, epoch=0, num_samples=2000)
    np.testing.assert_allclose(np.bincount(labels[order], minlength=3) / 2000, [0.5, 0, 0.5], atol=0.05)


def test_draw_by_class_follows_the_probabilities():
    probability = np.array([0.1, 0.2, 0.3, 0.4])
    order = draw_by_class(LABELS, probability, np.random.default_rng(0), 50000)
    np.testing.assert_allclose(np.bincount(LABELS[order]) / 50000, probability, atol=0.01)


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_ranks_side_by_side_are_the_order_of_one(ranks):
    length = padded_length(700, ranks)
    shards = [list(SlotSampler(length, rank=r, ranks=ranks)) for r in range(ranks)]
    assert {len(s) for s in shards} == {length // ranks}
    together = [draw for step in zip(*shards, strict=True) for draw in step]
    assert together == list(range(length))


def test_slot_sampler_counts_epochs_and_skips():
    sampler = SlotSampler(10, skip=4, rank=1, ranks=2)
    assert list(sampler) == [5, 7, 9]
    assert sampler.num_samples == 3
    whole = SlotSampler(4)
    assert [list(whole), list(whole)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    for wrong in ({"length": 10, "ranks": 3}, {"length": 10, "skip": 10}, {"length": 4, "rank": 2, "ranks": 2}):
        with pytest.raises(ValueError):
            SlotSampler(**wrong)


@pytest.mark.parametrize("ranks", [1, 2])
def test_order_sampler_in_a_mindspore_data_set(ranks):
    order = partial(class_balanced, LABELS, seed=0)
    epochs = [[], []]
    for rank in range(ranks):
        sampler = OrderSampler(lambda e: order(epoch=e), start_epoch=7, rank=rank, ranks=ranks)
        data = ds.GeneratorDataset(list(np.arange(len(LABELS))), ["i"], sampler=sampler)
        iterator = data.create_tuple_iterator(num_epochs=2, output_numpy=True)
        for epoch in range(2):
            epochs[epoch].append([int(row[0]) for row in iterator])
    for epoch, shards in enumerate(epochs):
        together = [i for step in zip(*shards, strict=True) for i in step]
        assert together == order(epoch=7 + epoch).tolist()
