"""Programs timed in turn: one step of the first, one of the second, and so on.

The speed of a machine drifts; in turn, all programs see the same background load. A program
answers each line on its input with a line of JSON, and the end of its input with a last one.
"""

import json
import pathlib
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

Figures = dict[str, Any]


def serve(turn: Callable[[], Figures], at_end: Callable[[], Figures]) -> None:
    """Runs the loop of a program that takes turns: one turn for each line on its input.

    Args:
      turn: does the work and returns its figures; it is warm already.
      at_end: returns the figures of the whole run, such as the peak memory.
    """
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)
    print(json.dumps(at_end()), flush=True)


def peak_bytes() -> int:
    """Returns the most memory that this process held; `ru_maxrss` begins with its parent's."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class Program:
    """A program that serves turns, in its own process; a context manager."""

    def __init__(self, command: Sequence[str]) -> None:
        """Starts the process."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipes and waits
            pass

    def wait_until_warm(self) -> None:
        """Returns when the program is ready for its first turn."""
        self._read()

    def turn(self) -> Figures:
        """Takes one turn and returns its figures."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> Figures:
        """Ends the program and returns the figures of the whole run."""
        assert self._process.stdin
        self._process.stdin.close()
        return self._read()

    def _read(self) -> Figures:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, Figures]:
    """Runs programs in turn.

    Args:
      commands: name -> command line of a program that serves turns.
      turns: number of turns of each.

    Returns:
      name -> the median of each figure of its turns, and the figures of the whole run.

    Raises:
      SystemExit: if a program ends early.
    """
    figures: dict[str, Figures] = {}
    running: dict[str, Program] = {}
    try:
        for name, command in commands.items():  # one after another: each compiles
            running[name] = Program(command)
            running[name].wait_until_warm()
        taken: dict[str, list[Figures]] = {name: [] for name in running}
        for _ in range(turns):
            for name, program in running.items():
                taken[name].append(program.turn())
        for name, program in running.items():
            keys = taken[name][0]
            medians = {key: statistics.median(turn[key] for turn in taken[name]) for key in keys}
            figures[name] = medians | program.end()
    finally:
        for program in running.values():
            program.__exit__()
    return figures
