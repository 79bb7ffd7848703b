"""Draws by rates that are learnt meanwhile: which classes they give, that they wait, and what a stage's pipeline makes of it."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from ms_longtail import recipe as recipes
from ms_longtail.data import Board, ImageSet, RateSource
from ms_longtail.data.following import gumbel
from ms_longtail.run import show_batch
from ms_longtail.run.build import second_seed
from ms_longtail.run.dataset import load_data
from ms_longtail.run.plan import make_plan
from ms_longtail.run.sources import stage_dataset

RNG = np.random.default_rng(0)
COUNTS = np.array([120, 77, 50, 32, 21, 13, 8, 5, 3, 2])
C, BATCH = len(COUNTS), 32
LABELS = RNG.permutation(np.repeat(np.arange(C), COUNTS)).astype(np.int32)  # not in the order of the classes
IMAGES = ImageSet(LABELS, tuple("abcdefghij"), images=np.zeros((len(LABELS), 2, 2, 3), np.uint8))
UNLIKELY = 1e-3  # the seeds are fixed, so that a test passes always or never


def chances(w, counts=COUNTS):
    p = counts / (1 + np.exp(-np.asarray(w, np.float64)))
    return p / p.sum()


def source(board, *, seed=0, length=BATCH * 1000, first_draw=0, stage_draw=0, batch=BATCH):
    order = lambda epoch: np.arange(len(LABELS))  # noqa: E731  (never asked)
    settings = {"board": board, "batch": batch, "stage_draw": stage_draw, "first_draw": first_draw, "seed": seed}
    return RateSource(IMAGES, order, length, **settings)


def filled(w, steps):
    """A board that holds the same rates for every step; it keeps few, and gives the newest one once it is closed."""
    board = Board()
    board.put(steps, np.asarray(w, np.float32))
    board.close()
    return board


# ---- the noise and the draws


def test_the_noise_has_the_gumbel_distribution():
    noise = gumbel(3, np.arange(4000), C)
    assert noise.shape == (4000, C)
    assert noise.dtype == np.float32
    assert stats.kstest(noise.ravel(), "gumbel_r").pvalue > UNLIKELY
    for column in noise.T:
        assert stats.kstest(column, "gumbel_r").pvalue > UNLIKELY
    assert (
        np.abs(np.corrcoef(noise.T) - np.eye(C)).max() < 0.07
    )  # 4.4 standard errors: classes know nothing of each other,
    assert abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.02  # nor do draws
    assert len(np.unique(noise)) > 0.98 * noise.size  # the few float32 numbers that come twice
    assert np.isfinite(gumbel(0, np.arange(10**6, 10**6 + 10**5), C)).all()


def test_the_noise_is_a_function_of_seed_and_draw():
    draws = np.array([7, 10**9, 3, 2**40])
    noise = gumbel(5, draws, C)
    np.testing.assert_array_equal(gumbel(5, draws[::-1], C), noise[::-1])
    np.testing.assert_array_equal(gumbel(5, draws[1:2], C), noise[1:2])
    assert not np.isin(gumbel(6, draws, C), noise).any()


SHARE = (COUNTS.min() / COUNTS).clip(max=0.999)
RATES = {
    "as-they-are": np.zeros(C),
    "tail": np.linspace(-4, 4, C),
    "head": np.linspace(4, -4, C),
    "balanced": np.log(SHARE / (1 - SHARE)),
    "random": np.random.default_rng(4).uniform(-4, 4, C),
}


@pytest.mark.parametrize("name", RATES)
def test_classes_come_as_often_as_the_rates_say(name):
    """Chi-square of 64,000 draws against P(c) ~ n_c sigmoid(w_c)."""
    p, draws = chances(RATES[name]), np.arange(64_000)
    if name == "balanced":
        np.testing.assert_allclose(p, 1 / C, rtol=1e-2)
    found = np.bincount(LABELS[source(filled(RATES[name], 2000), length=len(draws)).index(draws)], minlength=C)
    assert p.min() * len(draws) > 5
    assert stats.chisquare(found, p * len(draws)).pvalue > UNLIKELY


def test_rates_that_differ_would_be_seen():
    """The test above does fail for rates that are a little wrong: .1 in w."""
    w = np.linspace(-1, 1, C)
    found = np.bincount(LABELS[source(filled(w, 1000)).index(np.arange(32_000))], minlength=C)
    assert stats.chisquare(found, chances(w) * 32_000).pvalue > UNLIKELY
    assert stats.chisquare(found, chances(w + 0.1 * (-1) ** np.arange(C)) * 32_000).pvalue < UNLIKELY


def test_images_of_a_class_come_equally_often():
    index = source(filled(np.linspace(-3, 3, C), 1000)).index(np.arange(32_000))
    for label in range(C):
        of_class = np.flatnonzero(np.equal(LABELS, label))
        found = np.bincount(index[LABELS[index] == label], minlength=len(LABELS))[of_class]
        assert found.sum() > 5 * len(of_class)
        assert stats.chisquare(found).pvalue > UNLIKELY


def test_the_class_is_that_of_the_greatest_score():
    w, draws = np.linspace(-4, 4, C).astype(np.float32), np.arange(640, 1280)
    its = source(filled(w, 1000), seed=9)
    noise = its.noise(draws)
    np.testing.assert_array_equal(noise, gumbel(9, draws, C))
    score = np.log(COUNTS) - np.log1p(np.exp(-w.astype(np.float64))) + noise
    np.testing.assert_array_equal(LABELS[its.index(draws)], score.argmax(axis=1))


def test_a_draw_is_a_function_of_seed_number_and_rates():
    w, draws = np.linspace(-2, 2, C), np.arange(320)
    index = source(filled(w, 1000)).index(draws)
    assert index.dtype == np.int32
    its = source(filled(w, 1000))
    shuffled = np.random.default_rng(0).permutation(320)
    its.index(draws[100:])  # what was drawn before does not matter,
    np.testing.assert_array_equal(its.index(shuffled), index[shuffled])  # nor does the order or the batch
    np.testing.assert_array_equal(its.index(draws[57:58]), index[57:58])
    for rank in (0, 1):
        np.testing.assert_array_equal(its.index(draws[rank::2]), index[rank::2])
    for other in (source(filled(w, 1000), seed=1), source(filled(w[::-1], 1000))):
        assert (other.index(draws) != index).mean() > 0.3


def test_every_step_has_noise_of_its_own():
    its = source(filled(np.zeros(C), 1000))
    steps = [its.index(np.arange(BATCH) + BATCH * step).tobytes() for step in range(50)]
    assert len(set(steps)) == 50


def test_a_step_is_drawn_by_its_own_rates():
    """The draws of step k of the stage follow what was put up for k, wherever the stage begins within the run."""
    first = 5 * BATCH
    rates = [np.full(C, -9.0), np.full(C, -9.0)]
    rates[0][3], rates[1][8] = 9, 9
    board = Board()
    for step, w in enumerate(rates):
        board.put(step, w)
    its = source(board, first_draw=first, stage_draw=first)
    draws = first + np.arange(2 * BATCH)
    assert chances(rates[0])[3] > 0.99  # almost all of one class, of another for the second step
    assert chances(rates[1])[8] > 0.94
    labels = LABELS[its.index(draws)]
    assert (labels[:BATCH] == 3).mean() > 0.9
    assert (labels[BATCH:] == 8).mean() > 0.8
    across = draws[BATCH - 10 : BATCH + 10]  # both at once
    np.testing.assert_array_equal(LABELS[its.index(across)], labels[BATCH - 10 : BATCH + 10])


def test_an_epoch_of_broken_batches_is_refused():
    with pytest.raises(ValueError, match="100 draws is no multiple of the batch 32"):
        source(Board(), length=100)


# ---- the board


class Waiter(threading.Thread):
    """Waits for a step in a thread of its own."""

    def __init__(self, board, step):
        super().__init__(daemon=True)
        self.board, self.step, self.value = board, step, None
        self.start()

    def run(self):
        self.value = self.board.wait(self.step)

    def waits(self, seconds=0.1):
        self.join(seconds)
        return self.is_alive()


def test_whoever_waits_gets_what_is_put_up_for_the_step():
    board = Board()
    board.put(0, np.zeros(2))
    third, second = Waiter(board, 2), Waiter(board, 1)
    assert third.waits()
    assert second.waits()
    value = np.ones(2)
    board.put(1, value)
    value[:] = 7  # the board has a copy
    assert not second.waits(10)
    np.testing.assert_array_equal(second.value, 1)
    assert third.waits()
    board.put(2, np.full(2, 2))
    assert not third.waits(10)
    np.testing.assert_array_equal(third.value, 2)
    np.testing.assert_array_equal(board.wait(2), 2)  # what is there is had at once


def test_closing_lets_everyone_go():
    board = Board()
    board.put(4, np.full(2, 4))
    waiters = [Waiter(board, step) for step in (5, 6)]
    assert all(waiter.waits() for waiter in waiters)
    board.close()
    assert not any(waiter.waits(10) for waiter in waiters)
    for waiter in waiters:
        np.testing.assert_array_equal(waiter.value, 4)
    np.testing.assert_array_equal(board.wait(99), 4)


def test_only_a_few_values_are_kept():
    board = Board()
    for step in range(100):
        board.put(step, np.full(2, step))
    board.close()
    kept = [step for step in range(100) if board.wait(step)[0] == step]  # others give the newest one
    assert kept[-1] == 99
    assert len(kept) < 5


# ---- the pipeline of a stage

RECIPE = {
    "name": "tiny",
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 120, "factor": 50}},
    "model": "resnet8_cifar",
    "batch": BATCH,
    "sampler": {"name": "instance", "num_samples": 330},
    "schedule": {"name": "cosine", "span": "stage"},
    "optimizer": {"name": "sgd", "lr": 0.1},
    "stages": [
        {"name": "represent", "epochs": 2},
        {
            "name": "balance",
            "epochs": 3,
            "objective": "meta_sampling",
            "second_sampler": "class_balanced",
            "freeze": "backbone",
        },
    ],
}
STEPS, EPOCHS = 10, 3  # 330 images are ten whole batches
SECONDS = 30  # for what takes a fraction of one, on a machine that has much else to do


class Stage:
    """The second stage of the recipe, and rates for each of its steps."""

    def __init__(self, **changes):
        self.recipe = recipes.from_map(RECIPE | changes)
        self.data = load_data(self.recipe)
        self.plan = make_plan(self.recipe, self.data)[1]
        self.train = self.data.splits.train
        self.rates = np.random.default_rng(2).uniform(-4, 4, (STEPS * EPOCHS + 1, C)).astype(np.float32)

    def rows(self, *, epoch=0, skip=0, rank=0, ranks=1, stop=None):
        """The columns of every step, the rates put up as a training would: for step k + 1 when k is done."""
        board, first, rows = Board(), epoch * STEPS + skip // BATCH, []
        board.put(first, self.rates[first])
        place = {"epoch": epoch, "skip": skip, "rank": rank, "ranks": ranks}
        dataset, _, _ = stage_dataset(self.plan, self.recipe, self.data, board=board, **place)
        epochs = 1 if skip else EPOCHS - epoch
        iterator = dataset.create_dict_iterator(num_epochs=epochs, output_numpy=True)
        try:
            for _ in range(epochs):
                for row in iterator:
                    rows.append({name: column.copy() for name, column in row.items()})
                    board.put(first + len(rows), self.rates[first + len(rows)])
                    if len(rows) == stop:
                        return rows
        finally:
            board.close()
        return rows


def in_time(function, *arguments, **settings):
    """What a function returns, which runs in a thread of its own so that a deadlock fails the test and does not hang it."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function(*arguments, **settings)), daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), "it hangs"
    return result[0]


@pytest.fixture(scope="module", params=[{"workers": 1}, {"workers": 2, "augment": [{"name": "crop", "padding": 2}]}])
def fed(request):
    """(stage, its rows): with one thread, and with two that have something to do."""
    stage = Stage(**request.param)
    return stage, in_time(stage.rows)


def test_the_stage_is_planned_in_whole_batches(fed):
    stage, rows = fed
    assert stage.train.class_counts.tolist() == COUNTS.tolist()
    assert (stage.plan.steps_per_epoch, stage.plan.epoch_draws) == (STEPS, STEPS * BATCH)
    assert len(rows) == STEPS * EPOCHS
    assert all(len(row["label"]) == BATCH for row in rows)


def test_draw_numbers_run_on_from_the_stage_before(fed):
    _, rows = fed
    draws = np.concatenate([row["draw"] for row in rows])
    np.testing.assert_array_equal(draws, 2 * 330 + np.arange(STEPS * EPOCHS * BATCH))


def test_noise_learning_rate_and_progress_are_those_of_the_step(fed):
    stage, rows = fed
    lr = 0.05 * (1 + np.cos(np.pi * np.arange(STEPS * EPOCHS) / (STEPS * EPOCHS)))
    np.testing.assert_allclose(stage.plan.lr, lr, atol=0.1 / STEPS)  # a cosine from .1 towards 0
    assert (np.diff(stage.plan.lr) <= 0).all()
    for number, row in enumerate(rows):
        assert row["noise"].shape == (BATCH, C)
        assert row["noise"].dtype == np.float32
        np.testing.assert_array_equal(row["noise"], gumbel(stage.recipe.seed, row["draw"], C))
        assert row["lr"].shape == row["progress"].shape == (1,)
        assert row["lr"].dtype == np.float32
        assert row["lr"][0] == stage.plan.lr[number]
        np.testing.assert_allclose(row["progress"], number // STEPS / EPOCHS, rtol=1e-6)


def test_labels_are_those_of_the_greatest_score_by_the_rates_on_the_board(fed):
    stage, rows = fed
    for number, row in enumerate(rows):
        w = stage.rates[number].astype(np.float64)
        score = np.log(COUNTS) - np.log1p(np.exp(-w)) + row["noise"]
        np.testing.assert_array_equal(row["label"], score.argmax(axis=1), err_msg=f"step {number}")
        np.testing.assert_array_equal(stage.train.labels[row["index"]], row["label"])


def test_the_second_images_are_class_balanced(fed):
    stage, rows = fed
    label = np.concatenate([row["second_label"] for row in rows])
    assert stats.chisquare(np.bincount(label, minlength=C)).pvalue > UNLIKELY
    order = np.concatenate([stage.plan.second_order(2 + epoch) for epoch in range(EPOCHS)])
    np.testing.assert_array_equal(label, stage.train.labels[order])
    assert rows[0]["second"].shape == rows[0]["image"].shape == (BATCH, 3, 16, 16)
    if not stage.recipe.stages[1].augment:
        second, image = (np.concatenate([row[name] for row in rows]) for name in ("second", "image"))
        np.testing.assert_array_equal(second, stage.train.images[order].transpose(0, 3, 1, 2))
        index = np.concatenate([row["index"] for row in rows])
        np.testing.assert_array_equal(image, stage.train.images[index].transpose(0, 3, 1, 2))
    assert second_seed(stage.recipe.seed) != stage.recipe.seed


def assert_same_rows(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_the_rest_of_an_epoch_goes_on_as_the_whole(fed):
    stage, rows = fed
    rest = in_time(stage.rows, epoch=1, skip=4 * BATCH)
    assert_same_rows(rest, rows[STEPS + 4 : 2 * STEPS])
    assert_same_rows(in_time(stage.rows, epoch=2), rows[2 * STEPS :])


def test_two_ranks_have_one_rows(fed):
    stage, rows = fed
    parts = [in_time(stage.rows, rank=rank, ranks=2, stop=STEPS + 2) for rank in (0, 1)]
    for whole, *halves in zip(rows[: STEPS + 2], *parts, strict=True):
        for name, column in whole.items():
            for rank, half in enumerate(halves):
                expected = column[rank::2] if len(column) == BATCH else column
                np.testing.assert_array_equal(half[name], expected, err_msg=name)


def test_the_second_images_may_be_of_the_validation_part():
    stages = [RECIPE["stages"][0], RECIPE["stages"][1] | {"objective": {"name": "meta_sampling", "meta": "validation"}}]
    stage = Stage(data=RECIPE["data"] | {"validation": {"share": 0.3}}, stages=stages)
    validation, rows = stage.data.splits.validation, in_time(stage.rows, stop=3)
    order = stage.plan.second_order(2)
    for number, row in enumerate(rows):
        its = order[number * BATCH : (number + 1) * BATCH]
        np.testing.assert_array_equal(row["second_label"], validation.labels[its])
        np.testing.assert_array_equal(row["second"], validation.images[its].transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(row["label"], stage.train.labels[row["index"]])


@pytest.mark.parametrize("done", [0, 1, STEPS - 1, STEPS])
def test_a_training_that_stops_early_leaves_nothing_waiting(fed, done):
    """The pipeline's threads wait for rates that never come; closing the board ends them, and the iterator with them."""
    stage, rows = fed

    def stopped():
        board, found = Board(), []
        board.put(0, stage.rates[0])
        dataset, _, _ = stage_dataset(stage.plan, stage.recipe, stage.data, board=board)
        iterator = dataset.create_dict_iterator(num_epochs=EPOCHS, output_numpy=True)
        for number in range(done):
            found.append({name: column.copy() for name, column in next(iterator).items()})
            board.put(number + 1, stage.rates[number + 1])
        board.close()
        del iterator  # joins the threads
        return found

    before = threading.active_count()
    found = in_time(stopped)
    assert_same_rows(found, rows[:done])
    assert threading.active_count() <= before + 3  # of the pipeline none but those of its pools


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_picture_of_the_first_step_does_not_wait_for_the_second(monkeypatch, ranks):
    """`show batch` reads one step; by then the pipeline may be waiting for the rates of the next."""
    boards, resolved = [], show_batch._resolved

    def kept():
        boards.append(Board())
        return boards[-1]

    def slowly(*arguments):
        time.sleep(0.5)
        return resolved(*arguments)

    monkeypatch.setattr(show_batch, "Board", kept)
    monkeypatch.setattr(show_batch, "_resolved", slowly)
    stage = Stage()
    subject = SimpleNamespace(recipe=stage.recipe, data=stage.data, ranks=ranks)
    try:
        rows = in_time(show_batch.step_rows, subject, stage.plan, 1, 1)
    finally:
        for board in boards:
            board.close()
    np.testing.assert_array_equal(rows["draw"], 660 + np.arange(BATCH))
    score = np.log(COUNTS) + gumbel(stage.recipe.seed, rows["draw"], C)
    np.testing.assert_array_equal(rows["label"], score.argmax(axis=1))  # rates of one half, as the stage begins
    np.testing.assert_array_equal(rows["second_label"], stage.train.labels[stage.plan.second_order(2)[:BATCH]])
