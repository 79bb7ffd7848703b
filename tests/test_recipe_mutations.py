"""Two hundred broken recipes, generated from the schema: a message with path and value, status 2, nothing on disk."""

import copy
import random
import sys
from pathlib import Path

import pytest
import yaml

from ms_longtail import recipe
from ms_longtail.cli import main
from ms_longtail.recipe.settings import shorten

CONFIGS = Path(__file__).parent.parent / "configs"
WANTED = 200
KINDS = {"leaf", "negative", "unknown key", "stages", "missing base", "data root", "missing file"}


def leaves(value, path=()):
    """Every (path, leaf) of nested maps and lists."""
    if isinstance(value, dict) and value:
        for key, entry in value.items():
            yield from leaves(entry, (*path, key))
    elif isinstance(value, list) and value:
        for number, entry in enumerate(value):
            yield from leaves(entry, (*path, number))
    else:
        yield path, value


def nodes(value, path=()):
    """Every path that holds a map, the top included."""
    if isinstance(value, dict):
        yield path
        for key, entry in value.items():
            yield from nodes(entry, (*path, key))
    elif isinstance(value, list):
        for number, entry in enumerate(value):
            yield from nodes(entry, (*path, number))


def put(content, path, value):
    content = copy.deepcopy(content)
    place = content
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return content


def mutations(plain, folder, rng):
    """(kind, path, value, recipe): wrong types, out of range, unknown names and keys, missing files, empty stages, cycles."""
    for path, value in leaves(plain):
        wrong = [{"a": 1}, [["x"]], "no such thing", -7.5, True, None, float("nan"), 10**12]
        for replacement in rng.sample(wrong, 3):
            if type(replacement) is not type(value) or replacement != value:
                yield "leaf", path, replacement, put(plain, path, replacement)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            yield "negative", path, -abs(value) - 1, put(plain, path, -abs(value) - 1)
    for path in nodes(plain):
        yield "unknown key", (*path, "colour"), "red", put(plain, (*path, "colour"), "red")
    for value in ([], {}, "train", 3, None):
        yield "stages", ("stages",), value, put(plain, ("stages",), value)
    for value in (3, []):
        yield "stages", ("stages", 0), value, put(plain, ("stages", 0), value)
    yield "missing base", ("base",), str(folder / "nowhere.yaml"), {"base": str(folder / "nowhere.yaml")}
    yield (
        "data root",
        ("data", "root"),
        str(folder / "nowhere"),
        put(put(plain, ("data", "name"), "image_folder"), ("data", "root"), str(folder / "nowhere")),
    )
    for key in ("train_list", "test_list", "names_file"):
        data = {
            "name": "image_list",
            "root": str(folder),
            "train_list": str(folder / "l.txt"),
            "test_list": str(folder / "l.txt"),
        }
        data[key] = str(folder / "nowhere.txt")
        yield "missing file", ("data", key), data[key], put(plain, ("data",), data)
    data = {"name": "inaturalist", "root": str(folder), "train_json": str(folder / "no.json"), "test_json": "no.json"}
    yield "missing file", ("data", "train_json"), data["train_json"], put(plain, ("data",), data)


@pytest.fixture
def plain():
    return recipe.load(CONFIGS / "digits_lt" / "default.yaml").plain


def test_two_hundred_mutations(plain, tmp_path, monkeypatch, capfd):
    (tmp_path / "l.txt").write_text("a.png 0\nb.png 1\n")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    rng = random.Random(0)
    every = list(mutations(plain, tmp_path, rng))
    rng.shuffle(every)
    refused, kinds = 0, set()
    for number, (kind, path, value, content) in enumerate(every):
        file = tmp_path / f"r{number}.yaml"
        file.write_text(yaml.safe_dump(content))
        status = main(["train", "--config", str(file), "--dry-run", "--quiet"])
        printed = capfd.readouterr()
        assert "Traceback" not in printed.err + printed.out, (path, value)
        if status == 0:
            continue  # the mutation is still a valid recipe
        assert status == 2, (path, value, printed.err)
        # A key inside an unknown thing is named by the innermost part that the recipe knows.
        dotted = ".".join(str(p) for p in path)
        names = {dotted, dotted.removesuffix(".name"), ".".join(str(p) for p in path[:-1])}
        assert any(name and name in printed.err for name in names), (path, value, printed.err)
        inner, place = value, dotted  # what is wrong in [["x"]] is 'x', and is said of the place where it stands
        while isinstance(inner, list) and len(inner) == 1:
            (inner,), place = inner, f"{place}.0"
        said = (shorten(value)[:40], str(value), f"{place} = {inner!r}", f"{place}.name = {inner!r}")
        assert any(text in printed.err for text in said), (path, value, printed.err)
        refused += 1
        kinds.add(kind)
        if refused >= WANTED and kinds == KINDS:
            break  # of a fixed shuffle
    assert refused >= WANTED, f"only {refused} of {len(every)} mutations were faults"
    assert kinds == KINDS
    assert not list(work.iterdir()), "something was created on disk"
    print(f"{refused} faults out of {len(every)} mutations", file=sys.stderr)


def test_a_cyclic_base_ends_with_status_2(tmp_path, capfd):
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    assert main(["train", "--config", str(tmp_path / "a.yaml"), "--dry-run"]) == 2
    message = capfd.readouterr().err
    assert "base = " in message
    assert str(tmp_path / "a.yaml") in message
