"""Progress reports of long runs."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from sparseq.train import Callback, TrainState


class Reporter(Protocol):
    """The interface that recipes report to; units are epochs."""

    def begin(self, total: int, done: int = 0) -> None:
        """The run has `total` units, `done` of which were completed before it was resumed."""

    def advance(self, units: int, note: str) -> None:
        """`units` more are complete; `note` describes the current stage."""

    def note(self, text: str) -> None:
        """A description of the current stage."""

    def resumes(self, position: str) -> None:
        """The run goes on from there ("after epoch 3 of 20 of ...")."""

    def keeps(self, position: str) -> None:
        """If the run ended now, the next one would go on from there."""


class Silent:
    """A reporter that ignores all reports."""

    def begin(self, total: int, done: int = 0) -> None:
        """Ignore."""

    def advance(self, units: int, note: str) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def resumes(self, position: str) -> None:
        """Ignore."""

    def keeps(self, position: str) -> None:
        """Ignore."""


class AdvanceReporter(Callback):
    """Advances a reporter by one unit after every epoch."""

    def __init__(self, report: Reporter, note: str) -> None:
        self.report, self.note = report, note

    def on_epoch_end(self, state: TrainState) -> None:
        """Advance by one unit."""
        self.report.advance(1, self.note)


class Bar:
    """A rich progress bar with the remaining time; without a terminal, a line per 10 %.

    Attributes:
        position: from where an interrupted run will go on; empty if from the start.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("remaining"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._total, self._done = 1, 0
        self.position = ""

    def begin(self, total: int, done: int = 0) -> None:
        """Set the scale."""
        self._total, self._done = max(total, 1), done
        self._progress.update(self._task, total=total, completed=done)

    def advance(self, units: int, note: str) -> None:
        """Move the bar."""
        tenth = 10 * self._done // self._total
        self._done += units
        self._progress.update(self._task, advance=units, description=note)
        if not self._console.is_terminal and 10 * self._done // self._total > tenth:
            self._console.print(
                f"{100 * self._done / self._total:.0f} % done: {note}", highlight=False
            )

    def note(self, text: str) -> None:
        """Change the text."""
        self._progress.update(self._task, description=text)

    def resumes(self, position: str) -> None:
        """Print a line."""
        self._console.print(f"goes on {position}", highlight=False, soft_wrap=True)
        self.position = position

    def keeps(self, position: str) -> None:
        """Keep the text, for the message of an interruption."""
        self.position = position

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()
