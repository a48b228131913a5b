"""SIGTERM and Ctrl-C as requests: the runner saves at the next safe point and then leaves."""

import signal
import threading
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A run left early, on request, with all its progress saved; `number` is the signal's."""

    def __init__(self, number: int, generation: int) -> None:
        """`generation` is the last one that is complete."""
        self.number = number
        when = f"after generation {generation}" if generation >= 0 else "inside generation 0"
        super().__init__(
            f"stopped by {signal.Signals(number).name} {when}; all progress is saved, the same"
            " command continues"
        )


class StopSignal:
    """A context in which the first SIGTERM or SIGINT only sets `requested`; a second one acts."""

    def __init__(self, active: bool) -> None:
        """Does nothing unless `active`, nor outside the main thread, where signals can't be set."""
        self.requested: int | None = None
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopSignal":
        """Installs the handlers."""
        if self._active:
            self._previous = {number: signal.signal(number, self._request) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the handlers that were there."""
        if self._active:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        del frame
        if self.requested is not None:  # the user means it
            signal.signal(number, self._previous[signal.Signals(number)])
            signal.raise_signal(number)
        self.requested = number
