"""Learning-rate schedules against lists written by hand, and the plan that puts them on a run's steps."""

import numpy as np
import pytest
from conftest import assert_close

from ms_longtail.errors import RecipeError
from ms_longtail.recipe import from_map
from ms_longtail.registry import SCHEDULES
from ms_longtail.run.dataset import load_data
from ms_longtail.run.plan import describe, make_plan
from ms_longtail.training.schedules import constant, cosine, multistep, step

STEP_OF_RUN = {"name": "multistep", "milestones": [3], "gamma": 0.1, "span": "run"}


def same(factor, expected):
    assert len(factor) == len(expected)
    assert_close(factor, expected, "float64")


# ---- the curves


def test_constant():
    same(constant(3, 2), [1, 1, 1, 1, 1, 1])


def test_multistep_changes_at_the_first_step_of_the_epoch_after_the_milestone():
    same(multistep(5, 3, milestones=[2, 4], gamma=0.1), [1] * 6 + [0.1] * 6 + [0.01] * 3)
    same(multistep(3, 2, milestones=[0], gamma=0.5), [0.5] * 6)
    same(multistep(3, 2, milestones=[3, 9], gamma=0.5), [1] * 6)
    same(multistep(2, 2, milestones=[], gamma=0.5), [1] * 4)
    same(multistep(4, 1, milestones=[3, 1], gamma=0.5), [1, 0.5, 0.5, 0.25])


def test_multistep_of_the_reference_recipe():
    """[160, 180] of 200 epochs: 160 whole epochs at the first rate."""
    factor = multistep(200, 97, milestones=[160, 180], gamma=0.01)
    assert np.flatnonzero(np.diff(factor)).tolist() == [160 * 97 - 1, 180 * 97 - 1]
    same(factor[[0, 160 * 97, -1]], [1, 1e-2, 1e-4])


def test_step():
    same(step(5, 2, every=2, gamma=0.5), [1] * 4 + [0.5] * 4 + [0.25] * 2)
    same(step(3, 1, every=1), [1, 0.1, 0.01])


def test_cosine():
    same(cosine(2, 2), [1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2])
    same(cosine(3, 1, final=0.2), [1, 0.2 + 0.4 * 1.5, 0.2 + 0.4 * 0.5])  # cos 60 and 120 degrees
    factor = cosine(10, 7)
    assert (np.diff(factor) < 0).all()
    assert 0 < factor[-1] < 0.001


def test_gradual_warm_up_is_linear_per_step_and_multiplies():
    same(constant(3, 2, warmup_epochs=2), [0, 0.25, 0.5, 0.75, 1, 1])
    same(constant(3, 2, warmup_epochs=2, warmup_start=0.2), [0.2, 0.4, 0.6, 0.8, 1, 1])
    same(multistep(3, 2, milestones=[1], gamma=0.1, warmup_epochs=2), [0, 0.25, 0.05, 0.075, 0.1, 0.1])
    same(step(2, 2, every=1, gamma=0.1, warmup_epochs=1, warmup_start=0.5), [0.5, 0.75, 0.1, 0.1])


def test_constant_warm_up_stays_at_its_start():
    same(constant(3, 2, warmup_epochs=1, warmup="constant", warmup_start=0.3), [0.3, 0.3, 1, 1, 1, 1])
    same(multistep(2, 2, milestones=[1], gamma=0.1, warmup="constant", warmup_epochs=1.5), [0, 0, 0, 0.1])


def test_cosine_counts_from_the_end_of_the_warm_up():
    same(cosine(3, 2, warmup_epochs=1), [0, 0.5, 1, (1 + np.sqrt(0.5)) / 2, 0.5, (1 - np.sqrt(0.5)) / 2])


def test_warm_up_of_a_part_of_an_epoch_and_of_more_than_all():
    same(constant(1, 8, warmup_epochs=0.5), [0, 0.25, 0.5, 0.75, 1, 1, 1, 1])
    same(constant(1, 2, warmup_epochs=2), [0, 0.25])
    same(constant(2, 3, warmup_epochs=0, warmup_start=0.5), [1] * 6)
    assert np.isfinite(cosine(1, 2, warmup_epochs=1)).all()
    assert np.isfinite(cosine(1, 2, warmup_epochs=3)).all()


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_has_a_factor_per_step_between_0_and_1(name):
    needed = {"multistep": {"milestones": [2]}, "step": {"every": 2}}.get(name, {})
    for span in ("stage", "run"):
        factor = SCHEDULES.get(name)(4, 5, span=span, warmup_epochs=1, **needed)
        assert factor.shape == (20,)
        assert factor.dtype == np.float64
        assert ((factor >= 0) & (factor <= 1)).all()
        assert factor[0] == 0


# ---- the plan

DIGITS = {"name": "digits_lt", "imbalance": {"profile": "exp", "n_max": 120, "factor": 50}}
IMAGES = 120 + 77 + 50 + 32 + 21 + 13 + 8 + 5 + 3 + 2  # 331: 11 steps of 32, the last one of 11 images


@pytest.fixture(scope="module")
def data():
    return load_data(recipe([{"name": "a", "epochs": 1}]))


def recipe(stages, **settings):
    content = {"name": "r", "data": DIGITS, "model": "resnet8_cifar", "batch": 32, "stages": stages}
    return from_map(content | settings)


def test_draws_and_steps_of_every_stage(data):
    stages = [
        {"name": "a", "epochs": 2},
        {"name": "b", "epochs": 3, "sampler": {"name": "class_balanced", "num_samples": 65}},
        {"name": "c", "epochs": 1, "sampler": {"name": "instance", "num_samples": 64}},
    ]
    plans = make_plan(recipe(stages), data)
    assert len(data.splits.train) == IMAGES
    assert [p.number for p in plans] == [0, 1, 2]
    assert [p.label for p in plans] == ["stage-1-a", "stage-2-b", "stage-3-c"]
    assert [p.epoch_draws for p in plans] == [IMAGES, 65, 64]
    assert [p.steps_per_epoch for p in plans] == [11, 3, 2]
    assert [p.first_epoch for p in plans] == [0, 2, 5]
    assert [p.first_draw for p in plans] == [0, 2 * IMAGES, 2 * IMAGES + 3 * 65]
    assert [len(p.lr) for p in plans] == [22, 9, 2]
    assert [p.stage.name for p in plans] == ["a", "b", "c"]
    for plan in plans:
        assert len(plan.order(plan.first_epoch)) == plan.epoch_draws
        assert plan.lr.dtype == np.float32
    assert sorted(plans[0].order(0)) == list(range(IMAGES))
    assert plans[0].order(0).tolist() != plans[0].order(1).tolist()


def test_draws_do_not_depend_on_the_number_of_workers(data):
    one = recipe([{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1}], batch=30)
    plans = make_plan(one, data, ranks=3)
    assert [p.epoch_draws for p in plans] == [331, 331]
    assert plans[1].first_draw == 331
    assert [p.steps_per_epoch for p in plans] == [12, 12]
    # 331 images are 1 full batch and 1 image, with 1 worker or 2
    assert make_plan(recipe([{"name": "a", "epochs": 1}], batch=330), data, ranks=2)[0].steps_per_epoch == 2
    assert make_plan(recipe([{"name": "a", "epochs": 1}], batch=331), data)[0].steps_per_epoch == 1


def test_batch_must_divide_among_workers_and_micro_batches(data):
    stages = [{"name": "a", "epochs": 1}]
    make_plan(recipe(stages, batch=12, accumulate=3), data, ranks=4)
    with pytest.raises(RecipeError, match="batch = 12: must be a multiple of 4 workers x accumulate 2"):
        make_plan(recipe(stages, batch=12, accumulate=2), data, ranks=4)


def test_span_stage_begins_anew(data):
    schedule = {"name": "multistep", "milestones": [1], "gamma": 0.1}
    stages = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 2, "schedule": schedule}]
    plans = make_plan(recipe(stages, schedule=schedule, optimizer={"name": "sgd", "lr": 0.4}), data)
    for plan in plans:
        assert_close(plan.lr, [0.4] * 11 + [0.04] * 11)


def test_span_run_goes_on_through_the_stages(data):
    """Milestone 3 is the second epoch of stage b: one epoch of 2 steps at the first rate, then two at the other."""
    balanced = {"name": "class_balanced", "num_samples": 64}
    stages = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 3, "sampler": balanced}]
    plans = make_plan(recipe(stages, schedule=STEP_OF_RUN, optimizer={"name": "sgd", "lr": 0.4}), data)
    assert_close(plans[0].lr, [0.4] * 22)
    assert_close(plans[1].lr, [0.4] * 2 + [0.04] * 4)


def test_span_run_changes_at_exactly_the_right_step(data):
    for milestone in (1, 2, 3, 4):
        schedule = STEP_OF_RUN | {"milestones": [milestone]}
        stages = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 3}]
        rates = np.concatenate([p.lr for p in make_plan(recipe(stages, schedule=schedule), data)])
        assert len(rates) == 55
        assert np.flatnonzero(np.diff(rates)).tolist() == [11 * milestone - 1]


def test_span_run_warms_up_once_and_the_cosine_ends_with_the_run(data):
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2}]
    schedule = {"name": "cosine", "span": "run", "warmup_epochs": 1}
    plans = make_plan(recipe(stages, schedule=schedule, optimizer={"name": "sgd", "lr": 0.5}), data)
    assert_close(plans[0].lr, [0.5 * i / 11 for i in range(11)])
    assert_close(plans[1].lr, [0.25 * (1 + np.cos(np.pi * t / 22)) for t in range(22)])
    schedule["span"] = "stage"
    first, second = make_plan(recipe(stages, schedule=schedule), data)
    assert first.lr[0] == second.lr[0] == 0


def test_stages_may_mix_spans(data):
    stages = [
        {"name": "a", "epochs": 1, "schedule": STEP_OF_RUN},
        {"name": "b", "epochs": 1, "schedule": "constant", "optimizer": {"name": "sgd", "lr": 0.05}},
        {"name": "c", "epochs": 3, "schedule": STEP_OF_RUN, "optimizer": {"name": "sgd", "lr": 0.2}},
    ]
    a, b, c = make_plan(recipe(stages, optimizer={"name": "sgd", "lr": 0.2}), data)
    assert_close(a.lr, [0.2] * 11)
    assert_close(b.lr, [0.05] * 11)
    assert_close(c.lr, [0.2] * 11 + [0.02] * 22)  # epochs 2, 3 and 4 of the run


def test_reference_batch_scales_by_the_global_batch(data):
    optimizer = {"name": "sgd", "lr": 0.1, "reference_batch": 128}
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1, "optimizer": {"reference_batch": 16}}]
    for ranks in (1, 2):
        for accumulate in (1, 4):
            plans = make_plan(recipe(stages, optimizer=optimizer, accumulate=accumulate), data, ranks)
            assert_close(plans[0].lr, [0.025] * 11)
            assert_close(plans[1].lr, [0.2] * 11)
    unscaled = make_plan(recipe(stages[:1], optimizer={"name": "adam", "lr": 0.1}), data)
    assert_close(unscaled[0].lr, [0.1] * 11)


def test_description_for_people(data):
    stages = [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 1, "sampler": "class_balanced", "augment": ["crop"]}]
    schedule = {"name": "multistep", "milestones": [1], "gamma": 0.1, "warmup_epochs": 0.5}
    rows = describe(make_plan(recipe(stages, schedule=schedule, optimizer={"name": "sgd", "lr": 0.5}), data))
    assert [row["stage"] for row in rows] == ["1 a", "2 b"]
    assert rows[0]["steps"] == "2 x 11"
    assert rows[0]["images"] == "2 x 331"
    assert rows[0]["lr"] == "0 .. 0.5 .. 0.05 (multistep)"
    assert rows[0]["augment"] == "none"
    assert rows[1]["augment"] == "crop"
    assert rows[1]["sampler"] == "class_balanced"
