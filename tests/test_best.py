"""Which epoch is the best one: by the mean over classes or by top-1, and what of it belongs to a run's identity."""

import json
from types import SimpleNamespace

import pytest
import yaml

from ms_longtail import recipe as recipes
from ms_longtail.cli import main
from ms_longtail.run import best
from ms_longtail.run.dataset import load_data
from ms_longtail.run.folder import RunFolder
from ms_longtail.training.checkpoints import Position

# top-1 and mean over classes of six epochs; the highest top-1 is not the highest mean, and each occurs twice
EPOCHS = [(0.5, 0.3), (0.7, 0.4), (0.7, 0.5), (0.6, 0.6), (0.65, 0.6), (0.6, 0.5)]


@pytest.fixture
def followed(monkeypatch, tmp_path):
    """(position, the epochs whose weights were written, what each evaluation answered) after EPOCHS."""

    def follow(position, by, start="last", evaluations=None, epochs=EPOCHS):
        written = []
        monkeypatch.setattr(best, "write", lambda path, step, position: written.append((path.name, step)))
        stages = [SimpleNamespace(label=f"stage-{n}", stage=SimpleNamespace(start=start)) for n in (1, 2)]
        monkeypatch.setattr(best, "start_file", lambda plan, number, folder: folder / f"start-of-{number}.ckpt")
        ends = []
        for epoch, (top1, balanced) in enumerate(epochs, 1):
            line = {"stage": 1, "epoch": epoch, "validation": {"top1": top1, "balanced": balanced}}
            settings = {"by": by, "evaluations": evaluations, "main": True}
            folder = SimpleNamespace(checkpoints=tmp_path)
            ends.append(best.keep_best(line, position, epoch, stages, folder, **settings))
        return written, ends

    return follow


@pytest.mark.parametrize(("by", "epoch", "value"), [("balanced", 5, 0.6), ("top1", 3, 0.7)])
def test_the_last_epoch_with_the_highest_score_is_the_best(followed, by, epoch, value):
    position = Position()
    written, ends = followed(position, by, start="best")
    assert position.best == {"by": by, "value": value, "stage": 1, "epoch": epoch}
    assert [number for name, number in written if name == "best.ckpt"][-1] == epoch
    assert [number for name, number in written if name == "start-of-1.ckpt"][-1] == epoch
    assert not any(ends)


@pytest.mark.parametrize(("by", "last"), [("balanced", 5), ("top1", 3)])
def test_early_stopping_goes_by_the_same(followed, by, last):
    """One evaluation without a better one ends the stage."""
    _, ends = followed(Position(), by, evaluations=1)
    assert ends.index(True) == last - 1


def test_scores_of_another_kind_are_not_compared(followed):
    position = Position(best={"value": 0.9, "stage": 1, "epoch": 7})  # of a run from before there was a choice: top-1
    followed(position, "top1", epochs=EPOCHS[:1])
    assert position.best["value"] == 0.9
    followed(position, "balanced", epochs=EPOCHS[:1])
    assert position.best == {"by": "balanced", "value": 0.3, "stage": 1, "epoch": 1}


def content(**more):
    stages = [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 1, **more.pop("stage", {})}]
    data = {"name": "digits_lt", "validation": {"share": 0.2}}
    return {"name": "x", "data": data, "model": "resnet8_cifar", "optimizer": "sgd", "stages": stages, **more}


@pytest.mark.parametrize(
    ("more", "decides"), [({}, False), ({"early_stopping": 3}, True), ({"stage": {"start": "best"}}, True)]
)
def test_it_belongs_to_a_runs_identity_where_weights_follow_from_it(more, decides):
    for key, values in {"best_by": ("balanced", "top1"), "evaluate_every": (1, 2)}.items():
        prints = {recipes.fingerprint(recipes.from_map(content(**more, **{key: value}))) for value in values}
        assert (len(prints) == 2) == decides, key


def test_a_run_from_before_there_was_a_choice_goes_by_top1(tmp_path, capsys):
    plain = recipes.from_map(content(early_stopping=3, best_by="top1")).plain
    old = {key: value for key, value in plain.items() if key != "best_by"}
    assert recipes.essence(old) == recipes.essence(plain)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(old))
    again = recipes.from_map(RunFolder(tmp_path).plain_recipe())
    assert again.best_by == "top1"
    RunFolder(tmp_path).require_same_recipe(again)
    (tmp_path / "result.json").write_text("{}")  # the run's own recipe may be named
    words = ["train", "--config", str(tmp_path / "recipe.yaml"), "--resume", str(tmp_path)]
    (tmp_path / "split.json").write_text(json.dumps(load_data(again).description))
    assert main(words) == 0
    assert "is finished already" in capsys.readouterr().out
    assert recipes.from_map(content()).best_by == "balanced"
