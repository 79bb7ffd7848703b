"""Watches the processes that `msrun` starts: shows rank 0's output, passes signals on, ends all when one has died."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

GRACE = 8.0  # seconds that workers get to save and leave after a signal; 10 are promised
LINGER = 5.0  # seconds that a scheduler may outlive the workers, or they it
_FAILED = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_LOST = re.compile(r"worker (\d+) is the first one timed out")


@dataclass
class Process:
    """One that msrun started; rank None is the scheduler."""

    process: psutil.Process
    rank: int | None

    @property
    def alive(self) -> bool:
        try:
            return self.process.is_running() and self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass
class Outcome:
    """How it ended: the exit status, and what to tell the user ('' for nothing); `rank` is whose log explains it."""

    status: int
    message: str = ""
    rank: int | None = None


@dataclass
class Watch:
    """Runs `command` (an msrun command line) until every process of it is gone.

    Args:
        logs: the folder that msrun writes logs to; `rank_R.log` of `shown` is copied to standard output as it grows.
        shown: rank whose output is shown, None for nobody's.
    """

    command: list[str]
    environment: dict[str, str]
    logs: Path
    shown: int | None = 0
    started: dict[int, Process] = field(default_factory=dict)
    stopped_by: int | None = None

    def run(self) -> Outcome:
        handlers = {n: signal.signal(n, self._stop) for n in (signal.SIGINT, signal.SIGTERM)}
        own = self.logs / "msrun.log"
        try:
            with own.open("w") as output:
                # A session of its own: Ctrl-C in a terminal reaches this process alone, which then asks the workers to save.
                launcher = subprocess.Popen(
                    self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
                )
                outcome = self._follow(launcher, own)
        finally:
            self._end_all()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return outcome

    def _stop(self, number: int, _frame) -> None:
        self.stopped_by = number

    def _follow(self, launcher: subprocess.Popen, own: Path) -> Outcome:
        place = 0
        asked = deadline = failed_at = orphaned_at = None
        failure: Outcome | None = None
        while launcher.poll() is None:
            time.sleep(0.1)
            self._look(launcher.pid)
            place = self._show(place)
            now = time.monotonic()
            if self.stopped_by is not None and asked is None:
                asked, deadline = now, now + GRACE
                self._signal_workers(signal.SIGTERM)
            if failure is None and (found := _FAILED.search(own.read_text(errors="replace"))):
                failure, failed_at = self._failure(int(found[1]), int(found[2])), now
            workers = [p for p in self.started.values() if p.rank is not None and p.alive]
            scheduler = next((p for p in self.started.values() if p.rank is None), None)
            if scheduler is not None and not scheduler.alive and workers:
                orphaned_at = orphaned_at or now
                if failure is None and now > orphaned_at + LINGER:
                    failure = Outcome(
                        1, "the scheduler of the run is gone; its workers were ended. Continue with --resume"
                    )
                    deadline = now
            if failed_at is not None and now > failed_at + LINGER:
                deadline = now  # msrun waits for a scheduler that waits for the workers
            if deadline is not None and now >= deadline:
                self._end_all()
                launcher.terminate()
        self._show(place)
        if failure is None and (found := _FAILED.search(own.read_text(errors="replace"))):
            failure = self._failure(int(found[1]), int(found[2]))
        if self.stopped_by is not None:
            return Outcome(130, "" if deadline is None or time.monotonic() < deadline else _FORCED)
        if failure is not None and failure.status == 130:  # somebody else's signal stopped the workers; they have saved
            return Outcome(130)
        lost = self._lost()
        if failure is not None and lost is not None:
            failure.message = f"rank {lost}, on another machine, is gone; {failure.message}"
        if failure is None and launcher.returncode:
            return Outcome(1, f"msrun ended with status {launcher.returncode}; see {own}")
        return failure or Outcome(0)

    def _lost(self) -> int | None:
        """The worker of another machine that the scheduler has stopped hearing of, if it says so."""
        log = self.logs / "scheduler.log"
        found = _LOST.search(log.read_text(errors="replace")) if log.is_file() else None
        here = {p.rank for p in self.started.values()}
        return int(found[1]) if found and int(found[1]) not in here else None

    def _failure(self, pid: int, code: int) -> Outcome:
        rank = self.started[pid].rank if pid in self.started else None
        who = f"rank {rank}" if rank is not None else f"process {pid}"
        if code < 0:
            name = signal.Signals(-code).name
            return Outcome(128 - code, f"{who} was killed by {name}; the others were ended", rank)
        return Outcome(code, f"{who} ended with status {code}; the others were ended", rank)

    def _look(self, parent: int) -> None:
        """Take note of processes that msrun has started: their rank is in their environment."""
        try:
            children = psutil.Process(parent).children()
        except psutil.NoSuchProcess:
            return
        for child in children:
            if child.pid in self.started:
                continue
            try:
                environment = child.environ()
            except psutil.Error:
                continue
            role = environment.get("MS_ROLE")
            if role in ("MS_WORKER", "MS_SCHED"):
                self.started[child.pid] = Process(child, int(environment["RANK_ID"]) if role == "MS_WORKER" else None)

    def _show(self, place: int) -> int:
        """Copy what has come to the shown rank's log; returns how far it was read."""
        path = self.logs / f"rank_{self.shown}.log"
        if self.shown is None or not path.is_file():
            return place
        with path.open("rb") as file:
            file.seek(place)
            text = file.read()
        sys.stdout.write(text.decode(errors="replace"))
        sys.stdout.flush()
        return place + len(text)

    def _signal_workers(self, number: int) -> None:
        for process in self.started.values():
            if process.rank is not None and process.alive:
                with suppress(psutil.NoSuchProcess):  # gone since
                    process.process.send_signal(number)

    def _end_all(self) -> None:
        """Whatever is left, with what it started itself."""
        for process in self.started.values():
            if not process.alive:
                continue
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                if process.rank is not None:
                    os.killpg(process.process.pid, signal.SIGKILL)  # msrun gives every worker a session of its own
                else:
                    process.process.kill()


_FORCED = f"some workers had not left {GRACE:.0f} s after the signal and were ended; the last checkpoint stands"
