"""What the tests of packed data sets share: small sources, and the verb without a process."""

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import yaml

from ms_longtail import recipe as recipes
from ms_longtail.cli import main
from ms_longtail.console import Console
from ms_longtail.run.dataset import data_root, load_whole
from ms_longtail.run.pack import Packing
from ms_longtail.run.pack_plan import make_plan

ROOT = Path(__file__).parent.parent
CLASSES = ["ant", "bee", "über cat"]
COUNTS = [9, 5, 3]


def write_image(path, rng, extension=None):
    """Noise of a random size; grey, 16-bit and transparent ones too, as folders have them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = (int(side) for side in rng.integers(20, 60, 2))
    kind = int(rng.integers(4)) if path.suffix == ".png" else 0
    shape = {1: (height, width), 3: (height, width, 4)}.get(kind, (height, width, 3))
    high = np.uint16 if kind == 2 else np.uint8
    assert cv2.imwrite(str(path), rng.integers(0, np.iinfo(high).max + 1, shape).astype(high))


def write_folder(top):
    """zoo/{train,test}/CLASS/*: PNG and JPEG, unequal classes."""
    rng = np.random.default_rng(0)
    for part, divisor in (("train", 1), ("test", 3)):
        for name, count in zip(CLASSES, COUNTS, strict=True):
            for number in range(count // divisor):
                extension = ".png" if number % 2 else ".jpg"
                write_image(top / part / name / f"{number // 2}_{number % 2}{extension}", rng)
    return top


def write_lists(top):
    """Three list files over one heap of images, in no order, some of them in several lists."""
    rng = np.random.default_rng(1)
    for number in range(12):
        write_image(top / "heap" / f"{number}.v1{'.png' if number % 2 else '.JPEG'}", rng)
    for part, rows in (("train", 12), ("test", 6), ("val", 5)):
        numbers = rng.permutation(12)[:rows]
        lines = [f"heap/{n}.v1{'.png' if n % 2 else '.JPEG'} {i % 3}\n" for i, n in enumerate(numbers)]
        (top / f"{part}.txt").write_text("".join(lines))
    return top


def write_cifar(top):
    """CIFAR-10's binary files, an image of every class in each."""
    rng = np.random.default_rng(2)
    (top / "cifar-10-batches-bin").mkdir(parents=True)
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        records = rng.integers(0, 256, (10, 3073)).astype(np.uint8)
        records[:, 0] = rng.permutation(10)
        (top / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(records.tobytes())
    return top


SOURCES = {
    "folder": (write_folder, lambda top: {"name": "image_folder"}),
    "list": (
        write_lists,
        lambda top: {
            "name": "image_list",
            "train_list": f"{top}/train.txt",
            "test_list": f"{top}/test.txt",
            "validation_list": f"{top}/val.txt",
        },
    ),
    "cifar": (write_cifar, lambda top: {"name": "cifar10_lt"}),
}


def write_recipe(folder, data, name="small.yaml"):
    """A recipe file over the digits' settings with another data set."""
    base = str(ROOT / "configs" / "_base_" / "digits_lt.yaml")
    content = {"base": base, "name": "small", "data": data, "stages": [{"name": "one", "epochs": 1}]}
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def source(folder, kind, **data):
    """(recipe, its data set) of a small source made in `folder`."""
    make, settings = SOURCES[kind]
    top = folder / "source"
    if not top.exists():
        make(top)
    recipe = recipes.load(write_recipe(folder, settings(top) | {"root": str(top)} | data))
    return recipe, load_whole(recipe)


def pack(recipe, splits, to, format="tar", *, shard_mb=0.02, size=None, skip=False, most=0.5, workers=2):
    """What the verb does, without words."""
    packing = Packing(to, make_plan(recipe, splits, format=format, shard_mb=shard_mb, size=size), Console(quiet=True))
    packing.begin()
    try:
        return (
            None if packing.finished else packing.run(splits, data_root(recipe), workers=workers, skip=skip, most=most)
        )
    finally:
        packing.close()


def command(*words):
    """Exit status of a command line."""
    return main([str(word) for word in words])


def content(folder):
    """Every file below a folder, by its name, as bytes."""
    return {
        os.path.relpath(os.path.join(place, name), folder): Path(place, name).read_bytes()
        for place, _, names in os.walk(folder)
        for name in names
    }


def write_tar(path, members, format=tarfile.PAX_FORMAT):
    """A tar of (name, bytes), or of ready TarInfos without data."""
    import io

    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 12, 3)).astype(np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()
