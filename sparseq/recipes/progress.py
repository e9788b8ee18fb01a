"""How a long run tells how far it is."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """What a recipe calls; units are epochs."""

    def begin(self, total: int, done: int = 0) -> None:
        """The run has `total` units, `done` of which an earlier start has finished."""

    def advance(self, units: int, note: str) -> None:
        """`units` more are done; `note` says where the run is."""

    def note(self, text: str) -> None:
        """What is going on now."""


class Silent:
    """A reporter that says nothing."""

    def begin(self, total: int, done: int = 0) -> None:
        """Ignore."""

    def advance(self, units: int, note: str) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class Bar:
    """A rich progress bar with the time left; not on a terminal, a line for every tenth."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("starting", total=None)
        self._total, self._done = 1, 0

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
