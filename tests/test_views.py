"""Several views of every draw: the same image under choices of its own, whatever reads it, and its place in the step."""

import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest

from ms_longtail.augment import CentreCrop, ColorJitter, Crop, Cutout, Flip, ImageTrans, RandomResizedCrop
from ms_longtail.data import DrawSource, ImageSet, View, training_pipeline
from ms_longtail.errors import DataError
from ms_longtail.recipe import from_map
from ms_longtail.run import build
from ms_longtail.run.dataset import load_data
from ms_longtail.run.plan import make_plan
from ms_longtail.run.sources import stage_dataset
from ms_longtail.samplers import instance

COUNT, SIDE, BATCH = 70, 12, 16
LABELS = np.repeat(np.arange(4), [40, 18, 8, 4]).astype(np.int32)


def numbered(number, height=SIDE, width=SIDE):
    """A picture whose red says its number (from 1, so that black is no picture); green and blue say where a pixel lies."""
    image = np.empty((height, width, 3), np.uint8)
    image[..., 0] = number + 1
    image[..., 1] = np.linspace(60, 250, width)[None]
    image[..., 2] = np.linspace(60, 250, height)[:, None]
    return image


IMAGES = np.stack([numbered(i) for i in range(COUNT)])
SET = ImageSet(LABELS, tuple("abcd"), images=IMAGES)


class Shelf:
    """Pictures of several sizes that are read one by one, and counted; some cannot be read."""

    images = None
    class_names = tuple("abcd")

    def __init__(self, broken=()):
        self.labels, self.broken = LABELS, set(broken)
        self.pictures = [numbered(i, 14 + i % 5, 20 - i % 3) for i in range(COUNT)]
        self.reads, self.lock = Counter(), threading.Lock()

    def __len__(self):
        return COUNT

    def read(self, index):
        with self.lock:
            self.reads[index] += 1
        if index in self.broken:
            raise DataError(f"cannot read picture {index}")
        return self.pictures[index].copy()  # as a file gives a new array every time


class Stamp:
    """Level "whole": writes into a corner what it was told of an image."""

    level = "whole"

    def __call__(self, images, labels, index, draws):
        images = images.copy()
        images[:, 0, 0] = np.stack([index + 1, labels + 100, draws % 200], axis=1)
        return images


class Darken:
    """Level "whole", in place: an operation may write into the batch that it is given."""

    level = "whole"

    def __call__(self, images, labels, index, draws):
        images[..., 1:] //= 2
        return images


class Keep:
    """Level "image": hands on what it is given, as a crop of the whole image does."""

    level = "image"

    def random(self, draws):
        return np.empty((len(draws), 0))

    def __call__(self, image, numbers, out=None):
        return image


def batch_views():
    return [
        View(batch=(Crop(padding=2, seed=0), Flip(seed=0))),
        View(batch=(Crop(padding=2, seed=11), Flip(seed=11))),
        View(),
    ]


def mixed_views():
    """One of batches alone, one of single images, one of whole images, all levels in one, and one of another size."""
    counts = np.bincount(LABELS)
    return [
        View(batch=(Crop(padding=2, seed=0),)),
        View(image=(RandomResizedCrop(size=SIDE, scale_min=0.5, seed=11),), batch=(Flip(seed=11),)),
        View(whole=(ImageTrans(class_counts=counts, always=True, seed=12), Stamp())),
        View(
            (Stamp(),),
            (RandomResizedCrop(size=SIDE, scale_min=0.5, seed=13),),
            (ColorJitter(seed=13), Cutout(length=3, seed=13)),
        ),
        View(image=(RandomResizedCrop(size=8, seed=14),)),
    ]


def single_views():
    """The same for pictures of several sizes, which all have to come to one."""
    first, *others = mixed_views()
    cut = (CentreCrop(size=SIDE),)
    stamped = View(others[1].whole, cut)
    return [View(image=cut, batch=first.batch), others[0], stamped, *others[2:]]


KINDS = {
    "batches": (batch_views, lambda: SET),
    "mixed": (mixed_views, lambda: SET),
    "files": (single_views, Shelf),
}


def source(images, views, ranks=1, **settings):
    order = partial(instance, LABELS, seed=0)
    first, *others = views
    return DrawSource(
        images, lambda e: order(epoch=e), COUNT, multiple=ranks, whole_ops=first.whole, image_ops=first.image,
        views=others, **settings,
    )  # fmt: skip


def batches(images, views, *, ranks=1, accumulate=1, epochs=1, skip=0, workers=1, **settings):
    """The batches of every worker, one list a worker."""
    found = []
    for rank in range(ranks):
        dataset = training_pipeline(
            source(images, views, ranks, **settings), batch=BATCH, batch_ops=views[0].batch, skip=skip, rank=rank,
            ranks=ranks, accumulate=accumulate, workers=workers,
        )  # fmt: skip
        iterator = dataset.create_dict_iterator(num_epochs=epochs, output_numpy=True)
        found.append([dict(row) for _ in range(epochs) for row in iterator])
    return found


def by_draw(found, without=()):
    """draw -> the row of every column."""
    rows = {}
    for batch in (batch for worker in found for batch in worker):
        names = sorted(set(batch) - {"apply", *without})
        for i, draw in enumerate(batch["draw"].tolist()):
            row = {name: batch[name][i].tobytes() for name in names}
            assert rows.setdefault(draw, row) == row
    return rows


def raw(images, index):
    return images.images[index] if images.images is not None else images.pictures[index]


def alone(images, index, draw, view):
    """One view of one draw, its operations called on this image alone, channels first."""
    image, draws, index = raw(images, index).copy(), np.array([draw]), np.array([index])
    for op in view.whole:
        image = op(image[None], LABELS[index], index, draws)[0]
    for op in view.image:
        image = op(image, op.random(draws)[0])
    image = image[None].copy()
    for op in view.batch:
        image = op(image, draws)
    return image[0].transpose(2, 0, 1)


# ---- what is in a view


@pytest.mark.parametrize("kind", KINDS)
def test_every_view_is_what_its_operations_make_of_the_same_image_alone(kind):
    make, images = KINDS[kind][0], KINDS[kind][1]()
    views = make()
    (found,) = batches(images, views, epochs=2, first_draw=35, first_epoch=0)
    names = ["image", *(f"view{n}" for n in range(2, len(views) + 1))]
    assert set(found[0]) == {"image", "label", "index", "draw", "place", "apply", *names}
    index = np.concatenate([b["index"] for b in found])
    np.testing.assert_array_equal(index, [i for e in (0, 1) for i in instance(LABELS, seed=0, epoch=e)])
    np.testing.assert_array_equal(np.concatenate([b["draw"] for b in found]), 35 + np.arange(2 * COUNT))
    for batch in found:
        np.testing.assert_array_equal(batch["label"], LABELS[batch["index"]])
        for i, draw in enumerate(batch["draw"].tolist()):
            for name, view in zip(names, make(), strict=True):
                expected = alone(images, int(batch["index"][i]), draw, view)
                assert batch[name].dtype == np.uint8
                np.testing.assert_array_equal(batch[name][i], expected, err_msg=f"{name} of draw {draw}")


@pytest.mark.parametrize("workers", [1, 3])
def test_a_view_without_operations_is_the_image_itself_beside_views_that_write_in_place(workers):
    views = [
        View(batch=(Flip(p=1.0),)),
        View(),
        View(batch=(Cutout(fill=(0, 0, 0)),)),
        View(),
        View(image=(Keep(),), batch=(Flip(p=1.0),)),
    ]
    before = IMAGES.copy()
    for batch in batches(SET, views, workers=workers)[0]:
        originals = before[batch["index"]].transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(batch["view2"], originals)
        np.testing.assert_array_equal(batch["view4"], originals)
        for name in ("image", "view5"):
            np.testing.assert_array_equal(batch[name], originals[..., ::-1])
        assert (batch["view3"] != originals).any()
    np.testing.assert_array_equal(IMAGES, before)  # the data set is as it was


@pytest.mark.parametrize("order", ["before", "behind"])
@pytest.mark.parametrize("kind", ["memory", "memory, single", "files"])
def test_an_operation_on_whole_images_that_writes_in_place_stays_in_its_view(kind, order):
    """`augment`: an operation may write into the batch that it is given, which is the pipeline's own copy."""
    image_ops = () if kind == "memory" else (CentreCrop(size=SIDE),)
    images = Shelf() if kind == "files" else ImageSet(LABELS, tuple("abcd"), images=IMAGES.copy())
    dark, plain = View((Darken(),), image_ops), View(image=image_ops)
    views = [dark, plain] if order == "before" else [plain, dark]
    fresh = Shelf() if kind == "files" else SET
    (found,) = batches(images, views)
    for batch in found:
        for i, (index, draw) in enumerate(zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)):
            for name, view in zip(("image", "view2"), views, strict=True):
                np.testing.assert_array_equal(batch[name][i], alone(fresh, index, draw, view), err_msg=name)
    for number in range(COUNT):
        np.testing.assert_array_equal(raw(images, number), raw(fresh, number))


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_view_is_that_of_a_pipeline_without_others(kind):
    make, images = KINDS[kind]
    views = make()
    both, single = batches(images(), views, epochs=2), batches(images(), views[:1], epochs=2)
    others = [f"view{n}" for n in range(2, len(views) + 1)]
    assert by_draw(both, others) == by_draw(single)
    assert not {name for batch in single[0] for name in batch if name.startswith("view")}


def test_views_have_choices_of_their_own():
    """Two views with the same operations differ, in every choice that they make, about as often as two draws do."""
    ops = lambda seed: View(batch=(Flip(seed=seed),))  # noqa: E731
    seeds = [0, build.view_seed(0, 2), build.view_seed(0, 3)]
    (found,) = batches(SET, [ops(seed) for seed in seeds], epochs=6)
    flipped = []
    for name in ("image", "view2", "view3"):
        rows = np.concatenate([b[name] for b in found])
        flipped.append(rows[:, 1, 0, 0] > rows[:, 1, 0, -1])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert 0.4 < (flipped[a] == flipped[b]).mean() < 0.6


# ---- whatever reads them


@pytest.mark.parametrize("kind", KINDS)
def test_views_do_not_depend_on_threads_workers_micro_batches_or_a_resume(kind):
    make, images = KINDS[kind]
    reference = by_draw(batches(images(), make(), epochs=2))
    assert sorted(reference) == list(range(2 * COUNT))
    assert by_draw(batches(images(), make(), epochs=2, workers=3)) == reference
    assert by_draw(batches(images(), make(), epochs=2, ranks=2, workers=2)) == reference
    assert by_draw(batches(images(), make(), epochs=2, accumulate=2)) == reference
    assert by_draw(batches(images(), make(), epochs=2, ranks=2, accumulate=4, workers=3)) == reference
    for skip in (16, 48, 64):
        rest = by_draw(batches(images(), make(), skip=skip, workers=3, ranks=2))
        assert sorted(rest) == list(range(skip, COUNT))
        assert all(rest[draw] == reference[draw] for draw in rest)
    later = by_draw(batches(images(), make(), skip=32, first_draw=COUNT, first_epoch=1))
    assert later == {draw: reference[draw] for draw in range(COUNT + 32, 2 * COUNT)}


@pytest.mark.parametrize("workers", [1, 3])
def test_an_image_is_read_once_for_all_views(workers):
    shelf = Shelf()
    batches(shelf, single_views(), workers=workers)
    assert shelf.reads == Counter(range(COUNT))


@pytest.mark.parametrize("workers", [1, 3])
def test_an_unreadable_image_is_replaced_by_the_same_other_in_all_views(workers):
    broken = {7, 10, 45, 63}
    shelf, bare = Shelf(broken), Shelf(broken)
    settings = {"on_error": "skip", "max_error_share": 0.1}
    views = [*single_views(), View(image=(CentreCrop(size=SIDE),))]
    found = batches(shelf, views, workers=workers, **settings)
    single = batches(bare, views[:1], **settings)
    names = [f"view{n}" for n in range(2, len(views) + 1)]
    assert by_draw(found, names) == by_draw(single)
    assert shelf.reads == bare.reads  # nothing is looked for twice
    order = instance(LABELS, seed=0, epoch=0)
    replaced = 0
    for batch in found[0]:
        for i, (draw, index) in enumerate(zip(batch["draw"].tolist(), batch["index"].tolist(), strict=True)):
            assert index not in broken
            assert LABELS[index] == LABELS[order[draw]] == batch["label"][i]
            replaced += index != order[draw]
            assert batch[names[-1]][i, 0].max() == index + 1
            for name, view in zip(["image", *names], views, strict=True):
                np.testing.assert_array_equal(batch[name][i], alone(shelf, index, draw, view), err_msg=name)
    assert replaced == len(broken)


def test_unreadable_images_are_counted_once_however_many_views():
    own = source(Shelf({7, 10}), single_views(), on_error="skip", max_error_share=2 / COUNT)
    dataset = training_pipeline(own, batch=BATCH, workers=3)
    assert sum(len(row["draw"]) for row in dataset.create_dict_iterator(num_epochs=1, output_numpy=True)) == COUNT
    assert set(own.faults.messages) == {7, 10}
    strict = source(Shelf({7, 10}), single_views())
    with pytest.raises(RuntimeError):
        list(training_pipeline(strict, batch=BATCH, workers=3).create_dict_iterator(num_epochs=1, output_numpy=True))
    assert "cannot read picture" in str(strict.faults.fatal)


# ---- the place in the step


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_place_is_the_position_in_the_optimizer_step(ranks, accumulate, views):
    """Unique within a step over workers and micro-batches, from 0 on without a gap, in the last, smaller step too."""
    found = batches(SET, batch_views()[:views], ranks=ranks, accumulate=accumulate, epochs=2)
    steps = {}
    for worker in found:
        step = 0
        for batch in worker:
            assert batch["place"].dtype == np.int32
            assert batch["place"].shape == batch["draw"].shape
            places, draws = steps.setdefault(step, ([], []))
            places += batch["place"].tolist()
            draws += batch["draw"].tolist()
            step += int(batch["apply"][0])
    slots = -(-COUNT // ranks) * ranks
    sizes = [BATCH] * (slots // BATCH) + [slots % BATCH]
    assert [len(places) for places, _ in steps.values()] == 2 * sizes
    for number, (places, draws) in steps.items():
        assert sorted(places) == list(range(len(places)))
        epoch, within = divmod(number, len(sizes))
        expected = [epoch * COUNT + (within * BATCH + place) % COUNT for place in places]
        assert draws == expected


@pytest.mark.parametrize("skip", [16, 64])
def test_places_after_a_resume_are_those_of_the_whole_epoch(skip):
    whole, rest = batches(SET, batch_views()), batches(SET, batch_views(), skip=skip)
    for a, b in zip(whole[0][skip // BATCH :], rest[0], strict=True):
        np.testing.assert_array_equal(a["place"], b["place"])


# ---- from a recipe

RECIPE = {
    "name": "views",
    "seed": 5,
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}},
    "model": "resnet8_cifar",
    "batch": 16,
    "objective": "contrastive",
    "contrast": "supcon",
    "augment": [{"name": "crop", "padding": 2}],
    "views": [
        [{"name": "random_resized_crop", "scale_min": 0.5}, {"name": "cutout", "length": 5}],
        ["image_trans", {"name": "crop", "padding": 2}],
        [],
    ],
    "stages": [{"name": "one", "epochs": 1}, {"name": "two", "epochs": 2}],
}


@pytest.fixture(scope="module")
def digits():
    recipe = from_map(RECIPE)
    return recipe, load_data(recipe)


def test_seeds_of_views_are_all_different():
    first = [build.view_seed(seed, number) for seed in range(50) for number in range(2, 12)]
    others = [build.second_seed(seed) for seed in range(50)]
    everything = [*range(50), *first, *others]
    assert len(set(everything)) == len(everything)
    assert all(0 <= seed < 2**32 for seed in first)


def test_the_views_of_a_stage_are_its_lists_with_their_seeds(digits):
    recipe, data = digits
    train = data.splits.train
    views = build.build_views(recipe.stages[0], recipe, train, seed=recipe.seed)
    kinds = [[type(op).__name__ for level in (v.whole, v.image, v.batch) for op in level] for v in views]
    assert kinds == [["Crop"], ["RandomResizedCrop", "Cutout"], ["ImageTrans", "Crop"], []]
    seeds = [{op.seed for level in (v.whole, v.image, v.batch) for op in level} for v in views]
    assert seeds == [{5}, {build.view_seed(5, 2)}, {build.view_seed(5, 3)}, set()]
    # A list stands for the same whatever stands beside it: its number alone counts.
    other = from_map(RECIPE, ["views.0=[]"])
    again = build.build_views(other.stages[0], other, train, seed=5)
    assert [op.seed for op in (*again[2].whole, *again[2].batch)] == [build.view_seed(5, 3)] * 2
    # Images that are not of the wanted size are cut, in every view that does not do so itself.
    small = from_map(RECIPE, ["data.size=12"])
    cut = build.build_views(small.stages[0], small, train, seed=5)
    assert [[type(op).__name__ for op in v.image] for v in cut] == [
        ["CentreCrop"],
        ["RandomResizedCrop"],
        ["CentreCrop"],
        ["CentreCrop"],
    ]


@pytest.mark.parametrize(("ranks", "accumulate"), [(1, 1), (2, 2)])
def test_what_a_stage_is_fed_is_made_by_the_operations_of_its_recipe(digits, ranks, accumulate):
    recipe, data = from_map(RECIPE, [f"accumulate={accumulate}", "workers=3"]), digits[1]
    train = data.splits.train
    plan = make_plan(recipe, data, ranks)[1]
    seeds = [5, build.view_seed(5, 2), build.view_seed(5, 3)]
    views = [
        View(batch=(Crop(padding=2, seed=seeds[0]),)),
        View(
            image=(RandomResizedCrop(size=16, scale_min=0.5, seed=seeds[1]),),
            batch=(Cutout(length=5, seed=seeds[1]),),
        ),
        View((ImageTrans(class_counts=train.class_counts, seed=seeds[2]),), (), (Crop(padding=2, seed=seeds[2]),)),
        View(),
    ]
    seen = set()
    for rank in range(ranks):
        dataset, _, _ = stage_dataset(plan, recipe, data, epoch=1, skip=32, rank=rank, ranks=ranks)
        for batch in dataset.create_dict_iterator(num_epochs=1, output_numpy=True):
            for i, draw in enumerate(batch["draw"].tolist()):
                seen.add(draw)
                index = np.array([batch["index"][i]])
                assert batch["label"][i] == train.labels[index[0]]
                assert index[0] == plan.order(plan.first_epoch + 1)[draw - plan.first_draw - plan.epoch_draws]
                for number, view in enumerate(views, 1):
                    image, draws = train.images[index].copy(), np.array([draw])
                    for op in view.whole:
                        image = op(image, train.labels[index], index, draws)
                    for op in view.image:
                        image = op(image[0], op.random(draws)[0])[None].copy()
                    for op in view.batch:
                        image = op(image, draws)
                    name = "image" if number == 1 else f"view{number}"
                    np.testing.assert_array_equal(batch[name][i], image[0].transpose(2, 0, 1), err_msg=name)
    first = plan.first_draw + plan.epoch_draws
    assert seen - set(range(first, first + 2)) == set(range(first + 32, first + plan.epoch_draws))
