"""The recipes for ImageNet-LT and iNaturalist 2018 end to end at 224 pixels with their full heads, on files in the real formats."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from ms_longtail.cli import main

CONFIGS = Path(__file__).parent.parent / "configs"
pytestmark = pytest.mark.slow


def pictures(folder, names):
    """A small JPEG under each name: a few different ones, the others links to them."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 16:
            image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (120 + number, 90))
            assert cv2.imwrite(str(path), image)
        else:
            os.link(folder / names[number % 16], path)


@pytest.fixture(scope="module")
def imagenet_lt(tmp_path_factory):
    """As ImageNet-LT is published: three lists of "path label", 1,000 classes; here with one training image each, two of some."""
    root = tmp_path_factory.mktemp("imagenet")
    labels = [*range(1000), *range(0, 1000, 100)]
    train = [f"train/n{label:08d}/n{label:08d}_{place}.JPEG" for place, label in enumerate(labels)]
    test = [f"val/n{label:08d}/ILSVRC2012_val_{place:08d}.JPEG" for place, label in enumerate(range(0, 1000, 125))]
    held = [f"train/n{label:08d}/n{label:08d}_held.JPEG" for label in range(0, 1000, 125)]
    pictures(root, [*train, *test, *held])
    lists = {"train": (train, labels), "test": (test, range(0, 1000, 125)), "val": (held, range(0, 1000, 125))}
    for name, (files, classes) in lists.items():
        lines = [f"{file} {label}\n" for file, label in zip(files, classes, strict=True)]
        (root / f"ImageNet_LT_{name}.txt").write_text("".join(lines))
    return root


@pytest.fixture(scope="module")
def inaturalist18(tmp_path_factory):
    """As iNaturalist 2018 is published: two COCO-style files, 8,142 categories."""
    root = tmp_path_factory.mktemp("inaturalist")
    for name, categories in (("train2018", range(8142)), ("val2018", range(0, 8142, 1020))):
        files = [f"{name}/Plantae/{category}/{name}{category}.jpg" for category in categories]
        pictures(root, files)
        content = {
            "images": [{"id": 7 * c + 1, "file_name": file} for c, file in zip(categories, files, strict=True)],
            "annotations": [{"id": c, "image_id": 7 * c + 1, "category_id": c} for c in categories],
            "categories": [{"id": c, "name": f"species {c}"} for c in range(8142)],
        }
        (root / f"{name}.json").write_text(json.dumps(content))
    return root


def train(recipe, root, out, stages, *more):
    overrides = [f"data.root={root}", "batch=8", "evaluate_every=1", "workers=2", "schedule.warmup_epochs=0"]
    overrides += [f"stages.{stage}.epochs=1" for stage in stages]
    if "imagenet" in str(recipe):
        parts = {"train": "train", "validation": "val", "test": "test"}
        overrides += [f"data.{part}_list={root}/ImageNet_LT_{name}.txt" for part, name in parts.items()]
    else:
        overrides += [
            f"data.{part}_json={root}/{name}.json" for part, name in (("train", "train2018"), ("test", "val2018"))
        ]
    arguments = ["--config", str(CONFIGS / recipe), "--runs", str(out), "--device", "cpu", "--quiet"]
    assert main(["train", *arguments, "--set", *overrides, *more]) == 0
    (folder,) = [p for p in out.iterdir() if p.is_dir()]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(stages)
    assert all(np.isfinite(line["train_loss"]) and line["skipped_steps"] == 0 for line in lines)
    return folder, lines


def test_imagenet_lt_bag_of_tricks_with_maps_and_1000_classes(imagenet_lt, tmp_path, monkeypatch):
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "cache"))
    few = "{name: %s, num_samples: 16}"
    sampler = [f"stages.represent.sampler={few % 'instance'}", f"stages.resample.sampler={few % 'class_balanced'}"]
    stages = ("represent", "resample", "finish")
    folder, lines = train("imagenet_lt/bag_of_tricks.yaml", imagenet_lt, tmp_path / "runs", stages, *sampler)
    assert np.load(folder / "logits.npz")["logits"].shape == (8, 1000)
    assert np.load(folder / "maps" / "stage-2-resample.npy").shape == (1010, 7, 7)
    assert [line["draw"] for line in lines] == [16, 32, 48]


def test_inaturalist_deferred_re_weighting_with_8142_classes(inaturalist18, tmp_path, monkeypatch):
    monkeypatch.setenv("MSLT_CACHE", str(tmp_path / "cache"))
    sampler = ["stages.plain.sampler={name: instance, num_samples: 16}"]
    folder, _ = train("inaturalist18/ldam_drw.yaml", inaturalist18, tmp_path / "runs", ("plain", "reweight"), *sampler)
    logits = np.load(folder / "logits.npz")
    assert logits["logits"].shape == (8, 8142)
    assert logits["labels"].tolist() == list(range(0, 8142, 1020))
