"""The folder of a study: its plan, and the output and state of each run, as files.

    plan.json            the study and all its runs, with their flags
    corpus, pretrain/nsp/seed-0, ...   results of the runs
    compiled/HOST        their compiled programs, of runs on one machine
    output/NAME.txt      output of a run, over all its attempts; NAME.host-1.txt and so on: of its
                         other hosts, if each has a job of its own
    states/NAME.json     attempts of a run: begin, host, end and exit status of each
    states/NAME.lock     locked while an attempt runs on this machine

Only the process that starts a run's driver (`launch/job.py`) writes the state of the run.
"""

import dataclasses
import fcntl
import json
import os
import pathlib
import sys
import time
from collections.abc import Sequence

from bert_jax.errors import UserError
from bert_jax.files import write_atomically
from bert_jax.stopping import RESTART_STATUS
from experiments.study import Plan, Run

PLAN_FILE = "plan.json"


@dataclasses.dataclass
class Attempt:
    """One start of a run's driver."""

    began: float  # seconds since 1970
    host: str
    process: int  # process id of the driver, or of its launcher such as srun
    cores: tuple[int, ...] = ()  # that it is bound to; (): not bound
    ended: float | None = None  # seconds since 1970
    status: int | None = None  # exit status; None: it still runs, or its end was not recorded


class StudyFolder:
    """The files of a study."""

    def __init__(self, path: pathlib.Path, flag: str = "--workdir") -> None:
        """Takes the folder, which may not exist yet, and the flag that names it in messages."""
        self.path, self._flag = path, flag

    def command(self, run: Run) -> list[str]:
        """Returns the command line of a run, as a user would type it."""
        package = "experiments" if run.driver == "linear" else "bert_jax"
        words = [sys.executable, "-m", f"{package}.{run.driver}", *run.flags]
        # prepare has --output among its flags.
        return words if run.driver == "prepare" else [*words, f"--workdir={self.path / run.name}"]

    def output(self, run: Run, host: int = 0) -> pathlib.Path:
        """Returns the file for the output of a run on one of its hosts."""
        return self.path / "output" / f"{run.name}{f'.host-{host}' if host else ''}.txt"

    def lock(self, run: Run) -> pathlib.Path:
        """Returns the file that is locked while a run is active on this machine."""
        return self.path / "states" / f"{run.name}.lock"

    def attempts(self, run: Run) -> list[Attempt]:
        """Reads the attempts of a run, the newest last."""
        try:
            stored = json.loads(self._state(run).read_text())
        except FileNotFoundError:
            return []
        return [Attempt(**attempt | {"cores": tuple(attempt["cores"])}) for attempt in stored]

    def write_attempts(self, run: Run, attempts: Sequence[Attempt]) -> None:
        """Writes the attempts of a run."""
        path = self._state(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps([dataclasses.asdict(attempt) for attempt in attempts])
        write_atomically(path, content.encode())

    def _state(self, run: Run) -> pathlib.Path:
        return self.path / "states" / f"{run.name}.json"

    def is_done(self, run: Run) -> bool:
        """Returns True if an attempt of the run succeeded."""
        return any(attempt.status == 0 for attempt in self.attempts(run))

    def is_locked(self, run: Run) -> bool:
        """Returns True if an attempt of the run is active on this machine."""
        try:
            with self.lock(run).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def last_output(self, run: Run, lines: int) -> list[str]:
        """Returns the last lines of output of a run's last attempt."""
        try:
            with self.output(run).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        text = text.rpartition("\n$ ")[2]  # job.py begins an attempt with its command
        return [line for line in text.splitlines() if line.strip()][-lines:]

    def check_plan(self, plan: Plan) -> None:
        """Checks that a plan continues the one in the folder; writes nothing.

        Raises:
          UserError: if the folder has another study or other files, or the command of a run that
            has begun changed.
        """
        if before := self.find_plan():
            if (before.study, before.size) != (plan.study, plan.size):
                raise UserError(
                    f"{self._flag}={self.path} has {before.study} at size {before.size}, not"
                    f" {plan.study} at size {plan.size}: name another directory"
                )
            self._check_same_commands(before, plan)
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(
                f"{self._flag}={self.path} has files but no study: name a new or an empty directory"
            )

    def write_plan(self, plan: Plan) -> None:
        """Writes the plan, after `check_plan`."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / PLAN_FILE, json.dumps(plan.to_dict(), indent=1).encode())

    def _check_same_commands(self, before: Plan, now: Plan) -> None:
        known = {run.name: run for run in before.runs}
        for run in now.runs:
            begun = known.get(run.name)
            ours = (f"the driver {run.driver}", *run.flags)
            theirs = begun and (f"the driver {begun.driver}", *begun.flags)
            if theirs and theirs != ours and self.attempts(run):
                changed = sorted(set(ours) ^ set(theirs))
                raise UserError(
                    f"{self._flag}={self.path} began {run.name} with another command (it differs in"
                    f" {', '.join(changed[:3])}): name another directory"
                )

    def find_plan(self) -> Plan | None:
        """Reads the plan; None if there is none."""
        try:
            return Plan.from_dict(json.loads((self.path / PLAN_FILE).read_text()))
        except FileNotFoundError:
            return None

    def read_plan(self) -> Plan:
        """Reads the plan.

        Raises:
          UserError: if there is none.
        """
        if (plan := self.find_plan()) is None:
            raise UserError(f"{self.path} has no study: name a folder that launch.sweep made")
        return plan


def lock_file(path: pathlib.Path) -> int | None:
    """Creates and locks a file until this process, and those that inherit it, have ended.

    Returns:
      Its descriptor; None if another process has locked it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(20):  # `is_locked` of another process locks it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.05)
    os.close(file)
    return None


def failures(attempts: Sequence[Attempt], since: float) -> int:
    """Counts the attempts since a time that failed; a request for a restart is not a failure."""
    return sum(
        attempt.began >= since and attempt.status not in (0, RESTART_STATUS) for attempt in attempts
    )
