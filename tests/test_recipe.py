from pathlib import Path

import pytest

from ms_longtail import recipe
from ms_longtail.errors import RecipeError
from ms_longtail.recipe.merge import merge

CONFIGS = Path(__file__).parent.parent / "configs"


def write(folder, name, text):
    (folder / name).write_text(text)
    return folder / name


def faults(folder, text, overrides=()):
    with pytest.raises(RecipeError) as caught:
        recipe.load(write(folder, "r.yaml", text), overrides)
    return caught.value.faults


@pytest.mark.parametrize("path", sorted(p for p in CONFIGS.rglob("*.yaml") if p.parent.name != "_base_"))
def test_every_recipe_of_the_project_loads_and_survives_a_round_trip(path):
    loaded = recipe.load(path)
    again = recipe.from_map(recipe.parse(recipe.to_yaml(loaded)))
    assert again == loaded
    assert recipe.fingerprint(again) == recipe.fingerprint(loaded)


def test_inheritance(tmp_path):
    write(
        tmp_path,
        "base.yaml",
        "model: resnet8_cifar\noptimizer: {name: sgd, lr: 0.3, momentum: 0.5}\nstages: [{name: a, epochs: 1}]",
    )
    child = write(
        tmp_path,
        "child.yaml",
        "base: base.yaml\noptimizer: {lr: 1e-1}\nstages: [{name: b, epochs: 2}, {name: c, sampler: class_balanced}]",
    )
    loaded = recipe.load(child)
    assert [s.name for s in loaded.stages] == ["b", "c"]  # lists replace
    assert loaded.stages[0].optimizer.settings["lr"] == 0.1  # maps merge; 1e-1 is a number
    assert loaded.stages[0].optimizer.settings["momentum"] == 0.5
    assert loaded.stages[1].epochs == 2  # a stage states only what changes
    assert [s.sampler.name for s in loaded.stages] == ["instance", "class_balanced"]


def test_a_new_name_replaces_the_whole_map(tmp_path):
    write(
        tmp_path,
        "base.yaml",
        "model: resnet8_cifar\noptimizer: {name: sgd, momentum: 0.5}\nstages: [{name: a, epochs: 1}]",
    )
    child = write(tmp_path, "child.yaml", "base: base.yaml\noptimizer: adam")
    assert "momentum" not in recipe.load(child).stages[0].optimizer.settings


def test_overrides_are_typed_by_the_schema(tmp_path):
    path = write(
        tmp_path,
        "r.yaml",
        "data: digits_lt\nmodel: resnet8_cifar\nstages: [{name: a, epochs: 1}, {name: b, epochs: 1}]",
    )
    loaded = recipe.load(
        path, ["optimizer.lr=5e-2", "stages.b.epochs=7", "stages.0.loss=ce", "name=12", "data.validation.group=34"]
    )
    assert loaded.stages[0].optimizer.settings["lr"] == 0.05
    assert loaded.stages[1].epochs == 7
    assert loaded.name == "12"
    assert loaded.data.validation.group == "34"


def test_all_faults_at_once_each_with_path_value_choices_and_nearest_name(tmp_path):
    text = """
model: {name: resnet8_cifar, head: linaer}
seed: true
batch: 12.5
data: {name: digits_lt, imbalance: {profil: exp}}
optimizer: {lr: -0.1}
stages:
  - {name: a, epochs: 0}
  - {name: a, epochs: 3, sampler: class_blanced}
colour: red
"""
    found = "\n".join(faults(tmp_path, text))
    for part in (
        "seed = True: input should be a valid integer",
        "batch = 12.5: input should be a valid integer",
        "model.head = 'linaer': must be one of 'linear', 'cosine', 'lws' or 'disalign'",
        "data.imbalance.profil = 'exp': unknown key (did you mean 'profile'?)",
        "optimizer.lr = -0.1: input should be greater than 0",
        "stages.0.epochs = 0: input should be greater than or equal to 1",
        "stages.1.sampler.name = 'class_blanced': unknown sampler (did you mean 'class_balanced'?); known: class_balanced, instance",
        "stages.1.name = 'a': two stages have this name",
        "colour = 'red': unknown key",
    ):
        assert part in found
    assert found.count("optimizer.lr") == 1  # inherited by two stages, said once, where it was written


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("stages: []", "stages = []: must be a list of at least one stage"),
        ("model: resnet8_cifar", "stages = missing"),
        ("stages: [{epochs: 1}]\nmodel: resnet8_cifar", "stages.0.name = missing"),
        ("stages: [{name: a/b, epochs: 1}]", "stages.0.name = 'a/b'"),
        ("stages: [{name: a, epochs: 1}]", "model = missing: name a model; known:"),
        (
            "model: resnet8_cifar\nstages: [{name: a, epochs: 1, augment: [crop, random_resized_crop]}]",
            "random_resized_crop works on single images",
        ),
        (
            "model: resnet8_cifar\nbatch: 10\naccumulate: 4\nstages: [{name: a, epochs: 1}]",
            "accumulate = 4: must divide batch 10",
        ),
        (
            "model: resnet8_cifar\nstages: [{name: a, epochs: 1}, {name: b, optimizer: adam, schedule: {span: run}}]",
            "stages.1.schedule.span",
        ),
        ("model: resnet8_cifar\nmodel: resnet20_cifar\nstages: [{name: a, epochs: 1}]", "the key 'model' stands twice"),
        ("model: [", "not valid YAML"),
        ("- 1", "must be a map"),
        ("base: [a.yaml]", "base = ['a.yaml']"),
        ("base: missing.yaml", "missing.yaml"),
        ("base: r.yaml", "in a circle"),
    ],
)
def test_single_faults(tmp_path, text, part):
    assert part in "\n".join(faults(tmp_path, text))


@pytest.mark.parametrize("assignment", ["optimizer.lr", "=3", "stages.nope.epochs=3", "seed.x=1"])
def test_bad_overrides(tmp_path, assignment):
    assert faults(tmp_path, "model: resnet8_cifar\nstages: [{name: a, epochs: 1}]", [assignment])


def test_a_cycle_over_three_files(tmp_path):
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        write(tmp_path, f"{name}.yaml", f"base: {base}.yaml")
    with pytest.raises(RecipeError, match=r"circle: .*a\.yaml -> .*b\.yaml -> .*c\.yaml -> .*a\.yaml"):
        recipe.load(tmp_path / "a.yaml")


def test_differences_and_fingerprint():
    load = lambda *s: recipe.load(CONFIGS / "digits_lt" / "default.yaml", s)  # noqa: E731
    first, second = load(), load("stages.2.optimizer.lr=0.3")
    assert recipe.differences(first.plain, second.plain) == ["stages.2.optimizer.lr: 0.1 -> 0.3"]
    assert recipe.fingerprint(first) != recipe.fingerprint(second)
    assert recipe.fingerprint(first) == recipe.fingerprint(load("workers=1", "checkpoint.keep=5"))


@pytest.mark.parametrize(
    ("assignment", "without"),
    [
        ("epochs=2", True),
        ("sampler=reversed", False),  # the first stage takes it
        ("optimizer.lr=0.05", False),
        ("batch=16", False),
        ("schedule=constant", True),
        ("class_weights=none", False),
        ("mixing=none", False),
        ("contrast=none", False),
        ("second_sampler=none", False),
        ("objective=classification", False),
        ("freeze=none", False),
        ("stages.a.epochs=2", False),
    ],
)
def test_a_setting_that_every_stage_overrides_is_told(assignment, without, caplog):
    stages = [
        {"name": "a", "epochs": 1, "schedule": "cosine"},
        {"name": "b", "epochs": 1, "sampler": "class_balanced", "schedule": "cosine"},
    ]
    content = {"name": "x", "data": "digits_lt", "model": "resnet8_cifar", "optimizer": "sgd", "stages": stages}
    recipe.from_map(content, [assignment])
    assert ("has no effect: every stage says its own" in caplog.text) == without


def test_a_packed_set_keeps_what_is_said_of_the_images():
    own = {
        "size": 64,
        "mean": [0.3, 0.3, 0.3],
        "validation": {"share": 0.1},
        "imbalance": {"factor": 10, "profile": "exp"},
    }
    data = {"name": "image_list", "train_list": "a.txt", "test_list": "b.txt", "root": "/images", **own}
    base = {
        "name": "x",
        "data": data,
        "model": "resnet8_cifar",
        "optimizer": "sgd",
        "stages": [{"name": "a", "epochs": 1}],
    }
    packed = {"name": "packed", "root": "/packed"}
    written = recipe.from_map(merge(base, {"data": packed})).plain["data"]
    said = recipe.from_map(base, ["data.name=packed", "data.root=/packed"]).plain["data"]
    assert written == said
    assert {key: said[key] for key in ("name", "root", "size", "mean")} == packed | {"size": 64, "mean": [0.3] * 3}
    assert (said["validation"]["share"], said["imbalance"]["factor"]) == (0.1, 10)
    assert "train_list" not in said
    other = merge(base, {"data": {"name": "image_folder", "root": "/other"}})["data"]
    assert other == {"name": "image_folder", "root": "/other"}
