"""One attempt of one run of a study, wherever it has been sent: what every backend starts.

    python -m launch.job --workdir=runs/drop_nsp --number=3

The driver's words are appended to the run's output, and how it ended to its state. SIGTERM is
passed on: the driver saves and ends, and the exit status (75) asks for another attempt.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from absl import flags

from bert_jax import cli
from bert_jax.errors import UserError
from experiments.folder import Attempt, StudyFolder, hold
from experiments.study import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the study")
_NUMBER = flags.DEFINE_integer("number", -1, "the run's place in the plan, from 0")
_CORES = flags.DEFINE_list("cores", [], "the cores to run on; none: all")
_LAUNCHER = flags.DEFINE_string("launcher", "", "what starts the driver on all hosts: srun")
_HOST = flags.DEFINE_integer("host", 0, "of the run's hosts, where each has a job: its number")


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Lets the driver know when this process is asked to end."""

    def pass_on(number: int, _: object) -> None:
        process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def attempt(
    folder: StudyFolder, run: Run, *, launcher: Sequence[str], cores: Sequence[int], records: bool
) -> int:
    """Runs a driver once; returns its exit status.

    Args:
      folder: of the study.
      run: of the study.
      launcher: words before the command.
      cores: to run on; none: all.
      records: whether the attempt is written down here.

    Raises:
      UserError: if an attempt is at work already.
    """
    output = folder.output(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    inherited: tuple[int, ...] = ()
    attempts = folder.attempts(run)
    if records:
        lock = hold(folder.lock(run))
        if lock is None:
            raise UserError(f"{run.name} is at work already, in {folder.path}")
        inherited = (lock,)  # so that it is held as long as the driver lives, whatever befalls us
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    command = [*launcher, *folder.command(run)]
    with output.open("ab", buffering=0) as words:
        words.write(f"$ {shlex.join(command)}\n".encode())
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=words, stderr=words, pass_fds=inherited
        )
        with _passed_on(process):
            if records:
                now, host = time.time(), socket.gethostname()
                attempts.append(Attempt(now, host, process.pid, tuple(cores)))
                folder.write_attempts(run, attempts)
            status = process.wait()
    if records:
        attempts[-1].ended, attempts[-1].status = time.time(), status
        folder.write_attempts(run, attempts)
    return status


def main() -> None:
    """Makes the attempt that the flags ask for, and ends as its driver did."""
    folder = StudyFolder(pathlib.Path(cli.require("workdir", _WORKDIR.value, "runs/drop_nsp")))
    runs = folder.read_plan().runs
    if not 0 <= _NUMBER.value < len(runs):
        raise UserError(f"--number={_NUMBER.value}: {folder.path} has runs 0 to {len(runs) - 1}")
    run = runs[_NUMBER.value]
    status = attempt(
        folder,
        run,
        # One process prepares, with workers of its own.
        launcher=[] if run.driver == "prepare" else shlex.split(_LAUNCHER.value),
        cores=[int(core) for core in _CORES.value],
        records=_HOST.value == 0,
    )
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    cli.run(main)
