"""Recipes with views, contrastive losses and experts: what they say survives, what they say wrongly ends in one line."""

import copy
import hashlib
import json
from pathlib import Path

import cv2
import mindspore as ms
import numpy as np
import pytest
import yaml

from ms_longtail import cli, recipe, runtime
from ms_longtail.errors import RecipeError, UserError
from ms_longtail.run import show, show_batch, show_cam
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder, to_resume
from ms_longtail.run.plan import describe, make_plan

CONFIGS = Path(__file__).parent.parent / "configs"
SHARED = """
data: {name: digits_lt, size: 16, imbalance: {profile: exp, n_max: 24, factor: 8}}
model: resnet8_cifar
batch: 16
augment: [{name: crop, padding: 2}]
optimizer: {name: sgd, lr: 0.05}
"""
TEXTS = {
    "bcl": """
base: shared.yaml
model: {name: resnet8_cifar, head: cosine, scale: 30}
loss: balanced_softmax
objective: {name: contrastive, loss_weight: 2.0, contrast_weight: 0.6, hidden_size: 16, embedding_size: 8}
contrast: {name: balanced_supcon, temperature: 0.2}
views:
  - [{name: random_resized_crop, scale_min: 0.5}, {name: sim_augment, blur: 0.0}]
  - [{name: random_resized_crop, scale_min: 0.4}, {name: cutout, length: 6, fill: [9, 8, 7]}]
stages:
  - {name: one, epochs: 1}
  - {name: two, epochs: 1}
""",
    "paco": """
base: shared.yaml
loss: balanced_softmax
objective: {name: momentum_contrast, hidden_size: 16, embedding_size: 8, queue_size: 32}
contrast: paco
views: [[{name: random_resized_crop, scale_min: 0.5}, sim_augment]]
stages: [{name: one, epochs: 1}]
""",
    "ride": """
base: shared.yaml
model: {name: resnet8_cifar, head: cosine, experts: 3}
loss: ldam
objective: experts
stages:
  - {name: one, epochs: 1}
  - {name: reweight, epochs: 1, class_weights: {name: effective_number, beta: 0.999}}
""",
    "supcon": """
base: shared.yaml
objective: {name: contrastive, loss_weight: 0, hidden_size: 16, embedding_size: 8}
contrast: supcon
views: [[cutout], [{name: crop, padding: 1}]]
stages:
  - {name: represent, epochs: 1}
  - {name: classify, epochs: 1, objective: classification, views: [], contrast: none, freeze: backbone}
""",
}


@pytest.fixture(scope="module", autouse=True)
def mode():
    before = ms.get_context("mode")
    yield
    ms.set_context(mode=before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("recipes")
    (found / "shared.yaml").write_text(SHARED)
    for name, text in TEXTS.items():
        (found / f"{name}.yaml").write_text(text)
    return found


def plain_of(folder, name="bcl", *words):
    return recipe.load(folder / f"{name}.yaml", words).plain


# ---- what is said survives


@pytest.mark.parametrize("name", TEXTS)
def test_a_round_trip_keeps_everything(folder, name):
    loaded = recipe.load(folder / f"{name}.yaml")
    text = recipe.to_yaml(loaded)
    assert "&id" not in text
    again = recipe.from_map(recipe.parse(text))
    assert again == loaded
    assert again.plain == loaded.plain
    assert recipe.to_yaml(again) == text
    assert recipe.fingerprint(again) == recipe.fingerprint(loaded)


def test_views_and_contrast_are_written_complete(folder):
    stage = yaml.safe_load(recipe.to_yaml(recipe.load(folder / "bcl.yaml")))["stages"][0]
    assert [[op["name"] for op in view] for view in stage["views"]] == [
        ["random_resized_crop", "sim_augment"],
        ["random_resized_crop", "cutout"],
    ]
    assert stage["views"][1][1] == {"name": "cutout", "length": 6, "holes": 1, "p": 1.0, "fill": [9, 8, 7]}
    assert stage["views"][0][0]["scale_min"] == 0.5
    assert stage["contrast"]["temperature"] == 0.2
    assert stage["contrast"]["form"] == "L1"
    given = {"class_counts", "views", "batch", "seed", "twin", "contrast"}
    assert not given & set(stage["objective"])  # what the builder supplies is no setting
    default = plain_of(folder, "supcon")["stages"][0]["views"][0][0]
    assert default["fill"] == [125, 123, 114]


def test_overrides_reach_into_views_and_contrast(folder):
    words = [
        "views.0.sim_augment.blur=0.5", "views.1.1.length=3", "views.1.cutout.fill=[1, 2, 3]",
        "contrast.temperature=0.07", "contrast.anchor_mean=class",
    ]  # fmt: skip
    stages = plain_of(folder, "bcl", *words)["stages"]
    for stage in stages:
        assert stage["views"][0][1]["blur"] == 0.5
        assert stage["views"][1][1]["length"] == 3
        assert stage["views"][1][1]["fill"] == [1, 2, 3]
        assert (stage["contrast"]["temperature"], stage["contrast"]["anchor_mean"]) == (0.07, "class")
    stages = plain_of(folder, "bcl", "views.1=[flip]", "stages.two.contrast.temperature=1")["stages"]
    assert [[op["name"] for op in view] for view in stages[0]["views"]][1] == ["flip"]
    assert [stage["contrast"]["temperature"] for stage in stages] == [0.2, 1.0]
    stage = plain_of(folder, "bcl", "views=[[flip], [crop], []]", "contrast=supcon")["stages"][0]
    assert [[op["name"] for op in view] for view in stage["views"]] == [["flip"], ["crop"], []]
    assert stage["contrast"] == {"name": "supcon", "temperature": 0.1, "anchor_mean": "anchor"}  # another name, anew


def test_an_override_of_one_view_leaves_the_other_that_a_file_says_by_an_anchor(folder):
    text = TEXTS["supcon"].replace("[[cutout], [{name: crop, padding: 1}]]", "[&v [{name: cutout, length: 6}], *v]")
    assert "*v" in text
    (folder / "anchor.yaml").write_text(text)
    views = plain_of(folder, "anchor", "views.0.cutout.length=3")["stages"][0]["views"]
    assert [view[0]["length"] for view in views] == [3, 6]


def test_stages_inherit_views_and_contrast_and_can_turn_them_off(folder):
    same = recipe.load(folder / "bcl.yaml").stages
    assert same[1].views == same[0].views
    assert same[1].contrast == same[0].contrast
    first, second = recipe.load(folder / "supcon.yaml").stages
    assert len(first.views) == 2
    assert (second.views, second.contrast.name, second.objective.name) == ((), "none", "classification")
    with pytest.raises(RecipeError) as caught:  # what is not turned off is there
        recipe.load(folder / "bcl.yaml", ["stages.two.objective=classification"])
    assert len(caught.value.faults) == 2
    assert caught.value.faults[0].startswith("stages.1.views = 2 further views: classification reads the first alone")
    assert caught.value.faults[1].startswith("stages.1.contrast = 'balanced_supcon': classification compares no views")
    changed = recipe.load(folder / "bcl.yaml", ["stages.two.views=[[], [flip]]"]).stages
    assert [len(view) for view in changed[0].views] == [2, 2]
    assert [len(view) for view in changed[1].views] == [0, 1]  # a list replaces


def test_a_child_recipe_replaces_views_and_keeps_the_contrasts_settings(folder):
    (folder / "child.yaml").write_text("base: bcl.yaml\nviews: [[], []]\ncontrast: {anchor_mean: class}\n")
    stage = recipe.load(folder / "child.yaml").stages[0]
    assert stage.views == ((), ())
    assert stage.contrast.settings["temperature"] == 0.2
    assert stage.contrast.settings["anchor_mean"] == "class"


# ---- runs from before there were such settings

BEFORE = {
    "name": "before",
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}},
    "model": "resnet8_cifar",
    "batch": 16,
    "augment": [{"name": "crop", "padding": 2}],
    "optimizer": {"name": "sgd", "lr": 0.05},
    "stages": [
        {"name": "one", "epochs": 1},
        {"name": "two", "epochs": 2, "sampler": "class_balanced", "mixing": "mixup"},
        {"name": "three", "epochs": 2, "mixing": "none", "freeze": "backbone", "reset": "head"},
    ],
}
# What the commit before the first one with views (1ec8543) says of this recipe. A new setting with a default must not change it:
# checkpoints hold it, so runs that are under way could not go on.
FINGERPRINT = "8a104a12d43d1468a50afde508479f7245a880859aedc738139c9bec533355c8"


def without_new_keys(plain):
    old = copy.deepcopy(plain)
    for key in ("experts", "expert_width", "scale"):
        old["model"].pop(key)
    for stage in old["stages"]:
        assert (stage.pop("views"), stage.pop("contrast")) == ([], {"name": "none"})
    return old


def test_the_fingerprint_of_a_recipe_without_the_new_keys_is_what_it_was():
    loaded = recipe.from_map(BEFORE)
    assert recipe.fingerprint(loaded) == FINGERPRINT
    old = without_new_keys(loaded.plain)
    assert recipe.essence(old) == recipe.essence(loaded.plain)
    digest = hashlib.sha256(json.dumps(recipe.essence(old), sort_keys=True).encode()).hexdigest()
    assert digest == FINGERPRINT
    assert recipe.fingerprint(recipe.from_map(old)) == FINGERPRINT


def test_an_old_run_folder_is_a_run_of_the_same_recipe(tmp_path, folder):
    loaded = recipe.from_map(BEFORE)
    home = RunFolder(tmp_path / "before-s0")
    home.path.mkdir()
    (home.path / "recipe.yaml").write_text(yaml.safe_dump(without_new_keys(loaded.plain)))
    home.require_same_recipe(loaded)
    assert to_resume(tmp_path, loaded).path == home.path
    other = recipe.from_map(BEFORE, ["model.scale=30", "model.head=cosine"])
    with pytest.raises(UserError, match=r"model\.scale: None -> 30"):
        home.require_same_recipe(other)
    viewed = recipe.load(folder / "bcl.yaml")
    with pytest.raises(UserError, match=r"differs in"):
        home.require_same_recipe(viewed)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bcl", ["views.0.sim_augment.blur=0.1"]),
        ("bcl", ["views=[[], []]"]),
        ("bcl", ["views=[[], [], []]"]),
        ("bcl", ["contrast.temperature=0.3"]),
        ("bcl", ["contrast=supcon"]),
        ("bcl", ["model.scale=29"]),
        ("bcl", ["stages.two.views=[[], []]"]),
        ("bcl", ["objective.embedding_size=9"]),
        ("paco", ["objective.momentum=0.5"]),
        ("ride", ["model.experts=2"]),
        ("ride", ["model.expert_width=0.5"]),
        ("ride", ["objective.diversity=0"]),
    ],
)
def test_what_changes_the_weights_changes_the_fingerprint(folder, name, words):
    path = folder / f"{name}.yaml"
    first, second = recipe.load(path), recipe.load(path, words)
    assert recipe.fingerprint(first) != recipe.fingerprint(second)
    assert recipe.differences(recipe.essence(first.plain), recipe.essence(second.plain))


def test_the_order_of_views_counts(folder):
    a = recipe.load(folder / "bcl.yaml", ["views=[[flip], []]"])
    b = recipe.load(folder / "bcl.yaml", ["views=[[], [flip]]"])
    assert recipe.fingerprint(a) != recipe.fingerprint(b)


def test_the_width_of_experts_that_are_not_there_changes_nothing():
    a, b = recipe.from_map(BEFORE), recipe.from_map(BEFORE, ["model.expert_width=0.5"])
    assert recipe.fingerprint(a) == recipe.fingerprint(b)


def test_a_model_setting_that_is_none_counts_as_before():
    plain = recipe.from_map(BEFORE).plain
    plain["model"] = plain["model"] | {"weights": None}
    assert "weights" in recipe.essence(plain)["model"]


# ---- mistakes

TEACHER = "stages=[{name: one, epochs: 1}, {name: two, epochs: 1, start: fresh, teacher: one}]"
PACO = ["contrast=paco", "objective.queue_size=32"]
MISTAKES = [
    # views and contrast without an objective for them, and the other way round
    ("bcl", ["objective=classification", "contrast=none"], "views = 2 further views: classification reads the first alone", 2),
    ("bcl", ["objective=classification", "views=[]"], "contrast = 'balanced_supcon': classification compares no", 2),
    ("bcl", ["contrast=none"], "contrast = 'none': contrastive needs a contrastive loss; known:", 2),
    ("bcl", ["mixing=mixup"], "mixing = 'mixup': contrastive compares images that have one label", 2),
    ("paco", ["mixing=cutmix"], "mixing = 'cutmix': momentum_contrast compares images that have one label", 1),
    ("paco", ["contrast=none"], "contrast = 'none': momentum_contrast needs a contrastive loss", 1),
    ("ride", ["views=[[flip]]"], "views = 1 further view: experts reads the first alone", 2),
    ("ride", ["contrast=supcon"], "contrast = 'supcon': experts compares no views", 2),
    # too few views
    ("bcl", ["contrast=supcon", "views=[]"], "1 view, of which 0 are contrasted", 2),
    ("bcl", ["contrast=supcon", "views=[[flip]]"], "2 views, of which 1 are contrasted", 2),
    ("bcl", ["contrast=supcon", "views=[]", "objective.contrasted=all"], "1 view, of which 1 are contrasted", 2),
    ("bcl", ["contrast=psc", "views=[]"], "1 view, of which 0 are contrasted: the contrastive loss needs 1", 2),
    # a list of views that is none
    ("bcl", ["views=[[flip], [flipp]]"], "views.1.0.name = 'flipp': unknown augmentation (did you mean 'flip'?)", 1),
    ("bcl", ["views=[[flip], [crop, cutout, crop]]"], "views.1.2 = 'crop': stands twice", 1),
    ("bcl", ["views=[[flip, random_resized_crop], []]"], "views.0 = ['flip', 'random_resized_crop']: random_resized", 1),
    ("bcl", ["views=[[crop, image_trans], []]"], "views.0 = ['crop', 'image_trans']: image_trans works on the whole", 1),
    ("bcl", ["views=flip"], "views = 'flip': must be a list of further views, each a list of augmentations", 1),
    ("bcl", ["views=null"], "views = None: must be a list of further views", 1),
    ("bcl", ["views=3"], "views = 3: must be a list of further views", 1),
    ("bcl", ["views={flip: 1}"], "views = {'flip': 1}: must be a list of further views", 1),
    ("bcl", ["views=[flip, crop]"], "views.0 = 'flip': must be a list of augmentations, [] for none", 2),
    ("bcl", ["views=[[], null]"], "views.1 = None: must be a list of augmentations", 1),
    ("bcl", ["views=[[], [null]]"], "views.1.0 = None: must be the name of a", 1),
    ("bcl", ["views=[[], [[flip]]]"], "views.1.0 = ['flip']: must be the name of a", 1),
    ("bcl", ["views.1.cutout.length=0"], "views.1.1.length = 0: input should be greater than or equal to 1", 1),
    ("bcl", ["views.1.cutout.fill=[1, 2]"], "views.1.1.fill", 2),
    ("bcl", ["views.1.cutout.lenght=4"], "views.1.1.lenght = 4: unknown key (did you mean 'length'?)", 1),
    ("bcl", ["views.0.random_resized_crop.seed=4"], "views.0.0.seed = 4: unknown key", 1),
    ("bcl", ["views.2=[flip]"], "--set views.2 = ['flip']: no entry '2'", 1),
    ("bcl", ["stages.two.views=[[flip], [nothing]]"], "stages.1.views.1.0.name = 'nothing'", 1),
    # what a contrastive loss refuses
    ("bcl", ["contrast.temperature=0"], "contrast.temperature = 0: input should be greater than 0", 1),
    ("bcl", ["contrast.temperature=-1"], "contrast.temperature = -1: input should be greater than 0", 1),
    ("bcl", ["contrast.temperature=x"], "contrast.temperature = 'x': input should be a valid number", 1),
    ("bcl", ["contrast.temperature=.nan"], "contrast.temperature = nan", 1),
    ("bcl", ["contrast.temperature=true"], "contrast.temperature = True", 1),
    ("bcl", ["contrast.anchor_mean=classes"], "contrast.anchor_mean = 'classes': must be one of", 1),
    ("bcl", ["contrast=supcom"], "contrast.name = 'supcom': unknown", 1),
    ("bcl", ["contrast=null"], "contrast = None: must be the name of a", 1),
    ("bcl", ["contrast.class_counts=[1, 2]"], "contrast.class_counts = [1, 2]: unknown key", 1),
    ("bcl", ["contrast.form=L3", "contrast.complement=false"], "L3 has the prototypes alone in its denominator", 2),
    ("bcl", ["contrast.form=L2", "contrast.averaging=false"], "form L2 averages by its formula", 2),
    ("bcl", ["contrast=paco"], "contrastive compares views; set contrast: supcon, balanced_supcon or psc", 2),
    ("bcl", ["objective.contrast_weight=0"], "objective.contrast_weight = 0: input should be greater than 0", 1),
    ("bcl", ["objective.decay=cosine"], "objective.decay = 'cosine': must be one of", 1),
    ("bcl", ["objective.views=3"], "objective.views = 3: unknown key", 1),
    # momentum contrast
    ("paco", ["objective.queue_size=15"], "queue_size = 15: must hold a batch, which has 16 images", 1),
    ("paco", ["stages.one.batch=64"], "queue_size = 32: must hold a batch, which has 64 images", 1),
    ("paco", ["views=[]"], "1 view: momentum_contrast has one for queries and one for keys", 1),
    ("paco", ["views=[[flip], []]"], "3 views: momentum_contrast has one for queries and one for keys", 1),
    ("paco", ["class_weights=effective_number"], "no class_weights", 1),
    ("paco", ["loss=focal"], "set loss: balanced_softmax, logit_adjustment or ce", 1),
    ("paco", ["contrast=supcon"], "set contrast: paco", 1),
    ("paco", ["objective.momentum=1"], "objective.momentum = 1: input should be less than 1", 1),
    ("paco", ["objective.queue_size=0"], "objective.queue_size = 0: input should be greater than 0", 1),
    # experts and the network
    ("ride", ["model.experts=1"], "experts trains a network of several; set model.experts: 3, say", 2),
    ("ride", ["model.branches=2"], "model.experts = 3: a network has experts or branches", 1),
    ("ride", ["model.head=lws", "loss=ce"], "model.head = 'lws': corrects one classifier", 1),
    ("ride", ["model.head=disalign", "loss=ce"], "model.head = 'disalign': corrects one classifier", 1),
    ("ride", ["model.scale=30"], "loss.name = 'ldam': multiplies the cosines by a scale of its own", 2),
    ("ride", ["model.scale=30", "model.head=linear", "loss=ce"], "model.scale = 30", 1),
    ("ride", ["model.scale=0"], "model.scale = 0: input should be greater than 0", 1),
    ("ride", ["model.expert_width=0"], "model.expert_width = 0: input should be greater than 0", 1),
    ("ride", ["model.expert_width=2"], "model.expert_width = 2: input should be less than or equal to 1", 1),
    ("ride", ["model.experts=0"], "model.experts = 0: input should be greater than or equal to 1", 1),
    ("ride", ["model.experts=2.5"], "model.experts = 2.5", 1),
    ("ride", ["objective.temperature=0"], "objective.temperature = 0: input should be greater than 0", 1),
    ("ride", ["mixing=mixup"], "mixing = ", 2),  # `Mixture` would take the place of the objective
    # teachers
    ("ride", ["objective=classification", TEACHER], "teacher = 'one': ldam takes no teacher; leave it out", 1),
    ("bcl", [TEACHER], "teacher = 'one': balanced_softmax takes no teacher", 1),
    ("paco", [TEACHER], "teacher = 'one': balanced_softmax takes no teacher", 1),
    ("ride", [TEACHER.replace("teacher: one", "teacher: noe")], "teacher = 'noe': must be the name of an earlier", 1),
    # objectives that read two orders
    ("bcl", ["objective=bilateral", "model={name: resnet8_cifar, branches: 2}", "second_sampler=reversed",
             "contrast=none"], "views = 2 further views: bilateral reads the first alone", 2),
    ("bcl", ["objective=meta_sampling", "second_sampler=class_balanced", "contrast=none", "freeze=backbone",
             "model.head=linear", "model.scale=1"], "views = 2 further views: meta_sampling reads the first alone", 2),
    ("paco", ["second_sampler=reversed"], "second_sampler = 'reversed': nothing is mixed with its images", 1),
    # in a view as in `augment`
    ("bcl", ["views=[[cam], []]"], "cam needs a trained network", 1),
    ("bcl", ["views.0.random_resized_crop.scale_min=0.9", "views.0.random_resized_crop.scale_max=0.5"],
     "scale_min 0.9 is larger than scale_max 0.5", 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "message", "count"), MISTAKES, ids=lambda v: v if isinstance(v, str) else "")
def test_a_mistake_ends_with_status_2_a_line_a_fault_and_nothing_written(
    folder, tmp_path, monkeypatch, capsys, name, words, message, count
):
    """`count`: faults, one for every stage of its own, or one where the fault was written."""

    def create(*_arguments):
        raise AssertionError("a run begins")

    monkeypatch.setattr(RunFolder, "create", create)
    runs = tmp_path / "runs"
    call = ["train", "--config", str(folder / f"{name}.yaml"), "--runs", str(runs), "--device", "cpu", "--quiet"]
    assert cli.main([*call, "--set", *words]) == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not runs.exists()
    assert len(lines) == 1 + count, printed.err
    assert f"{count} fault" in lines[0]


def test_a_fault_in_a_view_is_said_of_the_view(folder, capsys):
    words = ["views.1.random_resized_crop.scale_min=0.9", "views.1.random_resized_crop.scale_max=0.5"]
    assert cli.main(["train", "--config", str(folder / "bcl.yaml"), "--dry-run", "--set", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert all("views" in line.partition("=")[0] for line in lines[1:]), lines


def test_maps_for_a_view_are_asked_for_as_for_the_first(folder):
    """`cam` in a view of a first stage has no network; of a stage that resets parts it has another one."""
    for words, path in (
        (["views=[[cam], []]"], "stages.0.views"),
        (["stages.two.views=[[cam], []]", "stages.two.start=fresh"], "stages.1.views"),
        (["stages.two.views=[[cam], []]", "stages.two.reset=head"], "stages.1.reset"),
    ):
        with pytest.raises(RecipeError) as caught:
            recipe.load(folder / "bcl.yaml", words)
        assert any(fault.startswith(path) for fault in caught.value.faults), caught.value.faults
    assert recipe.load(folder / "bcl.yaml", ["stages.two.views=[[cam], []]"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ride", [TEACHER]),
        ("ride", ["model.head=linear", "loss=ce"]),
        ("ride", ["model.head=cosine", "model.scale=16", "loss=ce"]),
        ("ride", ["objective=classification"]),
        ("bcl", ["contrast=psc", "views=[[]]"]),
        ("bcl", ["contrast=psc", "views=[]", "objective.contrasted=all"]),
        ("bcl", ["contrast=supcon", "views=[[]]", "objective.contrasted=all"]),
        ("bcl", ["contrast.complement=false"]),
        ("bcl", ["stages.two.views=[[cam], []]"]),
        ("paco", ["objective.queue_size=16"]),
        ("paco", ["loss=ce"]),
        ("paco", ["loss=logit_adjustment"]),
        ("supcon", ["views=[[], []]"]),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_what_is_right_is_not_refused(folder, capsys, name, words):
    assert cli.main(["train", "--config", str(folder / f"{name}.yaml"), "--dry-run", "--set", *words]) == 0
    assert "fault" not in capsys.readouterr().err


# ---- the plan, and pictures


@pytest.mark.parametrize("name", TEXTS)
def test_a_dry_run_prints_recipe_and_plan_and_writes_nothing(folder, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "--config", str(folder / f"{name}.yaml"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    body, plan, _ = printed.partition("\nplan\n")
    assert plan
    assert recipe.from_map(recipe.parse(body)) == recipe.load(folder / f"{name}.yaml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "losses", "augments"),
    [
        (
            "bcl",
            ["contrastive of balanced_softmax and balanced_supcon"] * 2,
            ["1: crop | 2: random_resized_crop, sim_augment | 3: random_resized_crop, cutout"] * 2,
        ),
        (
            "paco",
            ["momentum_contrast of balanced_softmax and paco"],
            ["1: crop | 2: random_resized_crop, sim_augment"],
        ),
        ("ride", ["experts of ldam", "experts of ldam x effective_number"], ["crop", "crop"]),
        ("supcon", ["contrastive of ce and supcon", "ce"], ["1: crop | 2: cutout | 3: crop", "crop"]),
    ],
)
def test_the_plan_names_objective_losses_and_what_every_view_is(folder, name, losses, augments):
    loaded = recipe.load(folder / f"{name}.yaml")
    rows = describe(make_plan(loaded, load_data(loaded)))
    assert [row["loss"] for row in rows] == losses
    assert [row["augment"] for row in rows] == augments


def subject(folder, name, *words):
    loaded = recipe.load(folder / f"{name}.yaml", words)
    return show.of_recipe(loaded, runtime.start("cpu", debug=True), name)


def test_a_step_that_is_shown_has_all_views(folder):
    shown = subject(folder, "bcl", "views=[[], [{name: crop, padding: 3}]]", "augment=[]", "accumulate=2")
    rows = show_batch.step_rows(shown, shown.plan[1], 1, 2)
    assert {"image", "view2", "view3"} <= set(rows)
    assert not {"place", "apply", "lr", "progress"} & set(rows)
    train_set = shown.data.splits.train
    originals = train_set.images[rows["index"]].transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(rows["image"], originals)
    np.testing.assert_array_equal(rows["view2"], originals)
    assert (rows["view3"] != originals).any()
    assert len(rows["draw"]) == 16
    tiles = show_batch.batch_tiles(shown, shown.plan[1], rows, 5)
    assert [len(tile.images) for tile in tiles] == [3] * 5
    for i, tile in enumerate(tiles):
        for image, name in zip(tile.images, ("image", "view2", "view3"), strict=True):
            np.testing.assert_array_equal(image, rows[name][i].transpose(1, 2, 0))


def test_ten_views_are_shown_in_their_order(folder):
    """view10 comes behind view9, not before view2."""
    lists = ", ".join(f"[{{name: crop, padding: {n}}}]" for n in range(10))
    shown = subject(folder, "bcl", f"views=[{lists}]")
    rows = show_batch.step_rows(shown, shown.plan[0], 1, 1)
    tile = show_batch.batch_tiles(shown, shown.plan[0], rows, 1)[0]
    names = ["image", *(f"view{n}" for n in range(2, 12))]
    assert len(tile.images) == len(names)
    for image, name in zip(tile.images, names, strict=True):
        np.testing.assert_array_equal(image, rows[name][0].transpose(1, 2, 0), err_msg=name)


@pytest.mark.parametrize(("name", "stage"), [("bcl", "two"), ("paco", "one"), ("ride", "one"), ("supcon", "classify")])
def test_show_batch_draws_a_picture(folder, tmp_path, name, stage):
    out = tmp_path / "batch.png"
    call = ["show", "batch", "--config", str(folder / f"{name}.yaml"), "--out", str(out), "--images", "4"]
    assert cli.main([*call, "--stage", stage, "--device", "cpu", "--debug", "--quiet"]) == 0
    picture = cv2.imread(str(out))
    assert min(picture.shape[:2]) > 150
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert [path.name for path in tmp_path.iterdir()] == ["batch.png"]


def test_show_cam_finds_a_cam_that_only_a_view_has(folder):
    shown = subject(folder, "bcl", "stages.two.views=[[{name: cam, ratio: 0.7}], []]")
    plan = show_cam.cam_stage(shown, None)
    assert plan.stage.name == "two"
    assert show_cam._cam(plan).settings["ratio"] == 0.7
