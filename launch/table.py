"""Where the runs of a sweep stand, told to who watches."""

import enum
import shutil
import sys
import time
from collections.abc import Mapping, Sequence

from experiments.folder import StudyFolder
from experiments.study import Run


class State(enum.Enum):
    """Where a run stands."""

    WAITING = "waiting"  # for one that it needs
    READY = "ready"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"  # one that it needs failed


class Table:
    """Shows the runs: on a terminal what runs, drawn anew; elsewhere a line for each event."""

    def __init__(self, folder: StudyFolder) -> None:
        """Shows nothing yet."""
        self._folder = folder
        self._live = sys.stderr.isatty()
        self._lines = 0  # drawn below the events

    def say(self, line: str) -> None:
        """Tells an event."""
        self._clear()
        print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    def show(self, runs: Sequence[Run], states: Mapping[str, State]) -> None:
        """Draws how many runs stand where, and what each that runs said last."""
        if not self._live:
            return
        self._clear()
        counts = {state: list(states.values()).count(state) for state in State}
        lines = ["  ".join(f"{state.value} {count}" for state, count in counts.items() if count)]
        running = [run for run in runs if states[run.name] is State.RUNNING]
        width = max((len(run.name) for run in running), default=0)
        for run in running:
            said = self._folder.last_words(run, 1)
            lines.append(f"  {run.name:{width}}  {said[-1] if said else ''}")
        columns = shutil.get_terminal_size().columns - 1
        print("\n".join(line[:columns] for line in lines), file=sys.stderr, flush=True)
        self._lines = len(lines)

    def close(self) -> None:
        """Removes what was drawn."""
        self._clear()

    def _clear(self) -> None:
        if self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="", file=sys.stderr)
            self._lines = 0
