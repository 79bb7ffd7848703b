"""Mixing, class activation maps and the starts of stages in whole runs: killed and resumed, with two workers, and refused."""

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
from mindspore import Tensor
from test_resume import HERE, kill_and_resume, left_alone, parameters, run

from ms_longtail import recipe
from ms_longtail.cli import main
from ms_longtail.registry import MODELS
from ms_longtail.run import build, dataset
from ms_longtail.run.handover import load_weights

RECIPE = """
name: tiny
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}, validation: {share: 0.2}}
model: resnet8_cifar
batch: 16
sampler: {name: instance, num_samples: 80}
augment: [{name: crop, padding: 2}]
optimizer: {name: sgd, lr: 0.02}
checkpoint: {every_minutes: 0.00001, keep: 2}
stages:
  - {name: first, epochs: 2, mixing: remix, second_sampler: reversed}
  - name: second
    epochs: 2
    start: best
    mixing: ricap
    second_sampler: none
    sampler: {name: class_balanced, num_samples: 80}
    augment: [{name: cam, transforms: [translate, rotate, scale]}, {name: crop, padding: 2}]
  - {name: third, epochs: 1, mixing: {name: manifold_mixup, layer: layer2}}
"""
STEPS = 5  # of an epoch
MAPS = ("stage-2-second.npy", "stage-3-third.npy")


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    return left_alone(tmp_path_factory, RECIPE)


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_killed_and_resumed(untouched, tmp_path, lost):
    """The same weights to the last bit, also where the maps of the stage have to be made again."""

    def lose(found):
        if lost:
            shutil.rmtree(found / "maps")

    kills = [(3 * STEPS + 2), STEPS] if lost else [STEPS + 3, 2 * STEPS - 1]  # the last in stage three, or in stage two
    found = kill_and_resume(tmp_path, RECIPE, *(("step", steps) for steps in kills), between=lose)
    for path in sorted((untouched / "checkpoints").glob("*.ckpt")):
        if path.name.startswith("last-"):
            continue
        a, b = parameters(found / "checkpoints" / path.name), parameters(path)
        assert a.keys() == b.keys()
        for key in b:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{path.name}: {key}")
    for name in MAPS[1:] if lost else MAPS:  # maps of a stage that is over are not made again
        np.testing.assert_array_equal(np.load(found / "maps" / name), np.load(untouched / "maps" / name))
    assert (found / "maps" / MAPS[0]).is_file() != lost


def loaded_run(folder):
    plain = recipe.from_map(__import__("yaml").safe_load((folder / "recipe.yaml").read_text()))
    return plain, dataset.load_data(plain)


@pytest.mark.slow
def test_stored_maps_are_those_of_the_weights_the_stage_starts_with(untouched):
    """Against float64 from the feature map and the classifier's row of the true class, to one grey level."""
    plain, data = loaded_run(untouched)
    for name, start in zip(MAPS, ("stage-1-first-best", "stage-2-second"), strict=True):
        stored = np.load(untouched / "maps" / name).astype(np.float64)
        model = build.build_model(plain, data)
        load_weights(model, untouched / "checkpoints" / f"{start}.ckpt")
        model.set_train(False)
        images = data.splits.train.images
        features = model.feature_map(Tensor(images.transpose(0, 3, 1, 2))).asnumpy().astype(np.float64)
        weight = model.head.weight.asnumpy().astype(np.float64)
        assert stored.shape == (len(images), 4, 4)
        for i, label in enumerate(data.splits.train.labels):
            expected = np.zeros(features.shape[2:])
            for k in range(features.shape[1]):
                expected += weight[label, k] * features[i, k]
            expected = 255 * (expected - expected.min()) / (expected.max() - expected.min())
            assert np.abs(stored[i] - expected).max() <= 1.0
        assert stored.min() == 0
        assert stored.max() == 255


@pytest.mark.slow
def test_best_of_the_stage_before(untouched):
    """`start: best` takes the best epoch of the stage before, which best.ckpt of the run need not be."""
    lines = [json.loads(line) for line in (untouched / "metrics.jsonl").read_text().splitlines()]
    scores = [line["validation"]["balanced"] for line in lines if line["name"] == "first"]
    best = max(epoch for epoch, score in enumerate(scores, 1) if score == max(scores))
    saved = parameters(untouched / "checkpoints" / "stage-1-first-best.ckpt")
    last = parameters(untouched / "checkpoints" / "stage-1-first.ckpt")
    same = all(np.array_equal(saved[key], last[key]) for key in last)
    assert same == (best == 2)


@pytest.mark.slow
@pytest.mark.distributed
def test_two_workers_end_with_the_same_maps(tmp_path):
    """Each maps its share; together they are those of one process, and so are the labels they train on."""
    text = RECIPE.replace("remix, second_sampler: reversed", "mixup").replace(", validation: {share: 0.2}", "")
    text = text.replace("    start: best\n", "").replace("manifold_mixup, layer: layer2", "cutmix")
    (tmp_path / "tiny.yaml").write_text(text + "loss: cs_ce\n")
    alone = run(tmp_path)
    assert alone.returncode == 0, alone.stderr
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(HERE.parent)}
    script = HERE.parent / "run_distribute.sh"
    command = ["bash", script, tmp_path / "tiny.yaml", "2", "--runs", tmp_path / "two", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    one, two = (folder / "tiny-s0" for folder in (tmp_path / "runs", tmp_path / "two"))
    for name in MAPS:
        a, b = (np.load(folder / "maps" / name) for folder in (one, two))
        assert a.shape == b.shape == (len(a), 4, 4)
        assert a.std() > 10
    losses = [
        [json.loads(line)["train_loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    # Batch statistics are each worker's own, so the runs drift apart; the first epoch shows that the mixtures agree.
    np.testing.assert_allclose(losses[1][0], losses[0][0], rtol=0.1)


CAM = "{name: cam, transforms: [translate]}"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (f"[{{name: a, epochs: 1, augment: [{CAM}]}}]", "cam needs a trained network to find the object in an image"),
        (
            f"[{{name: a, epochs: 1}}, {{name: b, epochs: 1, start: fresh, schedule: {{span: stage}}, augment: [{CAM}]}}]",
            "stages.1.augment = ['cam']: cam needs a trained network",
        ),
        (
            f"[{{name: a, epochs: 1}}, {{name: b, epochs: 1, augment: [crop, {CAM}]}}]",
            "cam works on the whole image, as it was read, and must come first",
        ),
        (
            "[{name: a, epochs: 1}, {name: b, epochs: 1, augment: [{name: cam, transforms: [flop]}]}]",
            "stages.1.augment.0.transforms.0 = 'flop': must be one of 'flip', 'translate', 'rotate' or 'scale'",
        ),
        ("[{name: a, epochs: 1, mixing: mixpu}]", "unknown mixing (did you mean 'mixup'?)"),
        (
            "[{name: a, epochs: 1, mixing: {name: manifold_mixup, layer: layer4}}]",
            "layer 'layer4': the model has no such layer to mix at (did you mean 'layer3'?); there are: layer1, layer2",
        ),
        ("[{name: a, epochs: 1, mixing: {name: mixup, alpha: 0}}]", "stages.0.mixing.alpha = 0"),
        ("[{name: a, epochs: 1, second_sampler: reversed}]", "nothing is mixed with its images"),
        (
            "[{name: a, epochs: 1, mixing: mixup, second_sampler: {name: reversed, num_samples: 7}}]",
            "num_samples = 7: must be that of the first sampler, 320",
        ),
        (
            f"[{{name: a, epochs: 1}}, {{name: b, epochs: 1, augment: [{CAM}, {CAM}]}}]",
            "stages.1.augment.1 = 'cam': stands twice; both would do the same",
        ),
        ("[{name: a, epochs: 1, start: best}]", "stages.0.start = 'best': there is no stage before this one"),
        (
            "[{name: a, epochs: 1}, {name: b, epochs: 1, start: best}]",
            "stages.1.start = 'best': other weights cannot go on with the optimizer's state; use schedule.span: stage",
        ),
        (
            "[{name: a, epochs: 1, schedule: {span: stage}}, {name: b, epochs: 1, start: best}]",
            "the best epoch is chosen on a validation part, and there is none",
        ),
        (
            "[{name: a, epochs: 1, start: lost}]",
            "must be one of last, best, fresh, or the path of a checkpoint, FILE.ckpt",
        ),
        ("[{name: a, epochs: 1, start: nowhere.ckpt}]", "stages.0.start = nowhere.ckpt: there is no such file"),
    ],
)
def test_refused_before_anything_starts(stages, message, tmp_path, capsys):
    config = HERE.parent / "configs" / "digits_lt" / "ce.yaml"
    status = main(["train", "--config", str(config), "--runs", str(tmp_path), "--set", f"stages={stages}"])
    assert status == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_fault_is_reported_once_and_where_it_is(tmp_path, capsys):
    """The stage after a faulty one is not said to have nothing before it."""
    config = HERE.parent / "configs" / "digits_lt" / "default.yaml"
    change = "stages.represent.mixing={name: mixup, alpha: 0}"
    assert main(["train", "--config", str(config), "--runs", str(tmp_path), "--set", change]) == 2
    error = capsys.readouterr().err
    assert "stages.0.mixing.alpha = 0" in error
    assert "1 fault" in error
    assert "cam" not in error


def test_maps_that_could_show_nothing(tmp_path, capsys):
    config = HERE.parent / "configs" / "digits_lt" / "default.yaml"
    assert main(["train", "--config", str(config), "--runs", str(tmp_path), "--set", "model=resnet10"]) == 2
    assert "the model's feature map has 1 x 1 places at data.size 16" in capsys.readouterr().err


def test_a_class_without_images_is_named(tmp_path, capsys):
    from PIL import Image

    for name, count in (("ants", 4), ("bees", 0), ("cats", 3)):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "test" / name).mkdir(parents=True)
        for number in range(count):
            for part in ("train", "test"):
                Image.new("RGB", (32, 32)).save(tmp_path / part / name / f"{number}.png")
    assert main(["train", "--data", str(tmp_path), "--runs", str(tmp_path / "runs"), "--dry-run"]) == 2
    assert "bees" in capsys.readouterr().err


def test_more_images_than_a_class_has(tmp_path, capsys):
    config = HERE.parent / "configs" / "digits_lt" / "ce.yaml"
    change = ["data.imbalance.n_max=130", "data.imbalance.factor=1"]
    assert main(["train", "--config", str(config), "--runs", str(tmp_path), "--set", *change]) == 2
    assert "asks for 130 images of class" in capsys.readouterr().err


class Plain:
    """A model without what class activation maps need."""

    def __init__(self, network):
        self.head, self.network = network.head, network


def test_a_model_without_a_feature_map(tmp_path, capsys):
    def bare(*, num_classes: int, seed: int = 0, mean=(0, 0, 0), std=(1, 1, 1)):
        return Plain(MODELS.get("resnet8_cifar")(num_classes=num_classes, seed=seed))

    config = HERE.parent / "configs" / "digits_lt" / "ce.yaml"
    stages = f"stages=[{{name: a, epochs: 1}}, {{name: b, epochs: 1, augment: [{CAM}]}}]"
    with MODELS.temporary("bare", bare):
        status = main(["train", "--config", str(config), "--runs", str(tmp_path), "--set", "model=bare", stages])
    assert status == 2
    assert "class activation maps need a model with a `feature_map`" in capsys.readouterr().err


@pytest.mark.slow
def test_a_checkpoint_of_another_network_and_a_right_one(untouched, tmp_path, capsys):
    config = HERE.parent / "configs" / "digits_lt" / "ce.yaml"
    start = untouched / "checkpoints" / "stage-3-third.ckpt"
    stages = f"stages=[{{name: a, epochs: 1, start: {start}, schedule: {{warmup_epochs: 0}}, augment: [{CAM}]}}]"
    arguments = ["train", "--config", str(config), "--runs", str(tmp_path), "--quiet", "--set", stages]
    assert main(arguments) == 2
    assert (
        "was trained with data.mean [0.4914, 0.4822, 0.4465], this recipe has [0.3, 0.3, 0.3]"
        in capsys.readouterr().err
    )
    arguments += ["data.mean=[0.4914,0.4822,0.4465]", "data.std=[0.2023,0.1994,0.2010]"]
    assert main([*arguments, "model=resnet20_cifar"]) == 2
    assert "is of another network: backbone.layer1.1.conv1.weight" in capsys.readouterr().err
    assert main([*arguments, "optimizer.lr=1e-9"]) == 0
    kept = parameters(tmp_path / "digits_lt_ce-s0" / "checkpoints" / "last.ckpt")
    weights = parameters(start)
    np.testing.assert_allclose(kept["head.weight"], weights["head.weight"], atol=1e-5)


@pytest.mark.slow
def test_a_start_file_is_needed_once(untouched, tmp_path):
    """A run keeps its own copy: it goes on, and maps its images again, when the file is gone."""
    file = tmp_path / "weights.ckpt"
    shutil.copy(untouched / "checkpoints" / "stage-3-third.ckpt", file)
    head = RECIPE[: RECIPE.index("stages:")]
    stages = f"stages: [{{name: a, epochs: 1, start: {file}, augment: [{CAM}]}}]"
    (tmp_path / "tiny.yaml").write_text(head + stages)
    assert run(tmp_path, "step", 3).returncode == -signal.SIGKILL
    file.unlink()
    maps = tmp_path / "runs" / "tiny-s0" / "maps" / "stage-1-a.npy"
    before = np.load(maps)
    maps.unlink()
    resumed = run(tmp_path, "none", 0, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    np.testing.assert_array_equal(np.load(maps), before)
