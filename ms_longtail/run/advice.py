"""Which recipe to begin with, from the measured facts of a data set: a few rules, and the command that each comes to."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import recipe as recipes
from .own_folder import SMALL, lengths

SHORT_TAIL = 10.0  # imbalance factor below which the tail is short
FEW_CLASSES = 20  # up to here re-weighting from the first epoch may help; beyond it did harm in the paper
LARGE = 100_000  # images
NEAR_LEAK = 0.01  # share of the test images with a near-duplicate in train that is worth a word

# Recipes of each kind of data by what they do; a file, or a file with a setting. Kinds are names of data sets, and, for class
# folders, "small" and "photos".
RECIPES: dict[str, dict[str, tuple[str, ...]]] = {
    "cifar10_lt": {
        "plain": ("cifar10_lt/ce.yaml",),
        "tricks": ("cifar10_lt/tricks/bag_of_tricks.yaml",),
        "balanced": ("cifar10_lt/losses/balanced_softmax.yaml",),
        "decoupled": ("cifar10_lt/systems/crt.yaml",),
    },
    "cifar100_lt": {
        "plain": ("cifar100_lt/ce.yaml",),
        "tricks": ("cifar100_lt/tricks/bag_of_tricks.yaml",),
        "balanced": ("cifar100_lt/losses/balanced_softmax.yaml",),
        "decoupled": ("cifar100_lt/systems/crt.yaml",),
    },
    "digits_lt": {
        "plain": ("digits_lt/ce.yaml",),
        "tricks": ("digits_lt/default.yaml",),
        "balanced": ("digits_lt/losses/balanced_softmax.yaml",),
        "decoupled": ("digits_lt/systems/crt.yaml",),
    },
    "image_list": {
        "plain": ("imagenet_lt/ce.yaml",),
        "tricks": ("imagenet_lt/bag_of_tricks.yaml",),
        "balanced": ("imagenet_lt/balanced_softmax.yaml",),
        "decoupled": ("imagenet_lt/crt.yaml",),
    },
    "inaturalist": {
        "plain": ("inaturalist18/ce.yaml",),
        "tricks": ("inaturalist18/bag_of_tricks.yaml",),
        "balanced": ("inaturalist18/balanced_softmax.yaml",),
    },
    "small": {
        "plain": ("gtsrb_lt/ce.yaml",),
        "tricks": ("gtsrb_lt/bag_of_tricks.yaml",),
        "balanced": ("gtsrb_lt/ce.yaml", "loss=balanced_softmax"),
    },
    "photos": {
        "plain": ("caltech101/ce.yaml",),
        "tricks": ("caltech101/bag_of_tricks.yaml",),
        "balanced": ("caltech101/ce.yaml", "loss=balanced_softmax"),
    },
}

REASONS = {
    "plain": "With an imbalance factor below 10, cross-entropy with ordinary augmentation loses little on the rare classes; "
    "compare everything else with it.",
    "tricks": "The guideline of Zhang et al. (AAAI 2021): input mixup first, then class-balanced re-sampling with CAM augmentation "
    "in the last epochs, then a short end without mixup. Each step adds to the one before it in their study.",
    "balanced": "Balanced softmax corrects for the class sizes inside the loss, without a setting, in one stage; where many "
    "classes have very few images, sampling by class would only repeat these.",
    "decoupled": "Features learnt from the images as they come, then a balanced classifier: the other choice for many "
    "small classes.",
}


@dataclass(frozen=True)
class Facts:
    """What the rules look at.

    Attributes:
        kind: name of the data set. images, classes: of train. side: median shorter side in pixels.
        imbalance_factor, smallest (class), few (share of the classes with fewer than 20 training images): of train.
        untested: classes without a test image. unreadable: images of all parts. conflicts: images whose pixels
        stand in another class too. leaks: held-out images whose pixels are in train. near_leaks: largest share of
        a held-out part with a near-duplicate in train.
    """

    kind: str
    images: int
    classes: int
    imbalance_factor: float
    smallest: int
    few: float
    side: float
    untested: int = 0
    unreadable: int = 0
    conflicts: int = 0
    leaks: int = 0
    near_leaks: float = 0.0


@dataclass(frozen=True)
class Advice:
    """One thing to do: what, why, and, where it is a training, the recipe below configs/ with its settings."""

    what: str
    why: str
    recipe: str | None = None
    settings: tuple[str, ...] = ()


def advise(facts: Facts) -> list[Advice]:
    """What to mend, then what to train, the first choice first. A pure function."""
    kind = facts.kind
    if kind == "image_folder":
        kind = "small" if facts.side <= SMALL else "photos"
    known = RECIPES.get(kind, {})
    return _mend(facts) + _train(facts, kind, known) + _beware(facts)


def _mend(facts: Facts) -> list[Advice]:
    done = []
    if facts.conflicts:
        why = f"{facts.conflicts} images have the same pixels as one of another class: no network gets both right. Keep one label."
        done.append(Advice("mend first: label conflicts", why))
    if facts.leaks or facts.near_leaks > NEAR_LEAK:
        found = []
        if facts.leaks:
            found.append(f"{facts.leaks} held-out images are in train too")
        if facts.near_leaks:
            found.append(f"{100 * facts.near_leaks:.1f} % of one held-out part are near-duplicates of training images")
        why = (
            f"{', and '.join(found)}: accuracy would be too high. Take them out of one side, or split by recording, not by image "
            "(data.validation.group does so for the validation part)."
        )
        done.append(Advice("mend first: leakage", why))
    if facts.unreadable:
        why = f"{facts.unreadable} images cannot be read, and training stops at the first: mend them, or set data.on_error=skip."
        done.append(Advice("mend first: unreadable images", why))
    return done


def _train(facts: Facts, kind: str, known: dict[str, tuple[str, ...]]) -> list[Advice]:
    if facts.imbalance_factor < SHORT_TAIL:
        order = ["plain", "balanced"]
    elif (facts.few >= 0.5 and facts.classes > FEW_CLASSES) or facts.images > LARGE:
        order = ["balanced", "decoupled", "tricks"]
    else:
        order = ["tricks", "balanced"]
    more: list[str] = []
    if kind == "photos" and facts.images > LARGE:
        more = ["data.size=224", "model=resnet50", "batch=256", "optimizer.lr=0.1", "workers=16"]
    elif kind == "image_list" and facts.images <= LARGE / 2:
        more = ["model=resnet18", "batch=128", "optimizer.lr=0.05"]
    if facts.unreadable:
        more.append("data.on_error=skip")
        share = math.ceil(100 * facts.unreadable / facts.images) / 100
        if facts.unreadable > 1 and share > 0.01:  # more than is let pass without a word
            more.append(f"data.max_error_share={share:g}")
    chosen = [name for name in order if name in known][:2]
    size = " More than 100,000 images carry a network at 224 px as on ImageNet-LT." if "data.size=224" in more else ""
    mirrored = (
        " It mirrors images: where left and right tell classes apart, take flip out of augment, and out of CAM's transforms."
        if kind == "photos"
        else ""
    )
    return [
        Advice(
            "begin with" if not place else "compare with",
            REASONS[name] + ("" if place else size + mirrored),
            f"configs/{known[name][0]}",
            (*known[name][1:], *more),
        )
        for place, name in enumerate(chosen)
    ]


def _beware(facts: Facts) -> list[Advice]:
    done = []
    if facts.imbalance_factor >= SHORT_TAIL:
        some = "from the first epoch it helped on 10 classes and did harm on 100"
        here = (
            "may be tried"
            if facts.classes <= FEW_CLASSES
            else "is better left for the last epochs (deferred, as drw.yaml does)"
        )
        why = f"In the same study {some}; with {facts.classes} classes it {here}."
        done.append(Advice("class weights", why))
    if facts.smallest < 5:
        images = "1 training image" if facts.smallest == 1 else f"{facts.smallest} training images"
        why = (
            f"The smallest class has {images}: no sampler makes new ones, and a validation part takes none of them. "
            "Numbers of such classes need several seeds (gallery --seeds 5), or more images."
        )
        done.append(Advice("very small classes", why))
    if facts.untested:
        why = f"{facts.untested} classes have no test image, so no accuracy counts them."
        done.append(Advice("classes without a test image", why))
    return done


def command(
    advice: Advice, data: dict[str, Any], configs: Path, name: str | None = None, images: int | None = None
) -> str | None:
    """The command of an advice, with the settings in which its recipe's data differ from `data`.

    Args:
        data: settings below `data` of a recipe; those that are None or absent are the recipe's own.
        configs: the folder of the recipes.
        name: of the run.
        images: of train without its validation part, where the recipe was written for another data set: fewer get smaller
            batches and more epochs, as `train.py --data` gives them.
    """
    if advice.recipe is None:
        return None
    recipe = recipes.load(configs / Path(advice.recipe).relative_to("configs")).plain
    own = recipe["data"]
    taken = {assignment.partition("=")[0] for assignment in advice.settings}
    words = [f"name={name}"] if name else []
    words += [word for word in _differences(data, own, "data") if word.partition("=")[0] not in taken]
    words += advice.settings
    if images is not None and "batch" not in taken:
        words += _lengths(recipe, images)
    return shlex.join(["python", "train.py", "--config", advice.recipe, *(["--set", *words] if words else [])])


def _lengths(recipe: dict[str, Any], images: int) -> list[str]:
    stages = recipe["stages"]
    batch, epochs = lengths(images, recipe["batch"], [stage["epochs"] for stage in stages])
    words = [f"batch={batch}", f"optimizer.reference_batch={recipe['batch']}"] if batch != recipe["batch"] else []
    return words + [
        f"stages.{stage['name']}.epochs={length}"
        for stage, length in zip(stages, epochs, strict=True)
        if length != stage["epochs"]
    ]


def _differences(wanted: dict[str, Any], own: dict[str, Any], path: str) -> list[str]:
    words = []
    for key, value in wanted.items():
        if isinstance(value, dict):
            words += _differences(value, own.get(key) or {}, f"{path}.{key}")
        elif value is not None and own.get(key) != value:
            words.append(f"{path}.{key}={value}")
    return words
