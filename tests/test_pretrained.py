"""Runs that begin with weights from a file: the recipe's key, what is refused before training, starts, resumes, `--reuse`."""

import copy
import hashlib
import json
import logging
import shutil
from functools import cache

import mindspore as ms
import numpy as np
import pytest
import yaml
from test_parameter_names import file, layout
from torch_files import SAVE, tensor

from ms_longtail import cli, recipe, runtime
from ms_longtail.console import Console
from ms_longtail.errors import RecipeError, TrainingError, UserError
from ms_longtail.parameters import assign
from ms_longtail.recipe import essence, fingerprint, from_map
from ms_longtail.run import check, dataset, reuse
from ms_longtail.run.build import build_model
from ms_longtail.run.folder import RunFolder
from ms_longtail.run.plan import make_plan
from ms_longtail.run.pretrained import read_pretrained
from ms_longtail.run.train import Run
from ms_longtail.training.checkpoints import write

CONTENT = {
    "name": "tuned",
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 24, "factor": 8}},
    "model": "resnet8_cifar",
    "batch": 16,
    "optimizer": {"name": "sgd", "lr": 0.05},
    "stages": [{"name": "one", "epochs": 1}],
}


@cache
def _images(recipe_as_yaml):
    return dataset.load_data(from_map(yaml.safe_load(recipe_as_yaml)))


def load_data(resolved):
    """The same images for all tests that ask for them."""
    plain = CONTENT | {"data": resolved.plain["data"]}
    return _images(yaml.safe_dump(plain))


@pytest.fixture(autouse=True)
def same_mode():
    """The command line sets the execution mode; later tests get back the one they had."""
    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


def content(path, stages=None, **changes):
    result = copy.deepcopy(CONTENT) | {"pretrained": str(path)} | changes
    if stages is not None:
        result["stages"] = [{"epochs": 1} | stage for stage in stages]
    return result


def weights(name="resnet8_cifar", classes=10, seed=1):
    """(torchvision's names -> values, our names -> the same values): positive, so that they serve as variances, too."""
    rng = np.random.default_rng(seed)
    rows = layout(name, classes=classes)
    values = {known: rng.uniform(0.5, 1.5, shape).astype(np.float32) for _, known, shape in rows}
    return {theirs: values[known] for theirs, known, _ in rows}, values


def saved(path, values, kind="archive", **beside):
    return SAVE[kind](path, {"state_dict": {n: tensor(v) for n, v in values.items()}} | beside)


class Quick(Run):
    """A run whose stages take no steps: what they begin with is kept, and every weight then becomes the stage's number."""

    def __init__(self, settings, path):
        resolved = from_map(settings)
        data = load_data(resolved)
        home = RunFolder(path)
        if not home.begun:
            home.create(resolved, data.description, {"device": "cpu"})
        self.said, self.begun = [], {}
        console = Console(quiet=True)
        console.say = self.said.append
        super().__init__(resolved, data, make_plan(resolved, data), home, runtime.Runtime("cpu", False), console)

    def _train_stage(self, stage, signals):
        self.begun[stage.stage.name] = {p.name: p.asnumpy().copy() for p in self.model.get_parameters()}
        for parameter in self.model.get_parameters():
            assign(parameter, np.full(parameter.shape, stage.number + 1.0, np.float32))
        self.position.epoch = stage.stage.epochs
        write(self.folder.checkpoints / f"{stage.label}.ckpt", self.step, self.position)
        self._save()


def quick(settings, path, *, resume=False):
    run = Quick(settings, path)
    run.train(resume=resume)
    return run


def assert_same(found, expected, part=""):
    names = [name for name in expected if name.startswith(part)]
    assert names
    for name in names:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def new(settings, seed=0):
    resolved = from_map(settings | {"pretrained": None})
    return {p.name: p.asnumpy() for p in build_model(resolved, load_data(resolved), seed).get_parameters()}


def refused(settings):
    resolved = from_map(settings)
    with pytest.raises(RecipeError) as error:
        check.check(resolved, load_data(resolved))
    (fault,) = error.value.faults
    return fault


# ---- the key


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.pth", {"path": "a.pth", "head": "auto"}),
        ({"path": "a.pth"}, {"path": "a.pth", "head": "auto"}),
        ({"path": "a.pth", "head": "skip"}, {"path": "a.pth", "head": "skip"}),
        ("none", None),
        (None, None),
    ],
)
def test_the_key_in_its_forms(given, expected):
    resolved = from_map(content("") | {"pretrained": given})
    assert resolved.plain["pretrained"] == expected
    again = from_map(yaml.safe_load(recipe.to_yaml(resolved)))
    assert again == resolved
    assert again.plain == resolved.plain
    if expected is not None:
        assert (resolved.pretrained.path, resolved.pretrained.head) == tuple(expected.values())


def test_overrides_and_inheritance(tmp_path):
    resolved = from_map(content("a.pth"), ["pretrained.head=skip"])
    assert resolved.plain["pretrained"] == {"path": "a.pth", "head": "skip"}
    assert from_map(content("a.pth"), ["pretrained=none"]).pretrained is None
    (tmp_path / "base.yaml").write_text(
        yaml.safe_dump(content("a.pth") | {"pretrained": {"path": "a", "head": "keep"}})
    )
    (tmp_path / "b.yaml").write_text("base: base.yaml\npretrained: b.pth\n")
    assert recipe.load(tmp_path / "b.yaml").plain["pretrained"] == {"path": "b.pth", "head": "keep"}
    (tmp_path / "c.yaml").write_text("base: base.yaml\npretrained: null\n")
    assert recipe.load(tmp_path / "c.yaml").pretrained is None


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (5, "pretrained = 5: "),
        (["a"], "pretrained = ['a']: "),
        ({"head": "skip"}, "pretrained.path = missing"),
        ({"path": ""}, "pretrained.path = '': "),
        ({"path": "a", "head": "new"}, "pretrained.head = 'new': must be one of 'auto', 'keep' or 'skip'"),
        ({"path": "a", "file": "b"}, "pretrained.file = 'b': unknown key; known here: path, head"),
    ],
)
def test_faults_in_the_key(given, fault):
    with pytest.raises(RecipeError) as error:
        from_map(content("") | {"pretrained": given})
    assert error.value.faults[0].startswith(fault)


def test_weights_that_no_stage_would_begin_with():
    first = {"name": "one", "start": "x.ckpt"}
    with pytest.raises(RecipeError, match=r"pretrained.path = 'a': the first stage starts from x.ckpt; leave one"):
        from_map(content("a", [first, {"name": "two"}]))
    from_map(content("a", [first, {"name": "two", "start": "fresh"}]))


def test_recipes_without_it_keep_their_fingerprint():
    plain = from_map(content("") | {"pretrained": None}).plain
    assert "pretrained" not in essence(plain)
    before = {key: value for key, value in plain.items() if key != "pretrained"}
    assert essence(before) == essence(plain)
    prints = {fingerprint(from_map(content(path))) for path in ("a", "b")}
    assert len(prints | {fingerprint(from_map(content("none")))}) == 3


# ---- refused before training


def test_files_that_are_refused_before_anything_is_trained(tmp_path):
    good, _ = weights()
    fault = refused(content(tmp_path / "none.pth"))
    assert fault == f"pretrained = {tmp_path}/none.pth: is missing"
    (tmp_path / "text.pth").write_text("hello")
    assert "none of the files that can be read" in refused(content(tmp_path / "text.pth"))
    whole = saved(tmp_path / "w.pth", good).read_bytes()
    (tmp_path / "w.pth").write_bytes(whole[:-500])
    assert "damaged" in refused(content(tmp_path / "w.pth"))
    other = saved(
        tmp_path / "other.pth", {n: np.zeros(v.shape, np.float32) for n, v in file(layout("resnet20_cifar")).items()}
    )
    fault = refused(content(other))
    assert (
        "another architecture than resnet8_cifar: they are those of resnet20_cifar; set model.name: resnet20_cifar"
        in fault
    )
    assert "60 in the file, not of the network: layer1.1." in fault
    lacking = {name: value for name, value in good.items() if name != "layer2.0.bn1.running_var"}
    fault = refused(content(saved(tmp_path / "l.pth", lacking)))
    assert "1 of the network, not in the file: backbone.layer2.0.bn1.moving_variance (32,)" in fault
    bad = good | {"layer2.0.conv1.weight": np.full((32, 16, 3, 3), np.nan, np.float32)}
    assert refused(content(saved(tmp_path / "n.pth", bad))).endswith(
        "layer2.0.conv1.weight holds numbers that are not finite"
    )
    fault = refused(
        content("") | {"pretrained": {"path": str(saved(tmp_path / "k.pth", weights(classes=9)[0])), "head": "keep"}}
    )
    assert (
        "head: keep, but head.weight has shape (9, 64) in the file and (10, 64) here; set head: auto, or skip" in fault
    )


def test_the_command_line_says_so_with_status_2(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content(tmp_path / "none.pth")))
    assert cli.main(["train", "--config", str(tmp_path / "r.yaml"), "--runs", str(tmp_path / "runs"), "--quiet"]) == 2
    assert f"pretrained = {tmp_path}/none.pth: is missing" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# ---- what a run begins with


@pytest.mark.parametrize("kind", SAVE)
def test_a_run_begins_with_the_files_weights_and_says_what_it_took(tmp_path, kind):
    theirs, values = weights()
    path = saved(tmp_path / "w.pth", theirs | {"extra.weight": np.zeros(3, np.float32)}, kind, epoch=4)
    run = quick(content(path), tmp_path / "run")
    assert_same(run.begun["one"], values)
    assert set(run.begun["one"]) == set(values)
    record = json.loads((tmp_path / "run" / "pretrained.json").read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["path"] == str(path)
    assert record["taken"] == {known: name for name, known, _ in layout("resnet8_cifar")}
    assert record["not_taken"] == {"extra.weight": [3]}
    assert (record["missing"], record["of_another_shape"], record["head"]) == ({}, [], "taken")
    assert run.said[0] == (
        f"pretrained {path} (PyTorch, 'state_dict': {len(values) + 1} tensors): {len(values)} of {len(values)} parameters of "
        "resnet8_cifar taken"
    )
    assert run.said[1] == "  1 not taken from the file: extra.weight; all names are in pretrained.json"


def test_training_begins_where_the_file_ends(tmp_path):
    ms.set_context(mode=ms.PYNATIVE_MODE)  # nothing to compile
    theirs, _ = weights()
    theirs |= {name: value * 0.01 for name, value in theirs.items() if "conv" in name or "fc" in name}
    # Steps so small that no float32 changes: what is left in the end is what was there in the beginning.
    settings = content(saved(tmp_path / "w.pth", theirs), optimizer={"name": "sgd", "lr": 1e-30, "weight_decay": 0.0})
    settings["data"]["imbalance"] |= {"n_max": 8, "factor": 8}
    run = Quick(settings, tmp_path / "run")
    run._train_stage = super(Quick, run)._train_stage
    run._short = lambda images: {"top1": 0.0, "balanced": 0.0, "many": 0.0, "medium": 0.0, "few": 0.0}
    run.train()
    end = ms.load_checkpoint(str(tmp_path / "run" / "checkpoints" / "last.ckpt"))
    for name, known, _ in layout("resnet8_cifar", classes=10):
        same = np.array_equal(end[known].asnumpy(), theirs[name])
        assert same != ("running" in name), name  # statistics follow the images


@pytest.mark.parametrize(
    ("head", "classes", "taken"), [("auto", 10, True), ("keep", 10, True), ("skip", 10, False), ("auto", 7, False)]
)
def test_the_head(tmp_path, head, classes, taken):
    theirs, values = weights(classes=classes)
    settings = content("") | {"pretrained": {"path": str(saved(tmp_path / "w.pth", theirs)), "head": head}}
    run = quick(settings, tmp_path / "run")
    assert_same(run.begun["one"], values, "backbone.")
    assert_same(run.begun["one"], values if taken else new(settings), "head.")
    record = read_pretrained(run.folder)
    assert ("begins anew" in run.said[0]) != taken
    assert (record["head"] == "taken") == taken
    listed = {*record["not_taken"], *(entry["file"] for entry in record["of_another_shape"]), *record["taken"].values()}
    assert listed == set(theirs)


def test_two_branches_and_experts(tmp_path):
    theirs, values = weights()
    path = saved(tmp_path / "w.pth", theirs)
    stages = [{"name": "one", "objective": "bilateral", "second_sampler": "reversed"}]
    run = quick(content(path, stages, model={"name": "resnet8_cifar", "branches": 2}), tmp_path / "b")
    for branch in ("conventional", "rebalancing"):
        copied = {n.replace("layer3.0", f"branches.{branch}"): v for n, v in values.items() if "layer3" in n}
        assert_same(run.begun["one"], copied)
    assert_same(run.begun["one"], values, "backbone.layer2")
    settings = content(path, [{"name": "one", "objective": "experts"}], model={"name": "resnet8_cifar", "experts": 2})
    run = quick(settings, tmp_path / "e")
    assert_same(run.begun["one"], values, "backbone.layer1")
    assert_same(run.begun["one"], new(settings), "backbone.branches.")
    assert "parameters of the experts begin anew" in run.said[1]
    late = [name for name in new(settings) if name.startswith("backbone.branches.")]
    assert [
        entry["network"] for entry in read_pretrained(run.folder)["of_another_shape"] if "branches" in entry["network"]
    ] == late


def test_a_momentum_copy_begins_with_them_too(tmp_path):
    theirs, values = weights()
    stages = [{"name": "one", "objective": "momentum_contrast", "contrast": "paco", "loss": "balanced_softmax"}]
    stages[0] |= {"augment": ["crop"], "views": [["crop"]]}
    run = Quick(content(saved(tmp_path / "w.pth", theirs), stages), tmp_path / "run")
    run.train()
    keys = {name: p for name, p in ((p.name, p.asnumpy()) for p in run.step.objective.keys.get_parameters())}
    copied = {next(k for k in keys if k.endswith(name)): v for name, v in values.items() if name.startswith("backbone")}
    assert_same(keys, copied)


def test_fresh_stages_begin_with_them_again_and_what_is_reset_does_not(tmp_path):
    theirs, values = weights()
    stages = [
        {"name": "one"},
        {"name": "goes_on"},
        {"name": "fresh", "start": "fresh"},
        {"name": "reset", "reset": ["classifier", "backbone.layer3"]},
        {"name": "both", "start": "fresh", "reset": "classifier"},
    ]
    run = quick(content(saved(tmp_path / "w.pth", theirs), stages), tmp_path / "run")
    assert_same(run.begun["one"], values)
    assert_same(run.begun["goes_on"], {name: np.ones_like(value) for name, value in values.items()})
    assert_same(run.begun["fresh"], values)
    assert_same(run.begun["both"], values, "backbone.")
    for stage in ("reset", "both"):
        head = run.begun[stage]["head.weight"]
        assert len(np.unique(head)) == head.size  # new ones, and not the file's
        assert not np.isin(head, values["head.weight"]).any()
    assert (run.begun["reset"]["backbone.layer2.0.conv1.weight"] == 3).all()
    assert len(np.unique(run.begun["reset"]["backbone.layer3.0.conv1.weight"])) > 1000


def test_a_first_stage_that_resets_and_a_head_left_out_by_it(tmp_path):
    theirs, values = weights()
    settings = content(saved(tmp_path / "w.pth", theirs), [{"name": "one", "reset": "classifier"}])
    run = quick(settings, tmp_path / "run")
    assert_same(run.begun["one"], values, "backbone.")
    assert not np.isin(run.begun["one"]["head.weight"], values["head.weight"]).any()


# ---- resumes


class Stopped(Exception):
    pass


def stopped(settings, path, after):
    """A run that ends when the stage `after` is done."""

    class Short(Quick):
        def _train_stage(self, stage, signals):
            super()._train_stage(stage, signals)
            if stage.stage.name == after:
                raise Stopped

    with pytest.raises(Stopped):
        Short(settings, path).train()


def test_a_resume_does_not_read_the_file_again_and_a_fresh_stage_has_its_copy(tmp_path, caplog):
    theirs, values = weights()
    path = saved(tmp_path / "w.pth", theirs)
    settings = content(path, [{"name": "one"}, {"name": "two"}, {"name": "three", "start": "fresh"}])
    stopped(settings, tmp_path / "run", "one")
    path.unlink()
    check.check(from_map(settings), load_data(from_map(settings)), resuming=True)
    run = quick(settings, tmp_path / "run", resume=True)
    assert "one" not in run.begun
    assert_same(run.begun["two"], {name: np.ones_like(value) for name, value in values.items()})
    assert_same(run.begun["three"], values)
    assert not [record for record in caplog.records if "changed" in record.message]


def test_a_file_that_has_changed_since_is_said_and_not_taken(tmp_path, caplog):
    theirs, values = weights()
    path = saved(tmp_path / "w.pth", theirs)
    settings = content(path, [{"name": "one"}, {"name": "two", "start": "fresh"}])
    stopped(settings, tmp_path / "run", "one")
    before = (tmp_path / "run" / "pretrained.json").read_bytes()
    saved(path, weights(seed=2)[0])
    with caplog.at_level(logging.WARNING):
        run = quick(settings, tmp_path / "run", resume=True)
    assert f"{path} has changed since this run began with it" in caplog.text
    assert_same(run.begun["two"], values)
    assert (tmp_path / "run" / "pretrained.json").read_bytes() == before


def test_a_lost_copy_is_made_again_from_the_same_file_alone(tmp_path):
    theirs, values = weights()
    path = saved(tmp_path / "w.pth", theirs)
    settings = content(path, [{"name": "one"}, {"name": "two", "start": "fresh"}])
    stopped(settings, tmp_path / "run", "one")
    (tmp_path / "run" / "checkpoints" / "pretrained.ckpt").unlink()
    whole = path.read_bytes()
    for change, error in (
        (lambda: saved(path, weights(seed=2)[0]), TrainingError),
        (path.unlink, UserError),
        (lambda: path.write_bytes(whole), None),
    ):
        shutil.copytree(tmp_path / "run", tmp_path / str(error))
        change()
        if error is None:
            assert_same(quick(settings, tmp_path / str(error), resume=True).begun["two"], values)
            continue
        with pytest.raises(error, match=str(path)):
            quick(settings, tmp_path / str(error), resume=True)
        assert not (tmp_path / str(error) / "checkpoints" / "pretrained.ckpt").exists()


# ---- runs that share their first stages


def test_reuse_knows_the_files_content(tmp_path):
    path = saved(tmp_path / "w.pth", weights()[0])
    resolved = from_map(content(path))
    data = load_data(resolved)
    plan = make_plan(resolved, data)
    first = reuse.marks(resolved, plan, data.description)
    record = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    saved(path, weights(seed=2)[0])
    second = reuse.marks(resolved, plan, data.description)
    assert first != second
    assert (
        reuse.marks(resolved, plan, data.description, None, record) == first
    )  # what the run began with, not what is there now
    path.unlink()
    assert reuse.marks(resolved, plan, data.description, None, record) == first
