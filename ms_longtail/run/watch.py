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
LINGER = 5.0  # seconds that workers may outlive their scheduler, or msrun a worker that failed
TOLD = 2.0  # seconds that msrun takes at most to say how a worker ended
_FAILED = re.compile(r"Worker process (\d+) exit with exception\. Error code: (-?\d+)")
_LOST = re.compile(r"worker (\d+) is the first one timed out")


@dataclass
class Process:
    """One that msrun started; rank None is the scheduler."""

    process: psutil.Process
    rank: int | None

    @property
    def name(self) -> str:
        return "the scheduler" if self.rank is None else f"rank {self.rank}"

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
        expected: processes that msrun starts on this machine, the scheduler among them.
        grace: seconds that workers get to save and leave after a signal.
    """

    command: list[str]
    environment: dict[str, str]
    logs: Path
    shown: int | None = 0
    expected: int = 1_000_000
    grace: float = GRACE
    started: dict[int, Process] = field(default_factory=dict)
    gone: list[Process] = field(default_factory=list)  # in the order in which they were seen to be gone
    told: set[int] = field(default_factory=set)  # process numbers that were asked to stop
    stopped_by: int | None = None
    forced: bool = False
    place: int = 0

    def run(self) -> Outcome:
        wanted = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            wanted.append(signal.SIGHUP)
        handlers = {number: signal.signal(number, self._stop) for number in wanted}
        launcher = None
        try:
            with (self.logs / "msrun.log").open("w") as output:
                # A session of its own: Ctrl-C in a terminal reaches this process alone, which then asks the workers to save.
                launcher = subprocess.Popen(
                    self.command, env=self.environment, stdout=output, stderr=output, start_new_session=True
                )
                self._follow(launcher)
        finally:
            if launcher is not None:
                self._end_all(launcher)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self._outcome(launcher)

    def _stop(self, number: int, _frame) -> None:
        self.stopped_by = number

    def _follow(self, launcher: subprocess.Popen) -> None:
        """Until msrun and all workers have ended, or have had their time."""
        deadline = failed_at = left_at = None
        while True:
            time.sleep(0.1)
            running = launcher.poll() is None
            if running and len(self.started) < self.expected:
                self._look(launcher.pid)
            self._show()
            self.gone += [p for p in self.started.values() if p not in self.gone and not p.alive]
            workers = [p for p in self.started.values() if p.rank is not None and p not in self.gone]
            now = time.monotonic()
            if not running and not workers:
                return
            if self.stopped_by is not None or not running:  # without msrun nobody would see the workers' end
                self._ask_to_stop(workers)
                deadline = deadline or now + self.grace
            if self.stopped_by is not None and self.started and not workers:
                left_at = left_at or now
                if self._blamed() is not None or now > left_at + TOLD:
                    return  # nobody needs the scheduler any more, which takes its time
            if deadline is None and self._blamed() is not None:
                failed_at = failed_at or now
                if now > failed_at + LINGER:
                    return  # msrun waits for a scheduler that waits for workers
            if deadline is not None and now >= deadline:
                self.forced = bool(workers)
                return

    def _blamed(self) -> str | None:
        """What msrun says of a worker that failed, or that the scheduler is gone before any worker."""
        found = _FAILED.search((self.logs / "msrun.log").read_text(errors="replace"))
        if found:
            return found[0]
        return "scheduler" if self.gone and self.gone[0].rank is None else None

    def _outcome(self, launcher: subprocess.Popen) -> Outcome:
        found = _FAILED.search((self.logs / "msrun.log").read_text(errors="replace"))
        failure = self._failure(int(found[1]), int(found[2])) if found else None
        if self.forced:
            return Outcome(128 + signal.SIGKILL, f"some workers had not left {self.grace:g} s after the signal and were ended; "
                           "the last checkpoint stands. Continue with --resume")  # fmt: skip
        left = (130, 128 + signal.SIGTERM)  # the second: asked before they could listen, so nothing was trained
        if failure is not None and failure.status in left and (self.stopped_by is not None or failure.status == 130):
            return Outcome(130)
        if self.gone and self.gone[0].rank is None and (failure is not None or launcher.returncode):
            return Outcome(1, "the scheduler of the run was gone first; its workers were ended. Continue with --resume")
        if failure is not None:
            return failure
        if launcher.returncode:
            return Outcome(130 if self.stopped_by is not None else 1, "" if self.stopped_by is not None else
                           f"msrun ended with status {launcher.returncode}; see {self.logs / 'msrun.log'}")  # fmt: skip
        return Outcome(0)

    def _failure(self, pid: int, code: int) -> Outcome:
        process = self.started.get(pid)
        rank = process.rank if process else None
        first = self.gone[0] if self.gone else process
        who = process.name if process else f"process {pid}"
        before = f"{first.name} was gone first; " if first not in (None, process) else ""
        lost = self._lost()
        if lost is not None:
            before = f"rank {lost}, on another machine, is gone; "
        if code < 0:
            with suppress(ValueError):
                return Outcome(
                    128 - code, f"{before}{who} was killed by {signal.Signals(-code).name}; the others were ended", rank
                )
        status = code if code > 0 else 128 - code
        return Outcome(status, f"{before}{who} ended with status {status}; the others were ended", rank)

    def _lost(self) -> int | None:
        """The worker of another machine that the scheduler has stopped hearing of, if it says so."""
        log = self.logs / "scheduler.log"
        found = _LOST.search(log.read_text(errors="replace")) if log.is_file() else None
        here = {p.rank for p in self.started.values()}
        return int(found[1]) if found and int(found[1]) not in here else None

    def _look(self, parent: int) -> None:
        """Take note of processes that msrun has started: their rank is in their environment."""
        with suppress(psutil.NoSuchProcess):
            for child in psutil.Process(parent).children():
                if child.pid in self.started:
                    continue
                with suppress(psutil.Error):
                    environment = child.environ()
                    role = environment.get("MS_ROLE")
                    if role in ("MS_WORKER", "MS_SCHED"):
                        rank = int(environment["RANK_ID"]) if role == "MS_WORKER" else None
                        self.started[child.pid] = Process(child, rank)

    def _show(self) -> None:
        """Copy what has come to the shown rank's log."""
        path = self.logs / f"rank_{self.shown}.log"
        if self.shown is None or not path.is_file():
            return
        with path.open("rb") as file:
            file.seek(self.place)
            text = file.read()
        self.place += len(text)
        with suppress(BrokenPipeError):  # whoever read it has gone; the log stays
            sys.stdout.write(text.decode(errors="replace"))
            sys.stdout.flush()

    def _ask_to_stop(self, workers: list[Process]) -> None:
        for process in workers:
            if process.process.pid not in self.told:
                self.told.add(process.process.pid)
                with suppress(psutil.NoSuchProcess):
                    process.process.send_signal(signal.SIGTERM)

    def _end_all(self, launcher: subprocess.Popen) -> None:
        """msrun, and whatever is left of what it has started, noted or not."""
        family = [p.process for p in self.started.values() if p.alive]
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(launcher.pid)
            parent.suspend()  # it starts nobody while we look
            family += parent.children(recursive=True)
        for process in family:
            with suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
                if os.getpgid(process.pid) == process.pid:  # msrun gives every worker a session of its own
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
        launcher.kill()
        launcher.wait()
        until = time.monotonic() + LINGER
        while any(Process(process, None).alive for process in family) and time.monotonic() < until:
            time.sleep(0.05)  # a process that was killed is there a little longer
        self._show()
