"""Files of one's own that a recipe names: found, run once, kept with the run, and refused when they are not what they were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from mindspore import Tensor

from ms_longtail import recipe as recipes
from ms_longtail import runtime
from ms_longtail.cli import main, status_of
from ms_longtail.errors import RecipeError, UserError
from ms_longtail.recipe.contracts import fault_of
from ms_longtail.recipe.imports import load
from ms_longtail.recipe.own_code import explain
from ms_longtail.registry import LOSSES, REGISTRIES, SAMPLERS
from ms_longtail.run import dataset, folder, reuse
from ms_longtail.run.folder import RunFolder
from ms_longtail.run.plan import make_plan
from ms_longtail.run.teachers import describe_teacher

ROOT = Path(__file__).parent.parent
CONTENT = {
    "data": {"name": "digits_lt", "size": 16, "imbalance": {"profile": "exp", "n_max": 12, "factor": 4}},
    "model": "resnet8_cifar",
    "batch": 16,
    "sampler": {"name": "instance", "num_samples": 32},
    "optimizer": {"name": "sgd", "lr": 0.02},
    "stages": [{"name": "one", "epochs": 1}],
}
CODE = """
from __future__ import annotations

from typing import Annotated

import numpy as np
from annotated_types import Gt

from ms_longtail.losses import Loss, cross_entropy
from ms_longtail.registry import LOSSES, SAMPLERS


@LOSSES.register("NAME")
class Halved(Loss):
    def __init__(self, *, class_counts=None, share: Annotated[float, Gt(0)] = 0.5, class_weights=None, reduction="mean"):
        super().__init__(class_counts=class_counts, class_weights=class_weights, reduction=reduction)
        self.share = share

    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = cross_entropy(logits, labels)
        return self.share * loss, weight


@SAMPLERS.register("NAME")
def backwards(labels: np.ndarray, *, num_samples: int | None = None, seed: int = 0, epoch: int = 0) -> np.ndarray:
    return np.arange(len(labels))[::-1][:num_samples].copy()
"""


@pytest.fixture
def forget():
    """Components and modules that a test has brought in are gone after it."""
    yield
    load(None)
    for name in [name for name in sys.modules if name.startswith("ms_longtail_import_")]:
        del sys.modules[name]


def write(folder, name, code=CODE, **more):
    """A recipe beside a file whose loss and sampler it uses."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code.replace("NAME", name))
    content = CONTENT | {"imports": f"{name}.py", "loss": name} | more
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return folder / f"{name}.yaml"


def command(program, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, ROOT / program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


# ---- what a recipe makes of them


def test_a_file_lies_beside_the_recipe_that_names_it(tmp_path, monkeypatch, forget):
    write(tmp_path / "base", "beside", loss={"name": "beside", "share": 0.25})
    (tmp_path / "child.yaml").write_text("base: base/beside.yaml\nsampler: {name: beside, num_samples: 20}\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    recipe = recipes.load(tmp_path / "child.yaml")
    assert (recipe.stages[0].loss.name, recipe.stages[0].loss.settings["share"]) == ("beside", 0.25)
    assert recipe.stages[0].sampler.settings == {"num_samples": 20}
    assert recipe.plain["imports"][0]["file"] == str(tmp_path / "base" / "beside.py")
    with pytest.raises(RecipeError, match=r"loss.share = 0.*greater than 0"):  # checked from the signature as any other
        recipes.load(tmp_path / "child.yaml", ["loss.share=0"])


def test_on_the_command_line_it_is_looked_for_where_one_is(tmp_path, monkeypatch, forget):
    write(tmp_path, "typed")
    monkeypatch.chdir(tmp_path)
    recipe = recipes.from_map({"name": "a", **CONTENT}, ["imports=typed.py", "loss={name: typed, share: 2}"])
    assert recipe.stages[0].loss.settings["share"] == 2
    again = recipes.from_map(yaml.safe_load(recipes.to_yaml(recipe)))
    assert again == recipe
    with pytest.raises(RecipeError, match=r"loss.name = 'untyped': unknown loss \(did you mean 'typed'"):
        recipes.from_map({"name": "a", **CONTENT}, ["imports=[typed.py]", "loss=untyped"])


def test_the_code_decides_the_weights_and_its_place_does_not(tmp_path, forget):
    first = recipes.load(write(tmp_path / "a", "moved"))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    second = recipes.load(tmp_path / "b" / "moved.yaml")  # the same content: not run again, or its names would be taken
    assert recipes.essence(first.plain) == recipes.essence(second.plain)
    assert recipes.fingerprint(first) == recipes.fingerprint(second)
    changed = CODE.replace("NAME", "moved_on")
    third = recipes.load(write(tmp_path / "c", "moved", changed, loss="moved_on"), ["name=moved"])
    lines = recipes.differences(recipes.essence(first.plain), recipes.essence(third.plain))
    assert any(line.startswith("imports.0: ") for line in lines)
    plain = recipes.from_map({"name": "a", **CONTENT})
    assert "imports" not in recipes.essence(plain.plain)  # as runs before there was this key


def test_names_belong_to_the_recipe_that_imports_their_file(tmp_path, forget):
    """So recipes of one gallery do not lend each other code, and two states of a file do not meet."""
    file, other = write(tmp_path / "a", "mine"), tmp_path / "b.yaml"
    other.write_text(yaml.safe_dump(CONTENT | {"loss": "mine"}))
    recipes.load(file)
    first = LOSSES.get("mine")
    with pytest.raises(RecipeError, match="unknown loss"):
        recipes.load(other)
    recipes.load(file)
    assert LOSSES.get("mine") is first  # not run a second time
    (tmp_path / "c").mkdir()
    edited = CODE.replace("NAME", "mine").replace("share: Annotated[float, Gt(0)] = 0.5", "share: float = 0.1")
    later = recipes.load(write(tmp_path / "c", "mine", edited))
    assert LOSSES.get("mine") is not first
    assert later.stages[0].loss.settings["share"] == 0.1
    assert recipes.load(file).stages[0].loss.settings["share"] == 0.5
    recipes.from_map({"name": "a", **CONTENT})
    assert "mine" not in LOSSES
    assert "mine" not in SAMPLERS


def test_what_was_run_stays_whatever_becomes_of_the_file(tmp_path, forget, mode):
    """The compiler of graphs reads a class's source when it meets it, maybe hours after the file was run."""
    name = f"steady_{mode}"
    recipe = recipes.load(write(tmp_path, name))
    (tmp_path / f"{name}.py").write_text("\n\n" + CODE.replace("self.share * loss", "100 * loss"))
    one = LOSSES.get(name)(**recipe.stages[0].loss.settings)(Tensor([[2.0, 0.0]]), Tensor([0]))
    (tmp_path / f"{name}.py").unlink()
    two = LOSSES.get(name)(**recipe.stages[0].loss.settings)(Tensor([[2.0, 0.0], [2.0, 0.0]]), Tensor([0, 0]))
    assert float(one) == pytest.approx(0.5 * 0.126928, abs=1e-5)
    assert float(two) == pytest.approx(0.5 * 0.126928, abs=1e-5)


# ---- mistakes


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (3, r"imports\.0 = 3: must be the name of a Python file"),
        (["there.py", {"path": "x.py"}], r"imports\.1 = \{'path': 'x.py'\}: must be the name of a Python file"),
        ("there", r"imports\.0 = 'there': must be the name of a Python file"),
        ({"file": "there.py", "sha256": 5}, r"imports\.0 = 'there.py': the file has changed"),
        ("missing.py", r"imports\.0 = 'missing.py': cannot read this file \(No such file"),
        (["there.py", "below/there.py"], r"imports\.1 = 'below/there.py': a second file of this name"),
        (
            {"file": "there.py", "sha256": "0" * 64},
            r"the file has changed: its SHA-256 is .*restore it, or start a new",
        ),
        ("syntax.py", r"imports\.0 = 'syntax.py': line 2: SyntaxError: "),
        ("raises.py", r"imports\.0 = 'raises.py': line 3: ZeroDivisionError: division by zero"),
        ("lacks.py", r"imports\.0 = 'lacks.py': line 1: ModuleNotFoundError: No module named 'nobody_has_this'"),
        ("script.py", r"imports\.0 = 'script.py': line 2: SystemExit: 0; what it does as a script belongs below"),
        ("elsewhere.py", r"imports\.0 = 'elsewhere.py': line 1: SyntaxError"),
        ("nul\0.py", r"imports\.0 = .*: .*null byte"),
        ("taken.py", r"imports\.0 = 'taken.py': line 2: ValueError: loss 'ce' is registered already"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, forget, entries, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "below").mkdir()
    for name, text in {
        "there": "",
        "below/there": "x = 1\n",
        "syntax": "x = 1\ny = = 2\n",
        "raises": "def f():\n\n    return 1 / 0\n\nf()\n",
        "lacks": "import nobody_has_this\n",
        "elsewhere": "import json; json.__class__; exec('a b')\n",
        "script": "import sys\nsys.exit(0)\n",
        "taken": "from ms_longtail.registry import LOSSES\nLOSSES.register('ce')(print)\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load(entries)


@pytest.mark.parametrize(
    ("registry", "code", "message"),
    [
        (
            "OPTIMIZERS",
            "def f(parameters, learning_rate, *, lr=0.1): ...",
            "optimizer 'f': must take reference_batch; look",
        ),
        ("SCHEDULES", "def f(epochs, steps_per_epoch): ...", "must take span, warmup_epochs, warmup, warmup_start"),
        ("MODELS", "def f(num_classes): ...", "model 'f': must take seed, mean, std"),
        ("SAMPLERS", "def f(labels, epoch): ...", "sampler 'f': must take seed"),
        ("SAMPLERS", "def f(labels, seed, epoch, **settings): ...", "must name its keywords"),
        (
            "SAMPLERS",
            "def f(labels, *, seed, epoch, a: np.ndarray = None): ...",
            "its signature cannot be read: .*ndarray",
        ),
        (
            "SAMPLERS",
            "def f(labels, *, seed, epoch, a: 'Nowhere' = None): ...",
            "cannot be read: name 'Nowhere' is not def",
        ),
        ("LOSSES", "def f(class_counts): ...", r"must be a class below ms_longtail\.losses\.Loss"),
        ("LOSSES", "class f(Loss):\n    def __init__(self): ...", "loss 'f': must take class_counts"),
        ("AUGMENT", "class f: ...", "must have an attribute `level`, one of 'whole', 'image', 'batch'"),
    ],
)
def test_what_could_not_be_used_is_refused(tmp_path, forget, registry, code, message):
    head = f"import numpy as np\nfrom ms_longtail.losses import Loss\nfrom ms_longtail.registry import {registry}\n"
    (tmp_path / "own.py").write_text(f"{head}\n@{registry}.register('f')\n{code}\n")
    for _ in range(2):  # nothing of a file with a fault stays behind
        with pytest.raises(RecipeError, match=message):
            load(str(tmp_path / "own.py"))
    assert not any("f" in table for table in REGISTRIES)


def test_what_comes_with_the_package_can_be_used():
    for registry in REGISTRIES:
        for name, component in registry.entries().items():
            if component is not None and name != "none":
                assert fault_of(registry, name, component) is None, f"{registry.kind} {name}"


def test_an_interrupted_file_is_run_again(tmp_path, forget):
    recipe = write(tmp_path, "stopped", CODE + "\nimport os\nif 'MSLT_TRIAL' in os.environ: raise KeyboardInterrupt\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MSLT_TRIAL", "1")
        with pytest.raises(KeyboardInterrupt):
            recipes.load(recipe)
    assert "stopped" not in LOSSES
    recipes.load(recipe)
    assert "stopped" in LOSSES


def test_a_file_that_computes_too_early(tmp_path):
    (tmp_path / "early.py").write_text("import mindspore as ms\nW = ms.Tensor([1.0]) * 2\n")
    done = command("train.py", "--dry-run", "--set", "imports=early.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "a file in `imports`, or the script, computes as soon as it is run" in done.stderr


def test_the_code_of_a_teacher_is_not_run(tmp_path, forget):
    """A network of one's own must be known to the student's recipe, which keeps a copy of what it knows."""
    code = "from ms_longtail.registry import MODELS\nMODELS.register('NAME')(MODELS.get('resnet8_cifar'))\n"
    teacher = recipes.load(write(tmp_path / "t", "learned", code, loss="ce", model="learned"))
    RunFolder(tmp_path / "run").create(teacher, {"classes": ["a"]}, {})
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"")
    _, note = describe_teacher(str(tmp_path / "run"))
    assert note["model"]["name"] == "learned"
    recipes.from_map({"name": "student", **CONTENT})
    with pytest.raises(
        UserError, match=r"a network that this recipe does not know: .*add to its imports .*learned\.py"
    ):
        describe_teacher(str(tmp_path / "run"))


def test_a_mistake_in_it_ends_the_command_with_status_2(tmp_path):
    recipe = write(tmp_path, "broken", CODE + "\nraise RuntimeError('not yet')\n")
    done = command("train.py", "--config", recipe, "--dry-run", cwd=tmp_path)
    assert done.returncode == 2
    assert "imports.0 = " in done.stderr
    assert "RuntimeError: not yet" in done.stderr


@pytest.mark.parametrize(("body", "fault"), [("pass", "needs a method random"), ("self.random = np.zeros_like", None)])
def test_an_operation_on_single_images_draws_its_numbers_for_a_batch(tmp_path, capsys, forget, body, fault):
    head = "import numpy as np\nfrom ms_longtail.registry import AUGMENT\n@AUGMENT.register('mine')\n"
    (tmp_path / "own.py").write_text(f"{head}class A:\n    level = 'image'\n    def __init__(self): {body}\n")
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump(CONTENT | {"imports": "own.py", "loss": "ce", "augment": ["mine"]})
    )
    status = main(["train", "--config", str(tmp_path / "own.yaml"), "--runs", str(tmp_path / "runs"), "--dry-run"])
    assert status == (2 if fault else 0)
    if fault:
        assert f"mine, of level 'image', {fault}" in capsys.readouterr().err


FAULTY = """
import numpy as np
from mindspore import ops

from ms_longtail.losses import Loss, cross_entropy
from ms_longtail.registry import AUGMENT, LOSSES


@LOSSES.register("unbuilt")
class Unbuilt(Loss):
    def __init__(self, *, class_counts=None, class_weights=None, reduction="mean"):
        self.first = [][0]


@LOSSES.register("misshapen")
class Misshapen(Loss):
    def terms(self, logits, labels, features, teacher_logits, draws):
        loss, weight = cross_entropy(logits, labels)
        return ops.matmul(logits, ops.ones((3, 7))).sum(axis=1) + loss, weight


@AUGMENT.register("misfit")
class Misfit:
    level = "batch"

    def __call__(self, images, draws):
        return images @ np.ones((4, 4))


@AUGMENT.register("lost")
class Lost:
    level = "image"

    def random(self, draws):
        return np.zeros((len(draws), 1))

    def __call__(self, image, numbers, out=None):
        raise KeyError("missing")
"""


@pytest.mark.parametrize(
    ("settings", "line", "message"),
    [
        ({"loss": "unbuilt"}, "self.first = [][0]", "IndexError: list index out of range"),
        ({"loss": "misshapen"}, "return ops.matmul(logits, ops.ones((3, 7))).sum(axis=1) + loss, weight", "but got 10 and 3"),
        ({"augment": ["misfit"]}, "return images @ np.ones((4, 4))", "ValueError: matmul: Input operand 1 has a mismatch"),
        ({"augment": ["lost"]}, 'raise KeyError("missing")', "KeyError: 'missing'"),
    ],
)  # fmt: skip
def test_an_error_in_it_is_told_with_its_line(tmp_path, capsys, forget, settings, line, message):
    (tmp_path / "own.py").write_text(FAULTY)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(CONTENT | {"imports": "own.py", "loss": "ce"} | settings))
    words = ["train", "--config", str(tmp_path / "own.yaml"), "--runs", str(tmp_path / "runs"), "--quiet"]
    assert main(words) == 2
    number = FAULTY.splitlines().index(next(text for text in FAULTY.splitlines() if text.strip() == line)) + 1
    told = capsys.readouterr().err
    assert f"error: {tmp_path / 'own.py'} line {number}, `{line}`: " in told
    assert message in told.splitlines()[-2]
    assert "Traceback" not in told.splitlines()[-2]
    assert told.endswith("--debug prints all calls that led there.\n")
    if settings == {"loss": "unbuilt"}:  # before MindSpore computes; an error in its PyNative mode would leave traces
        with pytest.raises(IndexError):
            main([*words, "--debug"])
        runtime.start("cpu")  # graph mode again


ERRORS = """
def none(): raise ValueError("must be a list,\\n  got a map") from None
def handled():
    try: {}["k"]
    except KeyError: raise ValueError("weights: no k") from None
def followed():
    try: {}["k"]
    except KeyError: return int("x")
def given(callback):
    {}["k"]
def around():
    try: raise ValueError("mine")
    except ValueError as error: raise error from error
class Mute(Exception):
    def __str__(self): raise TypeError("no text")
def mute(): raise Mute()
def absent(): open("/nowhere/list.txt")
"""


@pytest.mark.parametrize(
    ("name", "line", "told"),
    [
        ("none", 2, "ValueError: must be a list, got a map"),
        ("handled", 5, "ValueError: weights: no k"),
        ("followed", 8, "ValueError: invalid literal for int() with base 10: 'x'"),
        ("around", 12, "ValueError: mine"),
        ("mute", 16, "Mute"),
        ("absent", 17, "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/list.txt'"),
    ],
)
def test_the_line_is_that_of_the_error_and_not_of_what_was_dealt_with(tmp_path, forget, capsys, name, line, told):
    (tmp_path / "own.py").write_text(ERRORS)
    load(str(tmp_path / "own.py"))
    module = next(module for name, module in sys.modules.items() if name.startswith("ms_longtail_import_"))
    with pytest.raises(Exception) as caught:
        getattr(module, name)()
    assert status_of(caught.value, None) == 2
    code = ERRORS.splitlines()[line - 1].strip()
    hint = "train.py --debug prints all calls that led there."
    assert capsys.readouterr().err == f"error: {tmp_path / 'own.py'} line {line}, `{code}`: {told}\n{hint}\n"


def test_what_the_pipeline_writes_of_several_lines(tmp_path, forget):
    (tmp_path / "own.py").write_text(ERRORS)
    load(str(tmp_path / "own.py"))
    rule = "-" * 20
    text = f"""Exception thrown from user defined Python function in dataset.

{rule}
- Python Call Stack:
{rule}
map operation: [PyFunc] failed. Error description:
cv2.error: Traceback (most recent call last):
  File "/elsewhere/pipeline.py", line 7, in views
    return self.part(draws)
  File "{tmp_path / "own.py"}", line 4, in handled
    cv2.resize(image, "x")
cv2.error: OpenCV(4.11.0) :-1: error: (-5:Bad argument) in function 'resize'
> Overload resolution failed:
>  - Can't parse 'dsize'

{rule}
- C++ Call Stack: (For framework developers)
{rule}
map_job.h(56)."""
    told = explain(RuntimeError(text))
    assert told.startswith(f'{tmp_path / "own.py"} line 4, `try: {{}}["k"]`: cv2.error: OpenCV(4.11.0)')
    assert told.endswith("> - Can't parse 'dsize'")


def test_an_error_elsewhere_is_none_of_its(forget):
    load(None)
    with pytest.raises(ZeroDivisionError):
        status_of(ZeroDivisionError("a fault of the package"), None)


def test_a_fault_of_the_package_is_not_laid_to_code_that_it_has_dealt_with(tmp_path, forget):
    (tmp_path / "own.py").write_text(ERRORS)
    load(str(tmp_path / "own.py"))
    module = next(module for name, module in sys.modules.items() if name.startswith("ms_longtail_import_"))

    def package():
        try:
            module.given(None)
        except KeyError:
            return 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        package()
    assert explain(caught.value) is None


def test_a_gallery_names_the_recipe_whose_code_fails(tmp_path, capsys, forget):
    (tmp_path / "own.py").write_text(FAULTY)
    for name, more in (("good", {}), ("unbuilt", {"imports": "own.py", "loss": "unbuilt"})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(CONTENT | {"loss": "ce"} | more))
    assert main(["gallery", str(tmp_path), "--baseline", "good", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert "1 of 2 recipes cannot run, nothing was started" in told
    assert f"{tmp_path / 'unbuilt.yaml'}: {tmp_path / 'own.py'} line 12" in told


def test_what_was_changed_meanwhile_is_not_what_the_run_folder_keeps(tmp_path, forget):
    recipe = recipes.load(write(tmp_path, "late"))
    (tmp_path / "late.py").write_text("")
    with pytest.raises(UserError, match=r"late\.py was changed while the run was being started"):
        RunFolder(tmp_path / "run").create(recipe, {}, {})
    assert not (tmp_path / "run").exists()
    assert not list(tmp_path.glob(".run*"))


# ---- a run


@pytest.mark.slow
def test_a_run_keeps_them_and_lives_without_the_original(tmp_path):
    recipe = write(tmp_path / "mine", "kept", sampler={"name": "kept", "num_samples": 32})
    done = command("train.py", "--config", recipe, "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shutil.move(tmp_path / "runs" / "kept-s0", tmp_path / "moved")
    run = tmp_path / "moved"
    assert (run / "imports" / "kept.py").read_text() == (tmp_path / "mine" / "kept.py").read_text()
    (entry,) = yaml.safe_load((run / "recipe.yaml").read_text())["imports"]
    assert entry["file"] == "imports/kept.py"

    shutil.rmtree(tmp_path / "mine")
    done = command("eval.py", "--run", run, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{100 * json.loads((run / 'result.json').read_text())['last']['top1']:.2f}" in done.stdout

    (run / "imports" / "kept.py").write_text(CODE.replace("NAME", "kept") + "\n")
    done = command("eval.py", "--run", run, cwd=tmp_path)
    assert done.returncode == 2
    assert "the file has changed: its SHA-256 is" in done.stderr


def test_workers_whose_files_differ_do_not_start(tmp_path, monkeypatch, capsys, forget):
    recipe = write(tmp_path, "shared")
    monkeypatch.setattr("ms_longtail.collectives.gather", lambda value: [value, "what another machine has"])
    assert main(["train", "--config", str(recipe), "--runs", str(tmp_path / "runs"), "--quiet"]) == 2
    assert "the workers were not given the same recipe" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_run_with_other_code_is_passed_over_and_its_code_not_run(tmp_path, monkeypatch, forget):
    stages = {"stages": [{"name": "one", "epochs": 1}, {"name": "two", "epochs": 1}]}
    recipe = recipes.from_map({"name": "own", **CONTENT, **stages})
    data = dataset.load_data(recipe)
    plan = make_plan(recipe, data)
    facts = folder.environment("cpu", 1)
    home = RunFolder(tmp_path / "own-s0")
    home.create(recipe, data.description, facts)
    for name, taken in (("same", True), ("coded", False)):
        other = recipes.load(write(tmp_path / "files", name, loss="ce", **stages))
        if taken:
            other = recipes.from_map({"name": name, **CONTENT, **stages})
        RunFolder(tmp_path / name).create(other, data.description, facts)
        (tmp_path / name / "checkpoints" / f"{plan[0].label}.ckpt").write_bytes(b"")
    recipes.from_map({"name": "own", **CONTENT, **stages})
    looked = []
    monkeypatch.setattr(reuse, "from_map", lambda plain: looked.append(plain["name"]) or recipes.from_map(plain))
    found = list(reuse._candidates(tmp_path, recipe, data, plan, home))
    assert [run.path.name for _, run in found] == ["same"]
    assert looked == ["same"]
    assert "coded" not in SAMPLERS
