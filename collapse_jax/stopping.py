"""SIGTERM as a request: the runner saves at the next safe point and then leaves."""

import signal
import threading
from typing import Any


class Stopped(Exception):
    """A run left early, on request, with all its progress saved."""

    def __init__(self, generation: int) -> None:
        """`generation` is the last one that is complete."""
        when = f"after generation {generation}" if generation >= 0 else "inside generation 0"
        super().__init__(
            f"stopped by SIGTERM {when}; all progress is saved, the same command continues"
        )


class StopSignal:
    """A context in which SIGTERM only sets `requested`."""

    def __init__(self, active: bool) -> None:
        """Does nothing unless `active`, nor outside the main thread, where signals can't be set."""
        self.requested = False
        self._active = active and threading.current_thread() is threading.main_thread()

    def __enter__(self) -> "StopSignal":
        """Installs the handler."""
        if self._active:
            self._previous: Any = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(self, *exception: object) -> None:
        """Restores the handler that was there."""
        if self._active:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, number: int, frame: Any) -> None:
        del number, frame
        self.requested = True
