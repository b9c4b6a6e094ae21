"""Programs that are timed in turn: a step of one, a step of the next, and so on.

Machines drift, and what drifts meets all of them alike. A program answers each line that it reads
with a line of JSON, and the end of its input with a last one.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

Facts = dict[str, Any]


def serve(turn: Callable[[], Facts], at_end: Callable[[], Facts]) -> None:
    """Is the side of the program: takes a turn whenever it is asked for one.

    Args:
      turn: works, and returns its figures; it has been warmed up.
      at_end: returns what there is to say at last.
    """
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)
    print(json.dumps(at_end()), flush=True)


class Program:
    """A program that serves turns, in a process of its own; to be used in a `with`."""

    def __init__(self, command: Sequence[str]) -> None:
        """Starts it."""
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        with self._process:  # closes its pipes, and waits
            pass

    def wait_until_warm(self) -> None:
        """Returns when the first turn can be taken."""
        self._read()

    def turn(self) -> Facts:
        """Lets it take a turn."""
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def end(self) -> Facts:
        """Lets it end, and returns its last words."""
        assert self._process.stdin
        self._process.stdin.close()
        return self._read()

    def _read(self) -> Facts:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args} ended with status {self._process.wait()}")
        return json.loads(line)


def take_turns(commands: Mapping[str, Sequence[str]], turns: int) -> dict[str, Facts]:
    """Times programs in turn.

    Args:
      commands: name -> what starts the program.
      turns: of each.

    Returns:
      name -> the median of each of its figures, and its last words.
    """
    facts: dict[str, Facts] = {}
    running: dict[str, Program] = {}
    try:
        for name, command in commands.items():  # one after another: they compile
            running[name] = Program(command)
            running[name].wait_until_warm()
        told: dict[str, list[Facts]] = {name: [] for name in running}
        for _ in range(turns):
            for name, program in running.items():
                told[name].append(program.turn())
        for name, program in running.items():
            medians = {key: statistics.median(t[key] for t in told[name]) for key in told[name][0]}
            facts[name] = medians | program.end()
    finally:
        for program in running.values():
            program.__exit__()
    return facts
