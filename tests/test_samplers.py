"""Contract of every sampler in the registry, and what each one is for."""

from functools import partial

import mindspore.dataset as ds
import numpy as np
import pytest

from ms_longtail.registry import SAMPLERS
from ms_longtail.samplers import OrderSampler, SlotSampler, class_balanced, draw_by_class, instance, padded_length

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [600, 90, 9, 1])).astype(np.int32)


@pytest.mark.parametrize("name", SAMPLERS.names())
class TestEverySampler:
    def test_pure_function_of_seed_and_epoch(self, name):
        order = partial(SAMPLERS.get(name), LABELS)
        np.random.seed(1)
        first = order(seed=3, epoch=5)
        np.random.seed(2)
        np.testing.assert_array_equal(first, order(seed=3, epoch=5))
        assert not np.array_equal(first, order(seed=3, epoch=6))
        assert not np.array_equal(first, order(seed=4, epoch=5))

    def test_indices_in_range_and_length_constant(self, name):
        order = partial(SAMPLERS.get(name), LABELS, seed=0)
        lengths = {len(order(epoch=e)) for e in range(4)}
        assert len(lengths) == 1
        indices = order(epoch=0)
        assert indices.dtype == np.int64
        assert indices.min() >= 0
        assert indices.max() < len(LABELS)
        assert len(order(epoch=0, num_samples=1234)) == 1234


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
