"""SIGTERM and Ctrl-C as requests: the runner saves at the next safe point and stops."""

import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run stopped on request, with all progress saved; `number` is that of the signal."""

    def __init__(self, number: int, generation: int) -> None:
        """`generation` is the last complete one; -1 if there is none."""
        self.number = number
        when = f"after generation {generation}" if generation >= 0 else "inside generation 0"
        super().__init__(
            f"stopped by {signal.Signals(number).name} {when}; all progress is saved, the same"
            " command continues"
        )


class StopSignal:
    """A context in which the first SIGTERM or SIGINT only sets `requested`; the second acts."""

    def __init__(self, active: bool) -> None:
        """Does nothing if not `active` or outside the main thread, where handlers cannot be set."""
        self.requested: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopSignal":
        """Installs the handlers."""
        if self._active:
            self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the previous handlers."""
        if self._active:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        del frame
        if self.requested is not None:  # second request
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)
        self.requested = number
