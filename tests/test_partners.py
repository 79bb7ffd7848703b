"""Which images are mixed, and what comes to the network: the same for any number of workers and micro-batches."""

from functools import partial

import numpy as np
import pytest

from ms_longtail.augment import Crop, Flip
from ms_longtail.data import DrawSource, ImageSet, Partners, training_pipeline
from ms_longtail.mixing import CutMix, ManifoldMixup, Mixup, Remix, Ricap
from ms_longtail.samplers import instance, reversed_order

RNG = np.random.default_rng(0)
LABELS = np.repeat(np.arange(4), [40, 18, 8, 4]).astype(np.int32)
SET = ImageSet(LABELS, ("a", "b", "c", "d"), images=RNG.integers(0, 256, (70, 12, 12, 3)).astype(np.uint8))
KINDS = {
    "mixup": Mixup(),
    "remix": Remix(class_counts=[40, 18, 8, 4]),
    "cutmix": CutMix(),
    "ricap": Ricap(beta=1.0),
}
OPS = [Crop(padding=2), Flip()]


def source(order=instance, ranks=1, seed=0, **settings):
    fixed = partial(order, SET.labels, seed=seed, num_samples=70)
    return DrawSource(SET, lambda e: fixed(epoch=e), 70, multiple=ranks, seed=seed, **settings)


def batches(mixing, *, second=False, ranks=1, accumulate=1, skip=0, workers=1, rank=None, epochs=1, first_draw=0):
    """draw -> what the network is given for it, of all workers."""
    rows = {}
    for number in range(ranks) if rank is None else [rank]:
        own = source(ranks=ranks, first_draw=first_draw)
        other = source(reversed_order, ranks, seed=9, first_draw=first_draw) if second else None
        partners = Partners(mixing, own, 16, other)
        dataset = training_pipeline(
            own, batch=16, batch_ops=OPS, partners=partners, second_ops=[Crop(padding=2, seed=9)], skip=skip,
            rank=number, ranks=ranks, accumulate=accumulate, workers=workers,
        )  # fmt: skip
        for _ in range(epochs):
            for batch in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
                names = [name for name in ("image", "labels", "shares", "blend", "second") if name in batch]
                for i, draw in enumerate(batch["draw"]):
                    rows[int(draw)] = tuple(batch[name][i].tobytes() for name in names)
    return rows


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mixture_does_not_depend_on_workers_micro_batches_threads_or_a_resume(kind, second):
    mixing = KINDS[kind]
    reference = batches(mixing, second=second)
    assert sorted(reference) == list(range(70))
    assert batches(mixing, second=second, accumulate=2) == reference
    assert batches(mixing, second=second, workers=2) == reference
    assert batches(mixing, second=second, ranks=2) == reference
    assert batches(mixing, second=second, ranks=2, accumulate=4) == reference
    rest = batches(mixing, second=second, skip=32)
    assert sorted(rest) == list(range(32, 70))
    assert all(rest[draw] == reference[draw] for draw in rest)


@pytest.mark.parametrize("ranks", [1, 2])
def test_partners_are_a_permutation_of_the_step(ranks):
    """Every image of a step is the second of exactly one mixture, with its label and its own crop."""
    seen = {}
    for rank in range(ranks):
        own = source(ranks=ranks)
        dataset = training_pipeline(
            own, batch=16, batch_ops=OPS, partners=Partners(Mixup(), own, 16), rank=rank, ranks=ranks
        )
        for step, batch in enumerate(dataset.create_dict_iterator(num_epochs=1, output_numpy=True)):
            np.testing.assert_array_equal(batch["labels"][:, 0], batch["label"])
            np.testing.assert_allclose(batch["shares"].sum(axis=1), 1, atol=1e-6)
            assert len(set(batch["blend"].tolist())) == 1
            first, second, labels, blends = seen.setdefault(step, ([], [], [], set()))
            first += [image.tobytes() for image in batch["image"]]
            second += [image.tobytes() for image in batch["second"]]
            labels += batch["labels"].tolist()
            blends |= set(batch["blend"].tolist())
    whole = 0
    for first, second, labels, blends in seen.values():
        assert sorted(first) == sorted(second)
        assert first != second
        of_image = dict(zip(first, (pair[0] for pair in labels), strict=True))
        assert [of_image[image] for image in second] == [pair[1] for pair in labels]
        assert len(blends) == 1
        whole += len(first)
    assert whole == 70


def test_steps_differ_and_repeat():
    own = source()
    partners = Partners(Mixup(), own, 16)
    dataset = training_pipeline(own, batch=16, partners=partners)
    blends = [b["blend"][0] for b in dataset.create_dict_iterator(num_epochs=1, output_numpy=True)]
    assert len(set(blends)) == len(blends)
    assert batches(Mixup()) == batches(Mixup())
    assert batches(Mixup(seed=1)) != batches(Mixup())


def test_a_second_order_gives_its_own_images():
    """The partner's class follows the second sampler, its image another crop."""
    own = source(first_draw=0)
    other = source(reversed_order, seed=9)
    dataset = training_pipeline(own, batch=16, batch_ops=OPS, partners=Partners(Mixup(), own, 16, other))
    index = reversed_order(LABELS, seed=9, epoch=0, num_samples=70)
    for batch in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
        np.testing.assert_array_equal(batch["labels"][:, 1], LABELS[index[batch["draw"]]])
        # The reader of the second source has no operations here, so its pixels are the set's.
        np.testing.assert_array_equal(batch["second"], SET.images[index[batch["draw"]]].transpose(0, 3, 1, 2))


def test_a_layer_mixes_within_the_micro_batch():
    own = source()
    mixing = ManifoldMixup()
    dataset = training_pipeline(own, batch=16, partners=Partners(mixing, own, 16), accumulate=2)
    permuted = 0
    for batch in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
        assert "second" not in batch
        partner = batch["partner"]
        assert sorted(partner) == list(range(len(partner)))
        np.testing.assert_array_equal(batch["labels"][:, 1], batch["label"][partner])
        permuted += (partner != np.arange(len(partner))).any()
    assert permuted >= 8
    other = source(reversed_order, seed=9)
    dataset = training_pipeline(own, batch=16, partners=Partners(mixing, own, 16, other))
    for batch in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
        np.testing.assert_array_equal(batch["partner"], np.arange(len(batch["label"])) + len(batch["label"]))
        assert batch["second"].shape == batch["image"].shape
