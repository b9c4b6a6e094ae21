"""How a run is asked to stop, and how it tells the other processes of the run that it ends."""

import signal
from typing import Protocol

RESTART_STATUS = 75  # of a process that should be started again: EX_TEMPFAIL of sysexits.h


class Stopped(Exception):
    """A run was asked to end and has saved everything; the message says how to go on."""


class StopRequest:
    """Turns ctrl-C and SIGTERM into a flag for a loop to ask; a second ctrl-C ends at once."""

    def __init__(self) -> None:
        """Nothing is asked for yet."""
        self._asked = False

    def requested(self, step: int) -> bool:
        """Whether the loop should end after this step."""
        del step
        return self._asked

    def __enter__(self) -> "StopRequest":
        """Installs the handlers."""
        self._before = {s: signal.signal(s, self._ask) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: object) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True


class Lifeline(Protocol):
    """The connection of a process to the others of its run (`distributed/rendezvous.py`)."""

    def leave(self, status: int, message: str) -> None:
        """Tells the others that this process ends, with its exit status and last words."""


_lifeline: Lifeline | None = None  # of a run of several processes


def leave_through(lifeline: Lifeline) -> None:
    """Lets the other processes of the run know when and why this one ends."""
    global _lifeline
    _lifeline = lifeline


def shares_run() -> bool:
    """Whether this process is one of several of a run."""
    return _lifeline is not None


def leave(status: int, message: str) -> None:
    """Tells the other processes, if there are any, that this one ends."""
    if _lifeline:
        _lifeline.leave(status, message)
