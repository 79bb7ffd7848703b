"""The contrastive and multi-expert recipes of the digits, run in short: every stage trains, ends, and is evaluated as it was
trained; and what the recipes of the big sets build."""

import doctest
import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from ms_longtail import recipe
from ms_longtail.cli import main
from ms_longtail.objectives import Contrastive, Experts, MomentumContrast
from ms_longtail.registry import CONTRASTS, LOSSES, MODELS
from ms_longtail.training.checkpoints import read

CONFIGS = Path(__file__).parent.parent / "configs"
DIGITS = CONFIGS / "digits_lt" / "contrastive"
NAMES = sorted(path.stem for path in DIGITS.glob("*.yaml") if path.stem not in ("ce", "balanced_softmax"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_and_is_evaluated_as_it_was_trained(name, tmp_path, capsys):
    path = DIGITS / f"{name}.yaml"
    stages = recipe.load(path).stages
    words = [f"stages.{number}.epochs=1" for number in range(len(stages))] + ["sampler.num_samples=96"]
    assert main(["train", "--config", str(path), "--runs", str(tmp_path), "--quiet", "--set", *words]) == 0
    run = next(tmp_path.iterdir())
    result = json.loads((run / "result.json").read_text())
    assert result["skipped_steps"] == 0
    assert 0 < result["last"]["top1"] <= 1
    assert main(["eval", "--run", str(run)]) == 0
    assert "identical to result.json" in capsys.readouterr().out
    held, _ = read(run / "checkpoints" / f"stage-1-{stages[0].name}.ckpt")
    beside = {name.split(".")[0] for name in held}
    wanted = {
        "contrastive": {"embedding"},
        "momentum_contrast": {"embedding", "keys", "queue", "queue_labels"},
        "experts": set(),
    }[stages[0].objective.name]
    assert wanted <= beside
    if name == "paco":
        assert (held["queue_labels"].asnumpy() >= 0).sum() == 96
        np.testing.assert_allclose(np.linalg.norm(held["queue"].asnumpy()[:96], axis=1), 1, rtol=1e-5)


BIG = [p for folder in ("imagenet_lt", "inaturalist18") for p in sorted((CONFIGS / folder).glob("*.yaml"))]
BIG = [p for p in BIG if p.stem.split("_")[0] in ("bcl", "paco", "ride", "hybrid")]


@pytest.mark.parametrize("path", BIG, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_a_big_recipe_builds(path):
    """Heads of full width, prototypes and queue included; ResNet-10 stands in for the backbone, which other tests build."""
    whole = recipe.load(path)
    stage, classes = whole.stages[0], 1000 if path.parent.name == "imagenet_lt" else 8142
    counts = np.maximum(2, np.linspace(1280, 2, classes).astype(int))
    loss = LOSSES.get(stage.loss.name)(class_counts=counts, **stage.loss.settings)

    def network():
        return MODELS.get("resnet10")(num_classes=classes, **whole.model.settings)

    settings = stage.objective.settings
    if stage.objective.name == "experts":
        objective = Experts(network(), loss, **settings)
        assert objective.experts == 3
        return
    contrast = CONTRASTS.get(stage.contrast.name)(class_counts=counts, **stage.contrast.settings)
    views = 1 + len(stage.views)
    if stage.objective.name == "contrastive":
        objective = Contrastive(network(), loss, contrast=contrast, views=views, second=False, **settings)
        names = {p.name: p.shape for p in objective.get_parameters()}
        assert names["embedding.projection.0.weight"] == (settings["hidden_size"], 512)
        assert settings["hidden_size"] == (512 if "resnet10" in path.stem else 2048)
        assert "embedding.learned" in names or "embedding.of_classifier.0.weight" in names
        assert names.get("embedding.learned", (classes, 128)) == (classes, 128)
        return
    objective = MomentumContrast(
        network(), loss, contrast=contrast, views=views, twin=network(), batch=stage.batch, **settings
    )
    assert objective.queue.shape == (8192, 128)


@pytest.mark.parametrize(
    "module",
    [
        "augment.auto_augment",
        "augment.color_jitter",
        "augment.cutout",
        "augment.rand_augment",
        "augment.sim_augment",
        "evaluation.geometry",
        "losses.balanced_supcon",
        "losses.paco",
        "losses.psc",
        "losses.supcon",
    ],
)
def test_the_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"ms_longtail.{module}"))
    assert result.attempted
    assert not result.failed
