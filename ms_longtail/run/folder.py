"""The run folder: everything a run leaves behind, written so that a kill at any moment loses nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from .. import kernels
from ..errors import UserError
from ..recipe import BEST_BEFORE, Recipe, differences, essence, to_yaml
from ..recipe.imports import located

log = logging.getLogger(__name__)


def write_text(path: Path, text: str) -> None:
    """Write under a temporary name, flush, rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


class RunFolder:
    """Paths and bookkeeping of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.figures = path / "figures"
        self.metrics = path / "metrics.jsonl"
        self.result = path / "result.json"
        self.report = path / "report.md"
        self._lock = None

    @property
    def finished(self) -> bool:
        return self.result.is_file()

    @property
    def begun(self) -> bool:
        """Whether a run is in it; the logs of workers may be there before."""
        return (self.path / "recipe.yaml").is_file()

    def create(self, recipe: Recipe, split: dict, environment: dict) -> None:
        """The whole folder appears at once: built under a hidden name, then renamed. Where the logs of workers are there
        already its parts move in, the recipe last."""
        hidden = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            hidden.mkdir(parents=True)
            for folder in ("checkpoints", "figures", "logs"):
                (hidden / folder).mkdir()
            write_json(hidden / "split.json", split)
            write_json(hidden / "environment.json", environment)
            if recipe.imports:
                recipe = _with_copies(recipe, hidden / "imports")
            write_text(hidden / "recipe.yaml", to_yaml(recipe))
            if self.path.is_dir():
                shutil.rmtree(hidden / "logs")
                shutil.rmtree(self.path / "imports", ignore_errors=True)  # of a start that was cut short
                for part in sorted(os.listdir(hidden), key=lambda name: name == "recipe.yaml"):
                    os.rename(hidden / part, self.path / part)
                hidden.rmdir()
            else:
                os.rename(hidden, self.path)
        except (OSError, UserError) as error:
            shutil.rmtree(hidden, ignore_errors=True)
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot create the run folder {self.path}: {error.strerror}") from error

    def lock(self, name: str = ".lock") -> None:
        """Refuse to let two processes train into one folder, or two launchers start workers for it (`name` ".start")."""
        self._lock = (self.path / name).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{self.path} is in use by another process") from error

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def plain_recipe(self) -> dict[str, Any]:
        path = self.path / "recipe.yaml"
        try:
            plain = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{self.path} is not a run folder: cannot read {path} ({error.strerror})") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged: {' '.join(str(error).split())[:160]}") from error
        kinds = {"data": dict, "model": dict, "stages": list}
        if not (isinstance(plain, dict) and all(isinstance(plain.get(key), kind) for key, kind in kinds.items())):
            raise UserError(f"{path} is damaged: it does not hold a whole recipe")
        plain = {"best_by": BEST_BEFORE} | plain
        return plain | {"imports": located(plain["imports"], self.path)} if "imports" in plain else plain

    def require_same_recipe(self, recipe: Recipe) -> None:
        """A run goes on only with the settings it began with."""
        changed = differences(essence(self.plain_recipe()), essence(recipe.plain))
        if changed:
            lines = "\n".join(f"  {line}" for line in changed)
            raise UserError(
                f"cannot resume {self.path}: its recipe differs in {len(changed)} setting(s):\n{lines}\n"
                f"Set them back, or go on with the run's own recipe (--resume {self.path} alone), or start a new run."
            )

    def require_same_split(self, split: dict) -> None:
        """A run goes on, and is evaluated, only with the images it began with."""
        recorded = json.loads((self.path / "split.json").read_text())
        for key in ("train_sha256", "validation_sha256", "counts"):
            if recorded.get(key) != split.get(key):
                raise UserError(
                    f"the images found now are not those of {self.path}: {key} is {str(split.get(key))[:60]}, "
                    f"split.json says {str(recorded.get(key))[:60]}; restore the data set, or start a new run"
                )

    def compare_arithmetic(self, facts: dict[str, Any]) -> None:
        """A line where what computes now is not what computed before: the run goes on, its last digits will differ."""
        recorded = json.loads((self.path / "environment.json").read_text())
        for key in ("device", "mode", "processor", "convolution"):
            if recorded.get(key) != facts[key]:
                log.warning(
                    "%s was begun with %s %s and goes on with %s: the last digits of its weights will be others than "
                    "without the stop", self.path, key, recorded.get(key), facts[key],
                )  # fmt: skip

    def append_metrics(self, line: dict) -> None:
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict]:
        """All whole lines; a last line cut short by a kill is passed over."""
        if not self.metrics.is_file():
            return []
        lines = []
        for text in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(text))
            except json.JSONDecodeError:
                continue
        return lines

    def read_unreadable(self) -> dict[int, str]:
        """Images that could not be read so far: number in the training set -> message."""
        path = self.path / "unreadable.json"
        return {int(index): text for index, text in json.loads(path.read_text()).items()} if path.is_file() else {}

    def write_unreadable(self, messages: dict[int, str]) -> None:
        write_json(self.path / "unreadable.json", messages)

    def keep_metrics_until(self, draw: int) -> None:
        """Drop what a killed run had written after its last checkpoint: it is about to be computed again."""
        lines = [line for line in self.read_metrics() if line["draw"] <= draw]
        write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in lines))


def _with_copies(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the files that it imports copied to `folder`, and named by their places beside recipe.yaml."""
    folder.mkdir()
    kept = []
    for entry in recipe.imports:
        copy = folder / Path(entry.file).name
        shutil.copyfile(entry.file, copy)
        if hashlib.sha256(copy.read_bytes()).hexdigest() != entry.sha256:
            raise UserError(f"{entry.file} was changed while the run was being started; start it again")
        kept.append({"file": f"{folder.name}/{copy.name}", "sha256": entry.sha256})
    return replace(recipe, plain=recipe.plain | {"imports": kept})


def runs_of(parent: Path, recipe: Recipe) -> list[RunFolder]:
    """Folders of this recipe's name and seed, oldest first: NAME-sSEED, NAME-sSEED-2, ..."""
    stem = f"{recipe.name}-s{recipe.seed}"
    pattern = re.compile(rf"{re.escape(stem)}(?:-(\d+))?")
    matches = [(path, pattern.fullmatch(path.name)) for path in parent.glob(f"{stem}*")]
    numbered = sorted((int(match.group(1) or 1), path) for path, match in matches if match)
    return [RunFolder(path) for _, path in numbered]


def to_resume(parent: Path, recipe: Recipe) -> RunFolder | None:
    """The newest unfinished run of this very recipe; else its newest finished one; else the newest of its name."""
    existing, same, unreadable = [], [], []
    for run in runs_of(parent, recipe):
        if not run.begun:
            continue
        try:
            plain = run.plain_recipe()
        except UserError as error:
            unreadable.append(str(error))
            continue
        existing.append(run)
        if not differences(essence(plain), essence(recipe.plain)):
            same.append(run)
    unfinished = [run for run in same if not run.finished]
    if unreadable and not unfinished:
        raise UserError(
            "\n".join(
                [*unreadable, "this may be the run to go on with: mend it, move it away, or name a run, --resume RUN"]
            )
        )
    for line in unreadable:
        log.warning("%s; passed over", line)
    return next((runs[-1] for runs in (unfinished, same, existing) if runs), None)


def new_run(parent: Path, recipe: Recipe) -> RunFolder:
    stem, taken = f"{recipe.name}-s{recipe.seed}", runs_of(parent, recipe)
    if not taken:
        return RunFolder(parent / stem)
    if taken[-1].path.is_dir() and not taken[-1].begun:  # nothing but the logs of a start that came to nothing
        return taken[-1]
    last = taken[-1].path.name.removeprefix(stem).lstrip("-")
    return RunFolder(parent / f"{stem}-{int(last or 1) + 1}")


def environment(device: str, ranks: int, *, graph: bool = True, data_root: str | None = None) -> dict[str, Any]:
    """Versions, hardware and command, for environment.json and the report."""
    packages = ("mindspore", "numpy", "opencv-python-headless", "pillow", "scikit-learn", "ms-longtail")
    return {
        "command": " ".join(sys.argv),
        "commit": _commit(),
        "source": _source(),
        "device": device,
        "mode": "graph" if graph else "PyNative",
        "ranks": ranks,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "onednn_max_cpu_isa": os.environ.get("ONEDNN_MAX_CPU_ISA"),
        "convolution": kernels.description(),
        "packages": {name: _version(name) for name in packages},
        "data_root": data_root,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        call = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(call, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _source() -> str:
    """SHA-256 over the package's files: tells two states of a working copy apart, which a commit does not."""
    digest, package = hashlib.sha256(), Path(__file__).parent.parent
    for path in sorted(path for kind in ("*.py", "*.cpp", "*.h") for path in package.rglob(kind)):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
