"""The pictures of `show`: what is drawn is what a real run was fed, and mistakes end with one line."""

import dataclasses
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest

from ms_longtail import cli, runtime
from ms_longtail.augment.cam import augmented_share, enlarge
from ms_longtail.evaluation import pictures
from ms_longtail.recipe import from_map, load
from ms_longtail.run import show, show_batch, show_cam, show_sampler
from ms_longtail.run.folder import RunFolder
from ms_longtail.samplers import class_balanced, progressive
from ms_longtail.training.callbacks import Conductor

RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}}
model: resnet8_cifar
batch: 16
accumulate: 2
augment: [{name: crop, padding: 2}]
optimizer: {name: sgd, lr: 0.05}
stages:
  - {name: one, epochs: 1, mixing: remix, second_sampler: reversed}
  - name: two
    epochs: 1
    sampler: class_balanced
    second_sampler: none
    mixing: {name: manifold_mixup, layer: pool}
    augment: [{name: cam, transforms: [translate, rotate], ratio: 0.9}, {name: crop, padding: 2}]
  - {name: three, epochs: 2, mixing: none, sampler: progressive, augment: []}
"""


@pytest.fixture(scope="module")
def fed():
    """(run folder, {(stage, epoch, step): what its step cell was given}) of a run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        seen, follow = {}, Conductor.on_train_step_end

        def record(self, run_context):
            key = (self.position.stage, self.position.epoch + 1, self.position.step + 1)
            columns = [column.asnumpy().copy() for column in run_context.original_args().train_dataset_element]
            seen.setdefault(key, []).append(columns)
            follow(self, run_context)

        patch.setattr(Conductor, "on_train_step_end", record)
        yield seen


@pytest.fixture(scope="module")
def run(fed, tmp_path_factory):
    folder, mode = tmp_path_factory.mktemp("show"), ms.get_context("mode")
    (folder / "tiny.yaml").write_text(RECIPE)
    command = [
        "train",
        "--config",
        folder / "tiny.yaml",
        "--runs",
        folder / "runs",
        "--device",
        "cpu",
        "--debug",
        "--quiet",
    ]
    assert cli.main([str(word) for word in command]) == 0
    yield folder / "runs" / "tiny-s0"
    ms.set_context(mode=mode)


def subject_of(path):
    home = RunFolder(path)
    return show.of_run(home, from_map(home.plain_recipe()), runtime.start("cpu", debug=True))


@pytest.fixture(scope="module")
def subject(run):
    return subject_of(run)


def draw(*words):
    return cli.main(["show", *map(str, words), "--device", "cpu", "--debug", "--quiet"])


@pytest.mark.parametrize(("stage", "epoch", "step"), [(0, 1, 1), (0, 1, 6), (1, 1, 2), (2, 2, 3)])
def test_the_batch_shown_is_the_one_that_the_run_was_fed(fed, subject, stage, epoch, step):
    plan = subject.plan[stage]
    rows = show_batch.step_rows(subject, plan, epoch, step)
    micro = fed[stage, epoch, step]
    names = {0: "image labels shares blend partner second apply", 1: "image labels shares blend partner apply"}
    columns = [dict(zip(names.get(stage, "image label apply").split(), given, strict=True)) for given in micro]
    for name in {"image", "label", "labels", "shares", "blend"} & set(columns[0]):
        np.testing.assert_array_equal(rows[name], np.concatenate([given[name] for given in columns]), err_msg=name)
    assert len(rows["image"]) == (
        len(rows["draw"]) if step < plan.steps_per_epoch else plan.epoch_draws - 16 * (step - 1)
    )
    if stage == 0:
        np.testing.assert_array_equal(rows["second"], np.concatenate([given["second"] for given in columns]))
    if stage == 1:
        partners = np.concatenate([given["image"][given["partner"]] for given in columns])
        np.testing.assert_array_equal(rows["second"], partners)
        assert len(micro) == 2
    train = subject.data.splits.train
    np.testing.assert_array_equal(train.labels[rows["index"]], rows["label"])
    if stage == 2:
        np.testing.assert_array_equal(rows["image"], train.images[rows["index"]].transpose(0, 3, 1, 2))


def test_a_step_on_two_workers_shows_the_same_images(subject):
    plan = subject.plan[0]
    two = dataclasses.replace(subject, ranks=2, recipe=dataclasses.replace(subject.recipe, accumulate=1))
    one, other = show_batch.step_rows(subject, plan, 1, 2), show_batch.step_rows(two, plan, 1, 2)
    for name in one:
        np.testing.assert_array_equal(other[name], one[name], err_msg=name)


def test_pixels_are_blended_as_in_the_network_and_labels_written_with_their_shares(subject):
    plan = subject.plan[0]
    leaning = 0
    for step in range(1, plan.steps_per_epoch + 1):
        rows = show_batch.step_rows(subject, plan, 1, step)
        tiles = show_batch.batch_tiles(subject, plan, rows, 12)
        assert len(tiles) == min(12, len(rows["draw"]))
        for i, tile in enumerate(tiles):
            share = float(rows["blend"][i])
            mixed = share * rows["image"][i].astype(float) + (1 - share) * rows["second"][i]
            assert np.abs(tile.images[0].transpose(2, 0, 1) - mixed).max() <= 0.5 + 1e-4
            assert tile.lines[-1] == f"image {rows['index'][i]}, draw {16 * (step - 1) + i}"
            written = sum(float(line.split(": ")[1].removesuffix(" %")) for line in tile.lines if "%" in line)
            assert abs(written - 100) <= 1
            leans = (
                rows["shares"][i, 0] != rows["blend"][i]
            )  # remix: the label goes to the rarer class, the pixels do not
            assert any(line.startswith("pixels") for line in tile.lines) == leans
            leaning += leans
    assert leaning
    rows = {"labels": np.array([[3, 3, 1]]), "shares": np.array([[0.25, 0.5, 0.25]])}
    assert show_batch._shares(rows["labels"][0], rows["shares"][0], tuple("abcd")) == ["d: 75 %", "b: 25 %"]


def test_a_layer_that_is_mixed_shows_both_images(subject):
    rows = show_batch.step_rows(subject, subject.plan[1], 1, 1)
    tile = show_batch.batch_tiles(subject, subject.plan[1], rows, 1)[0]
    np.testing.assert_array_equal(tile.images[0], rows["image"][0].transpose(1, 2, 0))
    np.testing.assert_array_equal(tile.images[1], rows["second"][0].transpose(1, 2, 0))


def test_cam_rows_hold_the_runs_maps_its_stage_settings_and_true_classes(run, subject):
    rows, title = show_cam.cam_rows(subject, images=2)
    stored, train = np.load(run / "maps" / "stage-2-two.npy"), subject.data.splits.train
    counts, order = train.class_counts, np.argsort(train.class_counts, kind="stable")
    shown = [int(row.class_name) for row in rows]
    assert list(dict.fromkeys(shown)) == [*order[:4], order[-1]]
    assert "stage two" in title
    assert "stage-1-one.ckpt" in title
    assert "0.9 x" in title
    for row in rows:
        c = train.labels[row.index]
        assert (int(row.class_name), row.count) == (c, counts[c])
        assert row.probability == augmented_share(counts)[c]
        np.testing.assert_array_equal(row.image, train.images[row.index])
        heat = enlarge(stored[[row.index]], 16, 16)[0]
        np.testing.assert_array_equal(row.heat, heat)
        inside = heat > 0.9 * heat.mean()
        np.testing.assert_array_equal(row.mask > 0, inside)
        y, x = np.nonzero(inside)
        assert row.box == (x.min(), y.min(), x.max(), y.max())
        assert list(row.moved) == ["translate", "rotate"]
    assert any((row.moved[name] != row.image).any() for row in rows for name in row.moved)


def test_maps_that_are_not_there_are_made_for_the_images_shown(run, subject, tmp_path):
    rows, _ = show_cam.cam_rows(subject, classes=["2"], images=1)
    bare = dataclasses.replace(subject, folder=RunFolder(tmp_path))
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    again, _ = show_cam.cam_rows(bare, classes=["2"], images=1)
    assert [row.index for row in rows] == [row.index for row in again]
    for row, other in zip(rows, again, strict=True):
        assert np.abs(row.heat - other.heat).max() <= 1  # another batch, other roundings
    assert not (tmp_path / "maps").exists()


def test_an_unfinished_run_and_one_without_cam(run, tmp_path):
    early = tmp_path / "early"
    (early / "checkpoints").mkdir(parents=True)
    for name in ("recipe.yaml", "split.json", "environment.json"):
        (early / name).write_bytes((run / name).read_bytes())
    with pytest.raises(show.UserError, match="no checkpoint yet"):
        show_cam.cam_rows(subject_of(early))
    (early / "checkpoints" / "last.ckpt").write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    late = subject_of(early)
    rows, title = show_cam.cam_rows(late, classes=["1"])
    assert "the stage has not begun" in title
    assert list(rows[0].moved) == ["translate", "rotate"]
    with pytest.raises(show.UserError, match="the stage has not begun"):
        show_batch.step_rows(late, late.plan[1], 1, 1)
    plain = dataclasses.replace(late, plan=[late.plan[0], late.plan[2]])
    rows, title = show_cam.cam_rows(plain, classes=["1"])
    assert list(rows[0].moved) == ["flip", "translate", "rotate", "scale"]
    assert "no stage uses" in title


def test_every_sampler_has_a_panel_with_what_it_draws(subject):
    panels = show_sampler.sampler_panels(subject, 3)
    train = subject.data.splits.train
    by_name = {panel.name.split()[0]: panel for panel in panels}
    assert list(by_name) == show_sampler.SAMPLERS.names()
    assert {name: panel.stages for name, panel in by_name.items() if panel.stages} == {
        "class_balanced": ["two"],
        "instance": ["one"],
        "progressive": ["three"],
        "reversed": ["one (second order)"],
    }
    np.testing.assert_array_equal(by_name["instance"].mean, train.class_counts)
    np.testing.assert_array_equal(by_name["over"].mean, np.full(10, train.class_counts.max()))
    np.testing.assert_array_equal(by_name["over"].distinct, train.class_counts)
    orders = [class_balanced(train.labels, seed=0, epoch=epoch) for epoch in (1, 2, 3)]  # stage two begins at epoch 1
    drawn = np.concatenate(orders)
    np.testing.assert_allclose(by_name["class_balanced"].mean, np.bincount(train.labels[drawn]) / 3)
    np.testing.assert_array_equal(by_name["class_balanced"].distinct, np.bincount(train.labels[np.unique(drawn)]))
    last = progressive(train.labels, seed=0, epoch=3, first_epoch=2, epochs=2)
    np.testing.assert_array_equal(by_name["progressive"].changes["last"], np.bincount(train.labels[last], minlength=10))


@pytest.mark.parametrize(
    ("words", "columns"),
    [
        (["cam", "--images", "1"], 5),
        (["batch", "--stage", "two"], None),
        (["batch"], None),
        (["sampler", "--epochs", "2"], None),
    ],
)
def test_files_are_pictures_with_content(run, tmp_path, words, columns):
    out = tmp_path / "picture.png"
    assert draw(*words, "--run", run, "--out", out) == 0
    picture = cv2.imread(str(out))
    assert min(picture.shape[:2]) > 300
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 100
    if columns:
        assert picture.shape[1] > columns * 150
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_photographs_of_any_shape_long_names_and_flat_maps_can_be_drawn(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for height, width in ((300, 200), (40, 400), (16, 16)):
        image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        flat = np.zeros((height, width))
        rows.append(
            pictures.CamRow(
                "a $very$ long name " * 3, 1, 0.5, 3, image, flat, flat.astype(np.uint8), None, {"flip": image}
            )
        )
    pictures.cam_figure(tmp_path / "cam.png", rows, "title " * 40)
    assert cv2.imread(str(tmp_path / "cam.png")) is not None


def test_the_outline_runs_around_every_pixel():
    mask = np.zeros((4, 5))
    mask[1:3, 2:5] = 1  # 2 x 3 pixels at the right border
    lines = pictures.outline(mask)
    assert lines.shape == (10, 2, 2)
    assert (lines[..., 0].min(), lines[..., 0].max(), lines[..., 1].min(), lines[..., 1].max()) == (1.5, 4.5, 0.5, 2.5)
    assert np.allclose(np.abs(lines[:, 0] - lines[:, 1]).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cam", "--stage", "twoo"], "--stage twoo: no such stage (did you mean 'two'?); there are: one, two, three"),
        (["cam", "--stage", "one"], "--stage one: this stage does not use cam; stages that do: two"),
        (["cam", "--classes", "zebra", "4"], "--classes zebra: no such class"),
        (["cam", "--classes", "0"], "--classes 0"),
        (["cam", "--classes", "9", "--images", "99"], "too many for one picture"),
        (["cam", "--out", "cam.jpg"], "pictures are written as PNG"),
        (["cam", "--out", "nowhere/cam.png"], "the folder nowhere does not exist"),
        (["batch", "--epoch", "2"], "--epoch 2: stage one has 1; give one from 1 to 1"),
        (["batch", "--step", "99"], "--step 99: stage one has"),
        (["sampler", "--set", "batch=8"], "--set batch=8: a run is shown with the settings it has"),
    ],
)
def test_mistakes_about_a_run(run, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert draw(*words, "--run", run) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cam", "--run", "nowhere"], "nowhere is not a run folder"),
        (["cam"], "a recipe alone has no trained network"),
        (["batch", "--stage", "two"], "train the recipe, then use --run"),
        (["batch", "--set", "data.imbalance.n_max=500"], "the largest class has 133 images"),
        (["sampler", "--set", "data={name: image_folder, root: nowhere}"], "the folder nowhere does not exist"),
    ],
)
def test_mistakes_without_a_run(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(RECIPE)
    assert draw(*words, *([] if "--run" in words else ["--config", "tiny.yaml"])) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    "words", [["batch", "--images", "0"], ["cam", "--seed", "-1"], ["sampler", "--epochs", "x"], []]
)
def test_numbers_out_of_bounds_and_no_picture_at_all(words):
    with pytest.raises(SystemExit) as stop:
        draw(*words)
    assert stop.value.code == 2


def test_classes_by_number_and_by_name():
    names, counts = ("0", "1", "2", "00"), np.array([9, 3, 1, 5])
    choose = show_cam.choose_classes
    assert choose(None, names, counts) == [2, 1, 3, 0]
    assert choose(["1"], names, counts) == [2, 0]
    assert choose(["1,"], names, counts) == [1]
    assert choose(["00"], names, counts) == [3]
    assert choose(["0", "1,2"], names, counts) == [2, 1, 0]


def test_a_recipe_alone_shows_batches_and_samplers(tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    machine = runtime.start("cpu", debug=True)
    subject = show.of_recipe(load(tmp_path / "tiny.yaml"), machine, "tiny")
    rows = show_batch.step_rows(subject, subject.plan[2], 1, 1)
    np.testing.assert_array_equal(rows["draw"][:2], subject.plan[2].first_draw + np.arange(2))


def test_a_recipe_whose_stage_starts_from_a_file_needs_no_run(run, tmp_path):
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    plain = load(tmp_path / "tiny.yaml").plain
    plain["stages"] = [plain["stages"][1] | {"start": str(run / "checkpoints" / "stage-1-one.ckpt")}]
    alone = show.of_recipe(from_map(plain), runtime.start("cpu", debug=True), "alone")
    rows, title = show_cam.cam_rows(alone, classes=["1"], images=1)
    stored = np.load(run / "maps" / "stage-2-two.npy")
    assert "stage-1-one.ckpt" in title
    for row in rows:
        assert np.abs(row.heat - enlarge(stored[[row.index]], 16, 16)[0]).max() <= 1
    shown = show_batch.step_rows(alone, alone.plan[0], 1, 1)
    assert len(shown["draw"]) == 16
