"""Networks of other runs that teach: what is kept of them, that they stay as they are, and teachers that do not fit."""

import copy
import hashlib
import json
import shutil
import signal
from types import SimpleNamespace

import cv2
import mindspore as ms
import numpy as np
import pytest
import yaml
from conftest import assert_close
from mindspore import Tensor, nn
from test_resume import parameters
from test_resume import run as killable

from ms_longtail import cli, recipe
from ms_longtail.errors import RecipeError, TrainingError, UserError
from ms_longtail.objectives.teacher import Teacher
from ms_longtail.parameters import assign
from ms_longtail.run import check, teachers
from ms_longtail.run import train as run_train
from ms_longtail.run.build import build_model
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder
from ms_longtail.training import checkpoints
from ms_longtail.training.checkpoints import Position

CONTENT = {
    "name": "student",
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}},
    "model": "resnet8_cifar",
    "batch": 16,
    "augment": ["crop"],
    "optimizer": {"name": "sgd", "lr": 0.05},
    "stages": [{"name": "only", "epochs": 1}],
}
OWN = {"mean": [0.2, 0.25, 0.3], "std": [0.5, 0.45, 0.4]}  # how the teachers here see pixels; their students do not


def content(**changes):
    """A recipe with changes; those of `data` are put into it."""
    result = copy.deepcopy(CONTENT)
    result["data"] |= changes.pop("data", {})
    return result | changes


def taught(teacher, loss="kd"):
    return content(stages=[{"name": "only", "epochs": 1, "loss": loss, "teacher": str(teacher)}])


def made(path, *, seed=1, **changes):
    """The folder of a run that was never trained, with uneven running statistics; (its recipe, its network)."""
    resolved = recipe.from_map(content(**{"name": path.name, "data": OWN} | changes))
    data = load_data(resolved)
    home = RunFolder(path)
    home.create(resolved, data.description, {})
    network = build_model(resolved, data, seed)
    scatter(network, seed)
    checkpoints.write(home.checkpoints / "last.ckpt", network, Position())
    return resolved, network


def scatter(network, seed):
    """Running statistics as no network begins with."""
    rng = np.random.default_rng(seed)
    for parameter in network.get_parameters():
        if "moving" in parameter.name:
            assign(parameter, rng.uniform(0.5, 1.5, parameter.shape).astype(np.float32))


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load(teacher, home, label="stage-1-only"):
    """The network that `run.teachers` hands to a stage with this teacher, in a run folder."""
    (home / "checkpoints").mkdir(parents=True, exist_ok=True)
    stage = SimpleNamespace(stage=SimpleNamespace(teacher=str(teacher)), label=label)
    return teachers.load_teacher(
        stage, [stage], RunFolder(home), build=lambda: pytest.fail("no network of this recipe")
    )


@pytest.fixture(autouse=True)
def same_mode():
    """The command line sets the execution mode; later tests get back the one they had."""
    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16)).astype(np.uint8)


def answers(network):
    return network.set_train(False)(Tensor(IMAGES)).asnumpy()


# ---- which network it is


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "resnet8_cifar"},
        {"model": "resnet20_cifar"},
        {"model": {"name": "resnet8_cifar", "head": "cosine"}},
        {"model": {"name": "resnet8_cifar", "branches": 2, "head": "disalign"}},
        {"data": {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}},
    ],
)
def test_the_teacher_is_the_other_runs_network_with_its_own_pixels(tmp_path, changes):
    _, network = made(tmp_path / "other", **changes)
    found = load(tmp_path / "other", tmp_path / "home")
    np.testing.assert_array_equal(answers(found), answers(network))
    assert {p.name: p.shape for p in found.get_parameters()} == {p.name: p.shape for p in network.get_parameters()}
    note = json.loads((tmp_path / "home" / "teachers.json").read_text())["stage-1-only"]
    own = tmp_path / "home" / "checkpoints" / "stage-1-only-teacher.ckpt"
    assert note["sha256"] == sha256(own) == sha256(tmp_path / "other" / "checkpoints" / "last.ckpt")
    expected = {**OWN, **changes.get("data", {})}
    assert {key: note[key] for key in ("run", "checkpoint", "mean", "std", "size")} == {
        "run": str(tmp_path / "other"),
        "checkpoint": "last.ckpt",
        "size": 16,
        **expected,
    }
    assert note["classes"] == list("0123456789")
    assert not list(own.parent.glob(".*"))


def test_a_run_folder_a_checkpoint_and_relative_paths(tmp_path, monkeypatch):
    resolved, network = made(tmp_path / "other")
    early = build_model(resolved, load_data(resolved), 9)
    checkpoints.write(tmp_path / "other" / "checkpoints" / "stage-1-only.ckpt", early, Position())
    monkeypatch.chdir(tmp_path)
    for path in ("./other", "other/", tmp_path / "other", "other/checkpoints/last.ckpt"):
        assert teachers.describe_teacher(str(path))[1]["run"] == str(tmp_path / "other")
    monkeypatch.chdir(tmp_path / "other" / "checkpoints")
    for number, (path, expected) in enumerate((("last.ckpt", network), ("./stage-1-only.ckpt", early))):
        assert teachers.describe_teacher(path)[1]["run"] == str(tmp_path / "other")
        np.testing.assert_array_equal(answers(load(path, tmp_path / f"home{number}")), answers(expected))


def test_a_checkpoint_that_holds_more_than_the_network_can_teach(tmp_path):
    """That of a student: its own teacher and its optimizer's state are in it."""
    resolved, network = made(tmp_path / "other")
    step = nn.CellList([network, Teacher(build_model(resolved, load_data(resolved), 7))], auto_prefix=False)
    checkpoints.write(tmp_path / "other" / "checkpoints" / "last.ckpt", step, Position())
    assert any("teacher." in name for name in parameters(tmp_path / "other" / "checkpoints" / "last.ckpt"))
    np.testing.assert_array_equal(answers(load(tmp_path / "other", tmp_path / "home")), answers(network))


def test_each_stage_keeps_its_own_teacher(tmp_path):
    _, first = made(tmp_path / "first", seed=1)
    _, second = made(tmp_path / "second", seed=2)
    load(tmp_path / "first", tmp_path / "home", "stage-1-a")
    load(tmp_path / "second", tmp_path / "home", "stage-2-b")
    shutil.rmtree(tmp_path / "first")
    shutil.rmtree(tmp_path / "second")
    assert list(json.loads((tmp_path / "home" / "teachers.json").read_text())) == ["stage-1-a", "stage-2-b"]
    for label, name, expected in (("stage-1-a", "first", first), ("stage-2-b", "second", second)):
        found = load(tmp_path / name, tmp_path / "home", label)
        np.testing.assert_array_equal(answers(found), answers(expected))


def test_what_becomes_of_the_other_run_later_is_no_matter(tmp_path):
    _, network = made(tmp_path / "other", seed=1)
    expected = answers(load(tmp_path / "other", tmp_path / "home"))
    shutil.rmtree(tmp_path / "other")
    np.testing.assert_array_equal(answers(load(tmp_path / "other", tmp_path / "home")), expected)
    made(tmp_path / "other", seed=2, model="resnet20_cifar")  # another network under the same name
    np.testing.assert_array_equal(answers(load(tmp_path / "other", tmp_path / "home")), expected)
    np.testing.assert_array_equal(expected, answers(network))


def test_a_copy_that_was_changed_is_refused(tmp_path):
    resolved, _ = made(tmp_path / "other")
    load(tmp_path / "other", tmp_path / "home")
    own = tmp_path / "home" / "checkpoints" / "stage-1-only-teacher.ckpt"
    checkpoints.write(own, build_model(resolved, load_data(resolved), 3), Position())  # whole, but another network
    with pytest.raises(TrainingError, match="is not the teacher that the stage began with"):
        load(tmp_path / "other", tmp_path / "home")


def test_a_copy_that_is_lost_is_made_again_from_the_same_teacher_only(tmp_path):
    resolved, network = made(tmp_path / "other")
    load(tmp_path / "other", tmp_path / "home")
    own = tmp_path / "home" / "checkpoints" / "stage-1-only-teacher.ckpt"
    own.unlink()
    np.testing.assert_array_equal(answers(load(tmp_path / "other", tmp_path / "home")), answers(network))
    own.unlink()
    # In the meantime the other run has gone on.
    later = build_model(resolved, load_data(resolved), 3)
    checkpoints.write(tmp_path / "other" / "checkpoints" / "last.ckpt", later, Position())
    with pytest.raises((TrainingError, UserError)):
        load(tmp_path / "other", tmp_path / "home")


def test_hashes_of_files(tmp_path):
    content = np.random.default_rng(0).bytes((1 << 20) + 12345)  # more than is read at once
    (tmp_path / "file").write_bytes(content)
    assert teachers.file_hash(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    (tmp_path / "empty").touch()
    assert teachers.file_hash(tmp_path / "empty") == hashlib.sha256().hexdigest()


@pytest.mark.parametrize("training", [False, True])
def test_a_teacher_answers_as_in_evaluation_and_gets_no_gradient(mode, tmp_path, training):
    _, network = made(tmp_path / "other")
    expected = answers(network)
    before = {p.name: p.asnumpy().copy() for p in network.get_parameters()}

    class Around(nn.Cell):
        def __init__(self):
            super().__init__()
            self.part = Teacher(network)
            self.scale = nn.Dense(10, 10)

        def construct(self, images):
            return self.scale(self.part(images)).square().sum()

    around = Around()
    around.set_train(training)
    assert around.training is training
    assert not any(cell.training for _, cell in around.part.cells_and_names())
    assert {p.name.split(".")[0] for p in around.trainable_params()} == {"scale"}
    step = ms.value_and_grad(around, None, around.trainable_params())
    step(Tensor(IMAGES))
    np.testing.assert_array_equal(around.part(Tensor(IMAGES)).asnumpy(), expected)
    after = {p.name.removeprefix("part.teacher."): p.asnumpy() for p in around.part.get_parameters()}
    for name, value in before.items():
        np.testing.assert_array_equal(after[name.removeprefix("part.teacher.")], value)


# ---- teachers that do not fit are told of before anything is written


def refused(tmp_path, capsys, plain):
    """What the command line says of a recipe that it refuses."""
    (tmp_path / "student.yaml").write_text(yaml.safe_dump(plain))
    words = ["train", "--config", tmp_path / "student.yaml", "--runs", tmp_path / "runs", "--device", "cpu", "--quiet"]
    assert cli.main([str(word) for word in words]) == 2
    assert not (tmp_path / "runs").exists()
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.fixture
def other(tmp_path):
    made(tmp_path / "other")
    return tmp_path / "other"


def test_a_teacher_of_another_number_of_classes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name, count in (("ant", 9), ("bee", 6), ("cat", 4)):
        (tmp_path / "zoo" / name).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)
            cv2.imwrite(str(tmp_path / "zoo" / name / f"{number}.png"), image)
    zoo = {"name": "image_folder", "root": str(tmp_path / "zoo"), "imbalance": {"profile": "none"}}
    _, network = made(tmp_path / "other", data=zoo)
    assert network.num_classes == 3
    message = refused(tmp_path, capsys, taught(tmp_path / "other"))
    assert f"stages.0.teacher = {tmp_path / 'other'}: was trained on 3 classes, this recipe has 10" in message


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda split: split["classes"].__setitem__(3, "three"), "class 3 is 'three' there and '3' here"),
        (lambda split: split["classes"].reverse(), "class 0 is '9' there and '0' here"),
    ],
)
def test_as_many_classes_but_others_or_in_another_order(tmp_path, other, capsys, change, text):
    edit(other / "split.json", change)
    message = refused(tmp_path, capsys, taught(other, "dive"))
    assert "was trained on other classes, or the same in another order" in message
    assert text in message


@pytest.mark.parametrize("name", ["nowhere", "nowhere/", "other/checkpoints/best.ckpt", "other/checkpoints"])
def test_a_teacher_that_is_not_there(tmp_path, other, capsys, name):
    message = refused(tmp_path, capsys, taught(f"{tmp_path}/{name}"))
    assert f"stages.0.teacher = {tmp_path}/{name}: there is no {tmp_path}" in message


@pytest.mark.parametrize(
    "break_it",
    [
        lambda run: (run / "recipe.yaml").unlink(),
        lambda run: (run / "recipe.yaml").write_text(""),
        lambda run: (run / "recipe.yaml").write_text("- [a"),
        lambda run: (run / "recipe.yaml").write_text("name: {a: b}\n"),
        lambda run: (run / "split.json").unlink(),
        lambda run: (run / "split.json").write_text("{"),
        lambda run: edit(run / "split.json", lambda split: split.pop("classes")),
        lambda run: (run / "split.json").write_text("[]"),
    ],
    ids=[
        "no recipe",
        "empty recipe",
        "no YAML",
        "no valid recipe",
        "no split",
        "half a split",
        "no classes",
        "no map",
    ],
)
def test_a_folder_that_is_no_whole_run(tmp_path, other, capsys, break_it):
    break_it(other)
    message = refused(tmp_path, capsys, taught(other))
    assert f"stages.0.teacher = {other}: " in message


def test_all_faults_of_all_stages_are_told_of_at_once(tmp_path, other, capsys):
    edit(other / "split.json", lambda split: split["classes"].pop())
    stages = [
        {"name": "one", "epochs": 1, "loss": "kd", "teacher": f"{tmp_path}/nowhere"},
        {"name": "two", "epochs": 1, "loss": "dive", "teacher": str(other)},
        {"name": "three", "epochs": 1, "loss": "kd", "teacher": "one"},
    ]
    message = refused(tmp_path, capsys, content(stages=stages))
    assert "2 faults" in message
    assert "stages.0.teacher" in message
    assert "stages.1.teacher" in message


def test_a_loss_that_takes_no_teacher(tmp_path, other, capsys):
    message = refused(tmp_path, capsys, taught(other, "ce"))
    assert f"stages.0.teacher = '{other}': ce takes no teacher; leave it out" in message
    with pytest.raises(RecipeError, match="takes no teacher"):
        recipe.from_map(taught(other, "balanced_softmax"))


def test_a_name_without_a_stroke_is_that_of_a_stage(tmp_path, other, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)  # where a run of that name lies
    message = refused(tmp_path, capsys, taught("other"))
    assert "must be the name of an earlier stage" in message
    assert "or a run folder or checkpoint, as a path with a /" in message


def test_another_size_of_images_is_allowed_with_a_warning(tmp_path, other, caplog):
    for size, warned in ((16, False), (24, True)):
        plain = taught(other)
        plain["data"]["size"] = size
        resolved = recipe.from_map(plain)
        caplog.clear()
        check.check(resolved, load_data(resolved))
        assert ("was trained at 16 pixels and sees images of 24 here" in caplog.text) == warned


def test_a_run_that_goes_on_does_not_look_for_its_teacher(tmp_path):
    resolved = recipe.from_map(taught(tmp_path / "nowhere"))
    data = load_data(resolved)
    check.check(resolved, data, resuming=True)
    with pytest.raises(RecipeError, match=r"stages\.0\.teacher"):
        check.check(resolved, data)


# ---- whole runs


def command(folder, plain, *words):
    path = folder / f"{plain['name']}.yaml"
    path.write_text(yaml.safe_dump(plain))
    arguments = ["train", "--config", path, "--runs", folder / "runs", "--device", "cpu", "--debug", "--quiet", *words]
    return cli.main([str(word) for word in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A teacher of another architecture with pixels of its own, trained in two stages."""
    folder, mode = tmp_path_factory.mktemp("teacher"), ms.get_context("mode")
    stages = [{"name": "early", "epochs": 1}, {"name": "late", "epochs": 1}]
    assert command(folder, content(name="teacher", model="resnet20_cifar", data=OWN, stages=stages)) == 0
    yield folder / "runs" / "teacher-s0"
    ms.set_context(mode=mode)


@pytest.fixture(scope="module")
def student(trained, tmp_path_factory):
    """(run folder of a student of that teacher, of an early state of it and of itself; stage -> network that taught)."""
    folder, mode = tmp_path_factory.mktemp("student"), ms.get_context("mode")
    stages = [
        {"name": "distilled", "epochs": 1, "loss": {"name": "kd", "temperature": 3}, "teacher": str(trained)},
        {"name": "flat", "epochs": 1, "loss": "dive", "teacher": f"{trained}/checkpoints/stage-1-early.ckpt"},
        {"name": "again", "epochs": 1, "loss": "kd", "teacher": "distilled", "start": "fresh"},
    ]
    with pytest.MonkeyPatch.context() as patch:
        networks, original = {}, run_train.load_teacher

        def watched(stage, *arguments, **named):
            networks[stage.label] = original(stage, *arguments, **named)
            return networks[stage.label]

        patch.setattr(run_train, "load_teacher", watched)
        assert command(folder, content(name="student", stages=stages)) == 0
    yield folder / "runs" / "student-s0", networks
    ms.set_context(mode=mode)


# Which of the teacher's checkpoints taught in which stage.
TAUGHT = {"stage-1-distilled": "last", "stage-2-flat": "stage-1-early"}


@pytest.mark.slow
def test_a_student_keeps_a_copy_of_its_teacher_and_a_record(trained, student):
    run, _ = student
    notes = json.loads((run / "teachers.json").read_text())
    assert list(notes) == ["stage-1-distilled", "stage-2-flat", "stage-3-again"]
    copies = sorted(path.name for path in (run / "checkpoints").glob("*-teacher.ckpt"))
    assert copies == [f"{label}-teacher.ckpt" for label in TAUGHT]
    for label, name in TAUGHT.items():
        own, theirs = run / "checkpoints" / f"{label}-teacher.ckpt", trained / "checkpoints" / f"{name}.ckpt"
        assert notes[label]["sha256"] == sha256(own) == sha256(theirs)
        assert notes[label]["run"] == str(trained)
        assert notes[label]["checkpoint"] == f"{name}.ckpt"
        assert notes[label]["model"]["name"] == "resnet20_cifar"
        assert {key: notes[label][key] for key in OWN} == OWN
    # An earlier stage is recorded as well; its checkpoint is in the folder already.
    first = run / "checkpoints" / "stage-1-distilled.ckpt"
    assert notes["stage-3-again"] == {"stage": "distilled", "checkpoint": first.name, "sha256": sha256(first)}


@pytest.mark.slow
def test_a_teacher_is_bit_identical_after_the_students_training(trained, student):
    run, networks = student
    sources = {label: trained / "checkpoints" / f"{name}.ckpt" for label, name in TAUGHT.items()}
    sources["stage-3-again"] = run / "checkpoints" / "stage-1-distilled.ckpt"
    for label, source in sources.items():
        expected = parameters(source)
        after = {p.name.removeprefix("teacher."): p.asnumpy() for p in networks[label].get_parameters()}
        stored = {
            name.removeprefix("teacher."): value
            for name, value in parameters(run / "checkpoints" / f"{label}.ckpt").items()
            if name.startswith("teacher.")
        }
        assert sum("moving" in name for name in after) > 10  # running statistics are among them
        assert after.keys() == stored.keys()
        for name in after:
            np.testing.assert_array_equal(after[name], expected[name], err_msg=f"{label}: {name}")
            np.testing.assert_array_equal(stored[name], expected[name], err_msg=f"{label}: {name}")
    assert not np.array_equal(stored["head.weight"], parameters(run / "checkpoints" / "last.ckpt")["head.weight"])


@pytest.mark.slow
def test_the_network_that_taught_says_what_the_other_run_said(trained, student):
    """Its logits.npz were made with its own mean and standard deviation, by a network of another depth."""
    _, networks = student
    resolved = recipe.from_map(RunFolder(trained).plain_recipe())
    test = load_data(resolved).splits.test
    network = networks["stage-1-distilled"].set_train(False)
    with np.load(trained / "logits.npz") as file:
        logits, labels = file["logits"], file["labels"]
    images = test.images.transpose(0, 3, 1, 2)
    found = np.concatenate([network(Tensor(images[i : i + 100])).asnumpy() for i in range(0, len(images), 100)])
    np.testing.assert_array_equal(test.labels, labels)
    assert_close(found, logits, factor=10)
    other = copy.copy(network)
    other.mean = Tensor(255 * np.float32([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1))  # the student's
    assert np.abs(other(Tensor(images[:100])).asnumpy() - logits[:100]).max() > 0.1  # so the pixels do matter


@pytest.mark.slow
def test_a_students_numbers_can_be_computed_again(student, capsys):
    run, _ = student
    assert cli.main(["eval", "--run", str(run), "--device", "cpu", "--debug"]) == 0
    assert "identical to result.json" in capsys.readouterr().out


RESUMED = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 96}
augment: [crop]
optimizer: {name: sgd, lr: 0.05}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: taught, epochs: 3, loss: LOSS, teacher: TEACHER}
"""
STEPS = 6  # of an epoch


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """(a run that was left alone, the folder of one that was killed, the same again): their teacher is deleted by now."""
    folder = tmp_path_factory.mktemp("killed")
    made(folder / "away" / "teacher")
    text = RESUMED.replace("TEACHER", f"{folder}/away/teacher").replace("LOSS", "{name: kd, temperature: 2}")
    for name in ("untouched", "killed"):
        (folder / name).mkdir()
        (folder / name / "tiny.yaml").write_text(text)
    done = killable(folder / "untouched")
    assert done.returncode == 0, done.stderr
    done = killable(folder / "killed", "step", STEPS + 3)
    assert done.returncode == -signal.SIGKILL, done.stderr
    shutil.copytree(folder / "killed", folder / "tampered")
    expected = parameters(folder / "away" / "teacher" / "checkpoints" / "last.ckpt")
    shutil.rmtree(folder / "away")
    return folder / "untouched" / "runs" / "tiny-s0", folder / "killed", folder / "tampered", expected


@pytest.mark.slow
def test_a_student_goes_on_without_its_teachers_folder_to_the_same_weights(killed):
    untouched, folder, _, teacher = killed
    resumed = killable(folder, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    found = folder / "runs" / "tiny-s0"
    assert f"resumed from {found}" in resumed.stdout
    assert f"step 3 of {STEPS}" in resumed.stdout
    names = {"last.ckpt", "stage-1-taught.ckpt", "stage-1-taught-teacher.ckpt"}
    for name in names:
        a, b = (parameters(run / "checkpoints" / name) for run in (found, untouched))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name}: {key}")
    for name in ("result.json", "teachers.json"):
        assert (found / name).read_text() == (untouched / name).read_text()
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (found, untouched)]
    losses = [[json.loads(line)["train_loss"] for line in own] for own in lines]
    assert losses[0] == losses[1]
    # In graph mode, too, nothing of the teacher has changed.
    last = parameters(untouched / "checkpoints" / "last.ckpt")
    taught = {name.removeprefix("teacher."): value for name, value in last.items() if name.startswith("teacher.")}
    assert taught.keys() == teacher.keys()
    for name, value in taught.items():
        np.testing.assert_array_equal(value, teacher[name], err_msg=name)


@pytest.mark.slow
def test_a_student_does_not_go_on_with_another_teacher(killed, capsys):
    *_, folder, _ = killed
    run = folder / "runs" / "tiny-s0"
    own = run / "checkpoints" / "stage-1-taught-teacher.ckpt"
    shutil.copy(run / "checkpoints" / "last.ckpt", own)  # whole, and a network of the right shape is in it
    before = (run / "metrics.jsonl").read_text(), sha256(run / "checkpoints" / "last.ckpt")
    status = cli.main(["train", "--resume", str(run), "--device", "cpu", "--debug", "--quiet"])
    message = capsys.readouterr().err
    assert status in (1, 2)
    assert f"{own} is not the teacher that the stage began with" in message
    assert not (run / "result.json").exists()
    assert ((run / "metrics.jsonl").read_text(), sha256(run / "checkpoints" / "last.ckpt")) == before
