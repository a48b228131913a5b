"""Progress of a run on standard error; silent by default."""

import sys
import time
from typing import Any

# Seconds between lines when standard error is not a terminal.
_SECONDS = 60.0


class Progress:
    """A context manager that shows completed chain-generations.

    It is a bar on a terminal, else one line a minute.
    """

    def __init__(self, title: str, total: int, shown: bool) -> None:
        """`total` in chain-generations; nothing is printed unless `shown`."""
        self._title, self._total, self._done = title, total, 0
        self._began = self._written = time.monotonic()
        self._bar: Any = None
        self._lines = False
        if shown:
            from rich.console import Console

            console = Console(stderr=True)
            self._lines = not (console.is_terminal or console.is_jupyter)
            self._bar = None if self._lines else _bar(console)

    def __enter__(self) -> "Progress":
        """Shows the bar."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="compiling")
        return self

    def advance(self, amount: int, note: str) -> None:
        """Adds completed chain-generations; `note` names the current generation or stage."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, note=note)
        now = time.monotonic()
        if self._lines and now - self._written >= _SECONDS:
            share, minutes = self._done / self._total, (now - self._began) / 60
            line = f"{self._title}: {100 * share:.0f} %, {note}, after {minutes:.0f} min"
            print(line, file=sys.stderr, flush=True)
            self._written = now

    def __exit__(self, *exception: object) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()


def _bar(console: Any) -> Any:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=console,
    )
