"""Backend for this machine: each run is a process with its own cores, so results are repeatable.

All runs of a study keep their compiled programs in one place: runs that differ in their seed share
them, and a run of minutes is spared half a minute.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from experiments.study import Run
from launch.backends import Backend, Command, StudyRuns


class Local(Backend):
    """Starts as many runs at once as there are cores for."""

    poll_seconds = 0.5

    def __init__(self, study: StudyRuns, options: Mapping[str, str]) -> None:
        """Divides the cores into groups, one for each concurrent run."""
        super().__init__(study, options)
        cores = _cores()
        each = min(study.size.cores or len(cores), len(cores))
        last = len(cores) - each
        self._groups = [tuple(cores[n : n + each]) for n in range(0, last + 1, each)]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def room(self, alive: Sequence[Run]) -> int:
        """Returns the number of free groups of cores."""
        return len(self._free(alive))

    def _free(self, alive: Sequence[Run]) -> list[tuple[int, ...]]:
        taken = [self._cores_of(run) for run in alive]
        return [group for group in self._groups if group not in taken]

    def _cores_of(self, run: Run) -> tuple[int, ...]:
        attempts = self.study.folder.attempts(run)
        return attempts[-1].cores if attempts else ()

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns `launch.job` for each run, on free cores."""
        free = self._free(self.alive(self.study.runs))
        groups = [free[n % len(free)] if free else self._groups[0] for n in range(len(runs))]
        return [self._command(run, group) for run, group in zip(runs, groups, strict=True)]

    def _command(self, run: Run, cores: tuple[int, ...]) -> Command:
        words = [sys.executable, "-m", "launch.job", f"--workdir={self.study.folder.path}"]
        words += [f"--number={self.study.number(run)}"]
        return Command([*words, f"--cores={','.join(map(str, cores))}"])

    def start(self, runs: Sequence[Run]) -> None:
        """Starts jobs, and waits until each has recorded its cores."""
        for run, command in zip(runs, self.commands(runs), strict=True):
            before = len(self.study.folder.attempts(run))
            process = subprocess.Popen(
                command.words,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # ctrl-C goes to the sweep, which stops its runs
            )
            self._processes[run.name] = process
            while process.poll() is None and len(self.study.folder.attempts(run)) == before:
                time.sleep(0.02)

    def _environment(self) -> dict[str, str]:
        compiled = self.study.folder.path.absolute() / "compiled" / socket.gethostname()
        return {"JAX_COMPILATION_CACHE_DIR": str(compiled)} | os.environ

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns the runs whose job is alive, or whose driver outlived its job."""
        return [run for run in runs if self._is_alive(run)]

    def _is_alive(self, run: Run) -> bool:
        process = self._processes.get(run.name)
        return (process is not None and process.poll() is None) or self.study.folder.is_locked(run)

    def stop(self) -> str:
        """Asks all runs to save and end, and waits for them."""
        asked = self.alive(self.study.runs)
        for run in asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.study.folder.attempts(run)[-1].process, signal.SIGTERM)
        while self.alive(asked):
            time.sleep(0.1)
        return "all runs have saved and ended; the same command continues"


def _cores() -> list[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
