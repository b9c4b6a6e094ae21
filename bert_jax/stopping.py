"""Ending a run early: requests to stop, exit statuses, and notice to the run's other processes."""

import signal
from collections.abc import Callable

RESTART_STATUS = 75  # exit status for "start me again": EX_TEMPFAIL of sysexits.h


class Stopped(Exception):
    """A run stopped on request, with everything saved; the message says how to resume it."""


class StopRequest:
    """Turns ctrl-C and SIGTERM into a request that a loop polls; a second ctrl-C ends at once.

    To be used in a `with`, which installs the signal handlers.
    """

    def __init__(self) -> None:
        """Starts without a request."""
        self._requested = False

    def requested(self, step: int) -> bool:
        """Returns True if the loop should end after this step."""
        del step
        return self._requested

    def __enter__(self) -> "StopRequest":
        """Installs the handlers."""
        signals = (signal.SIGINT, signal.SIGTERM)
        self._previous = {number: signal.signal(number, self._handle) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous handlers."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: object) -> None:
        if self._requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._requested = True


# Exit status and message of this process -> notice to the others, in a run of several processes.
_notify: Callable[[int, str], None] | None = None


def leave_through(notify: Callable[[int, str], None]) -> None:
    """Sets the way in which this process notifies the run's other processes of its end.

    Args:
      notify: takes the exit status and a message (`Lifeline.leave` of `distributed/rendezvous.py`).
    """
    global _notify
    _notify = notify


def shares_run() -> bool:
    """Returns True if this process is one of several of a run."""
    return _notify is not None


def leave(status: int, message: str) -> None:
    """Notifies the run's other processes, if there are any, that this one ends.

    Args:
      status: exit status of this process.
      message: reason, for the others to print.
    """
    if _notify:
        _notify(status, message)
