"""iNaturalist's COCO-style JSON: images, annotations and categories in one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..registry import DATASETS
from .image_set import ImageSet, Splits


@DATASETS.register("inaturalist")
def inaturalist(*, root: str, train_json: str, test_json: str) -> Splits:
    """iNaturalist 2018 (Van Horn et al., CVPR 2018) from train2018.json and val2018.json.

    Args:
        root: folder that the `file_name` entries are relative to.
        train_json, test_json: the published files; the challenge's validation set is the literature's test set.

    Raises:
        DataError: a file that is missing, cut short or of another structure, with the line where it breaks.
    """
    if not Path(root).is_dir():
        raise DataError(f"data.root: the folder {root} does not exist (file names in {train_json} are relative to it)")
    train = _read(train_json, "data.train_json")
    test = _read(test_json, "data.test_json")
    names = {_field(c, "id", train_json, "category"): str(c.get("name", c["id"])) for c in train["categories"]}
    ids = sorted(names)
    class_names = tuple(names[i] for i in ids)
    label_of = {category: label for label, category in enumerate(ids)}
    return Splits(
        _images(train, root, train_json, label_of, class_names), _images(test, root, test_json, label_of, class_names)
    )


def _field(entry, key: str, path: str, kind: str):
    """entry[key], or an error that shows the entry."""
    if not isinstance(entry, dict) or key not in entry:
        raise DataError(f"{path}: {kind} {str(entry)[:80]!r} has no {key!r}")
    return entry[key]


def _read(path: str, key: str) -> dict:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{key}: cannot read {path}: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file complete?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: no map of images, annotations and categories; this is not COCO-style JSON")
    missing = [part for part in ("images", "annotations", "categories") if part not in content]
    if missing:
        raise DataError(f"{path}: no {' and no '.join(missing)}; this is not COCO-style JSON")
    return content


def _images(content: dict, root: str, path: str, label_of: dict[int, int], names: tuple[str, ...]) -> ImageSet:
    files = {_field(i, "id", path, "image"): _field(i, "file_name", path, "image") for i in content["images"]}
    annotations = content["annotations"]
    labels = np.empty(len(annotations), np.int32)
    paths = []
    for place, annotation in enumerate(annotations):
        image = _field(annotation, "image_id", path, "annotation")
        category = _field(annotation, "category_id", path, "annotation")
        if image not in files:
            raise DataError(f"{path}, annotation {place}: no image has the id {image}")
        if category not in label_of:
            raise DataError(f"{path}, annotation {place}: no training category has the id {category}")
        labels[place] = label_of[category]
        paths.append(f"{root}/{files[image]}")
    if not paths:
        raise DataError(f"{path}: no annotation")
    return ImageSet(labels, names, files=paths, origin=lambda i: f"{path}, annotation {i}")
