"""The table of rooms in docs/architecture.md, read off the imports."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ms_longtail"
LEAVES = {"registry", "hashing", "hashing_ops", "parameters", "errors", "bounds"}
EVERYTHING = {p.stem for p in PACKAGE.glob("*.py")} | {p.name for p in PACKAGE.iterdir() if p.is_dir()}
ALLOWED = {
    "runtime": set(),
    "registry": set(),
    "hashing": set(),
    "hashing_ops": {"hashing"},
    "bounds": {"registry"},
    "parameters": set(),
    "errors": set(),
    "collectives": {"runtime"},
    "console": set(),
    "losses": LEAVES,
    "samplers": LEAVES,
    "augment": LEAVES,
    "kernels": LEAVES | {"runtime"},
    "models": LEAVES | {"kernels", "runtime"},
    "data": LEAVES | {"samplers", "augment"},
    "objectives": LEAVES | {"models", "losses"},
    "training": LEAVES | {"objectives", "models", "data", "runtime"},
    "mixing": LEAVES,
    "evaluation": LEAVES,
    "recipe": LEAVES | {"augment", "data", "losses", "mixing", "models", "objectives", "samplers", "training"},
    "verbs": EVERYTHING - {"cli", "__main__"},
    "run": EVERYTHING - {"cli", "__main__"} | {"cli"},
}
FREE = {"cli", "doctor", "__init__", "__main__"}


def imports(path):
    """(line, room) for everything of ours that a file imports, whatever the form."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            target = (*base, *(node.module or "").split(".")) if node.module else base
            names = [target] if target else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ms_longtail":
            rest = tuple(node.module.split(".")[1:])
            names = [rest] if rest else [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("ms_longtail.")]
        for name in names:
            yield node.lineno, name[0]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_the_table_allows(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in FREE:
        return
    foreign = [(line, name) for line, name in imports(path) if name != room and name not in ALLOWED[room]]
    assert not foreign, f"{path}: {foreign}"


def test_every_room_is_in_the_documents_table():
    table = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {p.name for p in PACKAGE.iterdir() if p.is_dir() and any(p.glob("*.py"))}
    for room in rooms | (LEAVES | {"runtime", "console"}):
        assert re.search(rf"^\| `{room}(/|\.py)`|`{room}\.py`, ", table, re.M), room


def test_the_readers_of_imports_sees_them():
    found = {name for _, name in imports(PACKAGE / "run" / "train.py")}
    assert {"runtime", "console", "data", "training", "run"} <= found | {"run"}
    assert "training" in found


def test_files_stay_small():
    lines = {p: len(p.read_text().splitlines()) for p in PACKAGE.rglob("*.py")}
    assert max(lines.values()) <= 320, max(lines, key=lines.get)
    assert sorted(lines.values())[len(lines) // 2] <= 130
