"""What a person sees: a progress bar on a terminal, plain lines elsewhere, nothing with --quiet."""

from __future__ import annotations

import time
from collections.abc import Iterable

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Console:
    """Prints for the one process that may print.

    Args:
        quiet: print nothing at all (errors go to stderr by another way).
        plain_every: seconds between two lines of progress where there is no terminal.
    """

    def __init__(self, *, quiet: bool = False, plain_every: float = 15.0):
        self.quiet = quiet
        self.rich = RichConsole(quiet=quiet, highlight=False, soft_wrap=True)
        if not self.rich.is_terminal:
            self.rich.width = 140  # a log file has no width of its own
        self.plain_every = plain_every
        self._bar: Progress | None = None
        self._task = None
        self._last_line = 0.0
        self._label, self._total, self._unit = "", 0, "step"
        self._measured_from: tuple[float, int] | None = None  # time, units done

    def say(self, text: str) -> None:
        self.rich.print(text, markup=False)

    def table(self, title: str, rows: Iterable[dict[str, str]]) -> None:
        rows = list(rows)
        if not rows:
            return
        table = Table(title=title, title_justify="left")
        for name in rows[0]:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row.values()))
        self.rich.print(table)

    def start(self, label: str, total: int, done: int, unit: str = "step") -> None:
        """Begin to show the steps of a stage, or other units of work."""
        self._unit = unit
        self._label, self._total, self._measured_from = label, total, None
        self._last_line = time.monotonic()
        if self.rich.is_terminal and not self.quiet:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
            self._bar = Progress(*columns, TextColumn("{task.fields[text]}"), TimeRemainingColumn(), console=self.rich)
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, completed=done, text="")

    def step(self, done: int, loss: float | None, lr: float | None, images_per_second: float) -> None:
        text = f"{images_per_second:,.0f} images/s"
        if lr is not None:
            text = f"lr {lr:.4g}  {text}"
        if loss is not None:
            text = f"loss {loss:.4f}  {text}"
        self.advance(done, text)

    def advance(self, done: int, text: str) -> None:
        """Show that `done` of the total are done, with a text of one's own beside it."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=done, text=text)
            return
        now = time.monotonic()
        # Before its first step a stage is compiled, which says nothing about the rest.
        began, first = self._measured_from = self._measured_from or (now, done)
        if now - self._last_line >= self.plain_every or done == self._total:
            self._last_line = now
            known = done > first or done == self._total
            left = (now - began) / max(1, done - first) * (self._total - done)
            self.say(f"{self._label}  {self._unit} {done}/{self._total}  {text}" + f"  {duration(left)} left" * known)

    def stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
