"""Makes one attempt of one run of a study; every backend starts this program.

    python -m launch.job --workdir=runs/drop_nsp --number=3

It appends the driver's output to the run's output file, and the exit status to the run's state.
SIGTERM is passed on: the driver saves and exits with status 75, which asks for another attempt.

If each host of a run has a job of its own, the job of host 0 writes the state.
"""

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.folder import Attempt, StudyFolder, lock_file
from experiments.study import Run

_WORKDIR = flags.DEFINE_string("workdir", None, "the folder of the study")
_NUMBER = flags.DEFINE_integer("number", -1, "index of the run in the plan, from 0")
_CORES = flags.DEFINE_list("cores", [], "the cores to run on; none: all")
_LAUNCHER = flags.DEFINE_string("launcher", "", "program that starts the driver on all hosts: srun")
_HOST = flags.DEFINE_integer("host", 0, "number of this host, if each host of the run has a job")
_TOGETHER = flags.DEFINE_multi_string(
    "together", [], "a flag for the driver, by which it finds the other hosts"
)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 0, "how often the cluster restarted the run; an attempt that it ended did not fail"
)


@contextlib.contextmanager
def _passed_on(process: subprocess.Popen[bytes], is_launcher: bool) -> Iterator[None]:
    """Passes SIGTERM and SIGINT on to the driver.

    A launcher gets none: SLURM signals the drivers itself, and srun would kill them at SIGTERM.
    """

    def pass_on(number: int, _: object) -> None:
        if not is_launcher:
            process.send_signal(number)

    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def attempt(
    folder: StudyFolder,
    run: Run,
    *,
    launcher: Sequence[str] = (),
    together: Sequence[str] = (),
    cores: Sequence[int] = (),
    host: int = 0,
    again: bool = False,
) -> int:
    """Runs a driver once; returns its exit status.

    Args:
      folder: of the study.
      run: of the study.
      launcher: words before the command.
      together: words after the command.
      cores: to run on; (): all.
      host: number of this host, if each host has a job; only host 0 records the attempt.
      again: True if the cluster ended the last attempt, if that has no end, and starts this one.

    Raises:
      UserError: if another attempt of the run is active.
    """
    output = folder.output(run, host)
    output.parent.mkdir(parents=True, exist_ok=True)
    inherited: tuple[int, ...] = ()
    attempts = folder.attempts(run)
    records = host == 0
    if records:
        lock = lock_file(folder.lock(run))
        if lock is None:
            raise UserError(f"{run.name} is already running in {folder.path}: wait for it")
        inherited = (lock,)  # locked as long as the driver lives, even if this process dies
        if again and attempts and attempts[-1].status is None:
            attempts[-1].ended, attempts[-1].status = time.time(), RESTART_STATUS
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    command = [*launcher, *folder.command(run), *together]
    with output.open("ab", buffering=0) as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, pass_fds=inherited
        )
        with _passed_on(process, is_launcher=bool(launcher)):
            if records:
                now, name = time.time(), socket.gethostname()
                attempts.append(Attempt(now, name, process.pid, tuple(cores)))
                folder.write_attempts(run, attempts)
            status = process.wait()
    if status in (-signal.SIGTERM, 128 + signal.SIGTERM):  # the latter from a launcher
        status = RESTART_STATUS  # it was asked to end before it could handle the signal
    if records:
        attempts[-1].ended, attempts[-1].status = time.time(), status
        folder.write_attempts(run, attempts)
    return status


def main(_: Sequence[str]) -> None:
    """Makes the attempt that the flags describe, and exits with the status of its driver."""
    folder = StudyFolder(app.require_path("workdir", _WORKDIR.value, "runs/drop_nsp"))
    runs = folder.read_plan().runs
    if not 0 <= _NUMBER.value < len(runs):
        raise UserError(
            f"--number={_NUMBER.value}: choose a run of {folder.path}, 0 to {len(runs) - 1}"
        )
    run = runs[_NUMBER.value]
    alone = run.is_one_process
    if alone and _HOST.value:
        return
    status = attempt(
        folder,
        run,
        launcher=[] if alone else shlex.split(_LAUNCHER.value),
        together=[] if alone else _TOGETHER.value,
        cores=[int(core) for core in _CORES.value],
        host=_HOST.value,
        again=_RESTARTS.value > 0,
    )
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    app.run(main)
