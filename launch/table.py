"""Progress of a sweep's runs, on the terminal or as log lines."""

import enum
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from experiments.folder import StudyFolder
from experiments.study import Run


class State(enum.Enum):
    """State of a run in a sweep."""

    WAITING = "waiting"  # for a run that it needs
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"  # a run that it needs failed


class Table:
    """Shows events as lines, and below them, on a terminal, a table of the active runs."""

    def __init__(self, folder: StudyFolder) -> None:
        """Takes the folder of the study, for the output of its runs."""
        self._folder = folder
        self._live = sys.stderr.isatty()
        self._lines = 0  # drawn below the events

    def log(self, line: str) -> None:
        """Prints an event with the time."""
        self._clear()
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    def show(self, runs: Sequence[Run], states: Mapping[str, State]) -> None:
        """Draws the number of runs in each state, and the last line of output of active runs."""
        if not self._live:
            return
        self._clear()
        counts = {state: list(states.values()).count(state) for state in State}
        lines = ["  ".join(f"{state.value} {count}" for state, count in counts.items() if count)]
        running = [run for run in runs if states[run.name] is State.RUNNING]
        width = max((len(run.name) for run in running), default=0)
        for run in running:
            output = self._folder.last_output(run, 1)
            lines.append(f"  {run.name:{width}}  {output[-1] if output else ''}")
        columns = shutil.get_terminal_size().columns - 1
        print("\n".join(line[:columns] for line in lines), file=sys.stderr, flush=True)
        self._lines = len(lines)

    def close(self) -> None:
        """Removes the table."""
        self._clear()

    def _clear(self) -> None:
        if self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="", file=sys.stderr)
            self._lines = 0
