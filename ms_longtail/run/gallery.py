"""A folder of recipes over several seeds: every run in a process of its own, one table after each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..console import Console, duration
from ..evaluation import gallery as table
from ..evaluation import percent
from ..training.callbacks import StopSignals
from .folder import write_text
from .jobs import Job


class Gallery:
    """Carries out the jobs that are not finished, one after the other.

    Args:
        jobs: all of them, finished or not, in the order in which they run.
        runs: where run folders are and go. out: where the table goes, and the runs' own output (logs/).
        overrides, device, reuse: handed on to each run.
        baseline: name of the recipe that the picture draws a line for, or None.
        title, command: for the table's head and foot.
        program: the command line that trains, without its arguments.
    """

    def __init__(
        self,
        jobs: list[Job],
        *,
        runs: Path,
        out: Path,
        overrides: list[str],
        device: str,
        reuse: bool,
        baseline: str | None,
        title: str,
        command: str,
        console: Console,
        program: tuple[str, ...] = (sys.executable, "-m", "ms_longtail", "train"),
    ):
        self.jobs, self.runs, self.out = jobs, runs, out
        self.overrides, self.device, self.reuse = overrides, device, reuse
        self.baseline, self.title, self.command = baseline, title, command
        self.console, self.program = console, program
        self.rows = [job.row(runs) for job in jobs]

    def run(self) -> int:
        """The exit status: 0, 1 if a run failed, 130 if a signal asked for a stop."""
        for folder in (self.runs, self.out / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        waiting = [place for place, row in enumerate(self.rows) if row.status != "finished"]
        if len(waiting) < len(self.jobs):
            self.console.say(f"{len(self.jobs) - len(waiting)} of {len(self.jobs)} runs are finished already")
        self.write()
        took: dict[str, list[float]] = {}
        with StopSignals() as signals:
            for number, place in enumerate(waiting):
                job, began = self.jobs[place], time.monotonic()
                self.rows[place] = job.row(self.runs)
                if self.rows[place].status == "finished":
                    continue  # two files may mean the same run
                error = self._train(job, lambda: signals.requested)
                self.rows[place] = row = job.row(self.runs)
                took.setdefault(job.entry.recipe, []).append(time.monotonic() - began)
                if signals.requested and row.status != "finished":
                    self.write()
                    self.console.say("stopped; everything is saved. The same command goes on from here")
                    return 130
                if row.status != "finished":
                    error = error or "no result of this recipe; was its file changed after the gallery had started?"
                    self.rows[place] = row = replace(row, status="failed", error=error)
                self.write()
                left = [self.jobs[i].entry.recipe for i in waiting[number + 1 :]]
                done = len(self.jobs) - len(left)
                self.console.say(f"[{done}/{len(self.jobs)}] {describe(row)}; {duration(time_left(took, left))} left")
                if signals.requested and left:
                    return 130
        self.write()
        return 1 if any(row.status == "failed" for row in self.rows) else 0

    def overview(self) -> list[dict[str, str]]:
        """A row per recipe for people to read."""
        lines = []
        for entry in {job.entry.recipe: job.entry for job in self.jobs}.values():
            own = [row for row in self.rows if row.recipe == entry.recipe]
            finished = sum(row.status == "finished" for row in own)
            seeds = ", ".join(str(row.seed) for row in own)
            lines.append({"recipe": entry.recipe, "steps": str(entry.steps), "seeds": seeds, "finished": str(finished)})
        return lines

    def write(self) -> None:
        """The table, the two CSV files and the picture, of what is finished now."""
        entries = list({job.entry.recipe: job.entry for job in self.jobs}.values())
        summaries = table.summarise(entries, self.rows)
        write_text(self.out / "gallery.csv", table.table_csv(summaries))
        write_text(self.out / "runs.csv", table.runs_csv(self.rows))
        if any(row.status == "finished" for row in self.rows):
            from ..evaluation.gallery_plot import gallery as draw  # matplotlib takes a second to load

            draw(self.out / "gallery.png", summaries, self.baseline)
        text = table.markdown(
            title=self.title,
            summaries=summaries,
            rows=self.rows,
            environments=self._environments(),
            command=self.command,
        )
        write_text(self.out / "gallery.md", text)

    def _environments(self) -> list[dict]:
        """Those that the finished runs were made in, each once."""
        found: dict[str, dict] = {}
        for row in self.rows:
            if row.status == "finished":
                facts = json.loads((Path(row.folder) / "environment.json").read_text())
                shown = {key: value for key, value in facts.items() if key not in ("command", "source", "data_root")}
                found.setdefault(json.dumps(shown), facts)
        return list(found.values())

    def _train(self, job: Job, stop: Callable[[], bool]) -> str:
        """Run one job to its end, or until asked to stop; its last line if it failed, else ""."""
        existing = job.folder(self.runs)
        words = ["--config", job.entry.path, "--runs", str(self.runs), "--device", self.device]
        words += ["--resume", str(existing.path)] if existing else []
        words += ["--reuse", str(self.runs)] if self.reuse else []
        words += ["--set", *self.overrides, f"seed={job.recipe.seed}"]
        path = self.out / "logs" / f"{job.entry.recipe.replace('/', '_')}-s{job.recipe.seed}.log"
        environment = {key: value for key, value in os.environ.items() if key != "MSLT_RUN_FOLDER"}
        with path.open("ab") as log:
            start = log.tell()
            # A session of its own: the terminal's Ctrl-C reaches the gallery alone, which passes it on once.
            process = subprocess.Popen(
                [*self.program, *words], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=environment, start_new_session=True,
            )  # fmt: skip
            asked = False
            while True:
                try:
                    status = process.wait(0.2)
                    break
                except subprocess.TimeoutExpired:
                    if stop() and not asked:
                        process.send_signal(signal.SIGTERM)
                        asked = True
        return "" if status == 0 else failure(status, path.read_bytes()[start:].decode(errors="replace"), path)


def failure(status: int, output: str, log: Path) -> str:
    """One line on why a process failed: its last line that begins with "error:", else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    marked = [line.removeprefix("error: ") for line in lines if line.startswith("error:")]
    last = next((found[-1] for found in (marked, lines) if found), "no output")
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return f"{last} ({how}; {log})"


def time_left(took: dict[str, list[float]], left: list[str]) -> float:
    """Seconds that the recipes in `left` will take, by what runs of the same recipe took, or else any.

    Example:
        >>> time_left({"a": [10.0, 14.0], "b": [30.0]}, ["a", "c"])
        30.0
    """
    every = [seconds for runs in took.values() for seconds in runs]
    means = {name: sum(runs) / len(runs) for name, runs in took.items()}
    return sum(means.get(name, sum(every) / len(every)) for name in left)


def describe(row: table.Row) -> str:
    """One line about a run."""
    head = f"{row.recipe}, seed {row.seed}"
    if row.status != "finished":
        return f"{head}: failed: {row.error}"
    names = ("top1", "balanced", "many", "medium", "few")
    scores = ", ".join(f"{table.SCORES[key]} {percent(row.scores[key])}" for key in names)
    return f"{head}: {scores}"
