"""What decides the content of a packed folder, so that a resume goes on with the same and nothing else."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from ..data import ImageSet, Splits
from ..errors import UserError
from ..recipe import Recipe
from .dataset import data_root, whole_settings


def make_plan(recipe: Recipe, splits: Splits, *, format: str, shard_mb: float, size: int | None) -> dict[str, Any]:
    """As it stands in .packing/plan.json and packed.json; the long-tailed subset and the carved part are not in it.

    Args:
        recipe, splits: the data set, whole.
        format: tar or mindrecord.
        shard_mb: images of a shard, in 10^6 bytes.
        size: shorter side of what is made smaller, None for bytes as they are.
    """
    settings = {key: value for key, value in whole_settings(recipe).items() if key != "root"}
    parts = {}
    for name, images in splits.parts().items():
        digest = hashlib.sha256(np.ascontiguousarray(images.labels, "<i4").tobytes())
        digest.update("\n".join(names_of(images, data_root(recipe))).encode("utf-8", "surrogateescape"))
        parts[name] = {"images": len(images), "labels_and_names_sha256": digest.hexdigest()}
    return {
        "format": format,
        "shard_mb": shard_mb,
        "size": size,
        "source": {"data": recipe.data.name, "root": str(Path(data_root(recipe)).resolve()), "settings": settings},
        "classes": list(splits.train.class_names),
        "parts": parts,
    }


def names_of(images: ImageSet, root: str) -> list[str]:
    """What images are called in a packed set: paths below root, or their numbers where there are no files."""
    names = images.file_names(root)
    return [images.name(i) for i in range(len(images))] if names is None else names


def require_same(to: Path, begun: Any, plan: dict[str, Any]) -> None:
    """UserError with what differs from the plan that a folder was begun with."""
    begun = begun if isinstance(begun, dict) else {}
    keys = [key for key in plan if begun.get(key) != plan[key]]
    if keys:
        lines = [f"  {key}: {str(begun.get(key))[:100]} there, {str(plan[key])[:100]} now" for key in keys]
        raise UserError(
            f"--to {to} was begun with other settings or from another data set:\n" + "\n".join(lines) + "\n"
            "Give the command that began it, or name a new folder; nothing was changed."
        )


def require_apart(to: Path, recipe: Recipe) -> None:
    """A folder within class folders would become a class of its own."""
    top = Path(data_root(recipe)) / (recipe.data_settings.get("folder") or "")
    if recipe.data.name == "image_folder" and to.resolve().is_relative_to(top.resolve()):
        raise UserError(f"--to {to}: lies among the class folders of {top}; name a folder outside")
