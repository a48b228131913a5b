"""A progress line on standard error; silent unless asked for."""

from typing import Any


class Progress:
    """Counts chain-generations as they are done; a context manager."""

    def __init__(self, title: str, total: int, shown: bool) -> None:
        """`total` in chain-generations; nothing is printed unless `shown`."""
        self._bar: Any = None
        self._title, self._total = title, total
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )

    def __enter__(self) -> "Progress":
        """Shows the bar."""
        if self._bar is not None:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, note="compiling")
        return self

    def advance(self, amount: int, note: str) -> None:
        """Adds what is done; `note` says where the run is."""
        if self._bar is not None:
            self._bar.update(self._task, advance=amount, note=note)

    def __exit__(self, *exception: object) -> None:
        """Leaves the last state on the screen."""
        if self._bar is not None:
            self._bar.stop()
