"""What is known of a study's runs, as files in its folder: who runs, who is done, who failed.

    plan.json            the study and all runs, with their commands
    corpus, pretrain/nsp/seed-0, ...   what the runs make
    output/NAME.txt      what a run said, over all its attempts; NAME.host-1.txt and so on: what
                         its other hosts said, where each has a job of its own
    states/NAME.json     its attempts: when, where, and how each ended
    states/NAME.lock     locked while an attempt is at work on this machine

One process writes a run's state: the one that starts its driver (`launch/job.py`).
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
    process: int  # of the driver, or of what starts it on all hosts
    cores: tuple[int, ...] = ()  # that it is bound to; none: not bound
    ended: float | None = None
    status: int | None = None  # of its exit; None: it still runs, or ended without a word


class StudyFolder:
    """The files of a study."""

    def __init__(self, path: pathlib.Path) -> None:
        """Takes the folder, which may not exist yet."""
        self.path = path

    def command(self, run: Run) -> list[str]:
        """Returns what a user would type for a run."""
        words = [sys.executable, "-m", f"bert_jax.{run.driver}", *run.flags]
        # A corpus is named by its flag --output.
        return words if run.driver == "prepare" else [*words, f"--workdir={self.path / run.name}"]

    def output(self, run: Run, host: int = 0) -> pathlib.Path:
        """Returns where a run's words go, those of one of its hosts."""
        return self.path / "output" / f"{run.name}{f'.host-{host}' if host else ''}.txt"

    def lock(self, run: Run) -> pathlib.Path:
        """Returns the file that is locked while a run is at work on this machine."""
        return self.path / "states" / f"{run.name}.lock"

    def attempts(self, run: Run) -> list[Attempt]:
        """Reads the attempts of a run, the newest last."""
        try:
            stored = json.loads(self._state(run).read_text())
        except FileNotFoundError:
            return []
        return [Attempt(**attempt | {"cores": tuple(attempt["cores"])}) for attempt in stored]

    def write_attempts(self, run: Run, attempts: Sequence[Attempt]) -> None:
        """Writes them."""
        path = self._state(run)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps([dataclasses.asdict(attempt) for attempt in attempts])
        write_atomically(path, content.encode())

    def _state(self, run: Run) -> pathlib.Path:
        return self.path / "states" / f"{run.name}.json"

    def is_done(self, run: Run) -> bool:
        """Whether an attempt ended well."""
        return any(attempt.status == 0 for attempt in self.attempts(run))

    def is_locked(self, run: Run) -> bool:
        """Whether an attempt is at work on this machine."""
        try:
            with self.lock(run).open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def last_words(self, run: Run, lines: int) -> list[str]:
        """Returns the end of what a run said in its last attempt."""
        try:
            with self.output(run).open("rb") as file:
                file.seek(max(file.seek(0, os.SEEK_END) - 4096, 0))
                said = file.read().decode(errors="replace")
        except FileNotFoundError:
            return []
        said = said.rpartition("\n$ ")[2]  # job.py begins an attempt with its command
        return [line for line in said.splitlines() if line.strip()][-lines:]

    def check_plan(self, plan: Plan) -> None:
        """Refuses a plan that does not go on with what is there; writes nothing.

        Raises:
          UserError: if it is another study's, or a run's command changed: what is finished stays.
        """
        if before := self.find_plan():
            if (before.study, before.size) != (plan.study, plan.size):
                raise UserError(
                    f"--workdir={self.path} holds {before.study} at size {before.size}, not"
                    f" {plan.study} at size {plan.size}: name another directory"
                )
            self._check_same_commands(before, plan)
        elif self.path.exists() and any(self.path.iterdir()):
            raise UserError(
                f"--workdir={self.path} holds files and no study: name a new or an empty directory"
            )

    def write_plan(self, plan: Plan) -> None:
        """Writes what the folder is for; `check_plan` has found nothing against it."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path / PLAN_FILE, json.dumps(plan.to_dict(), indent=1).encode())

    def _check_same_commands(self, before: Plan, now: Plan) -> None:
        known = {run.name: run for run in before.runs}
        for run in now.runs:
            begun = known.get(run.name)
            if begun and begun.flags != run.flags and self.attempts(run):
                changed = sorted(set(begun.flags) ^ set(run.flags))
                raise UserError(
                    f"--workdir={self.path} began {run.name} with another command (it differs in"
                    f" {', '.join(changed[:3])}): name another directory"
                )

    def find_plan(self) -> Plan | None:
        """Reads the plan; None where there is none."""
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
            raise UserError(f"{self.path} holds no study: name a folder that launch.sweep made")
        return plan


def hold(path: pathlib.Path) -> int | None:
    """Locks a file, which is made, until this process and those that inherit it have ended.

    Returns:
      Its descriptor; None where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    for _ in range(20):  # who only looks whether it is locked holds it for a moment
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            time.sleep(0.05)
    os.close(file)
    return None


def failures(attempts: Sequence[Attempt], since: float) -> int:
    """Counts the attempts that failed after a time; one that asks for a restart has not."""
    return sum(
        attempt.began >= since and attempt.status not in (0, RESTART_STATUS) for attempt in attempts
    )
