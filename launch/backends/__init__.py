"""Backends for the runs of a study: each starts runs by its commands, and lists active ones."""

import abc
import hashlib
import pathlib
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS
from experiments.folder import StudyFolder
from experiments.study import Run, Size

MOUNTS = "/gcs"  # folder in which each bucket is mounted under its name


class CommandFailed(UserError):
    """A program of a backend ended with an error, which may pass."""


class Command(NamedTuple):
    """A command line and its standard input."""

    words: list[str]
    stdin: str = ""

    def __str__(self) -> str:
        """Returns the command as a line for a shell."""
        line = shlex.join(self.words)
        return f"{line} <<'END'\n{self.stdin}\nEND" if self.stdin else line


class StudyRuns(NamedTuple):
    """A study's folder and runs, as backends need them.

    Attributes:
      name: of the study.
      size: its scale.
      folder: its folder.
      runs: in the order of the plan.
      inputs: flag of the sweep -> file, folder or URL that runs read.
    """

    name: str
    size: Size
    folder: StudyFolder
    runs: Sequence[Run]
    inputs: Mapping[str, str]

    def number(self, run: Run) -> int:
        """Returns the index of a run in the plan, which its job gets as --number."""
        return self.runs.index(run)

    @property
    def key(self) -> str:
        """Prefix of the names of all its jobs, unique to the study's folder.

        At most 28 lower-case letters, digits and hyphens, starting with a letter, so that a name
        with a suffix is still a DNS label.
        """
        name = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")[:17].rstrip("-")
        folder = hashlib.sha256(str(self.folder.path.absolute()).encode()).hexdigest()
        return f"s-{name}-{folder[:8]}"

    def new_name(self, run: Run) -> str:
        """Returns a new name for one start of a run; it ends with the time in ms."""
        return f"{self.key}-{self.number(run)}-{time.time_ns() // 1_000_000:x}"

    def run_of(self, name: str) -> Run | None:
        """Returns the run of a name from `new_name`; None if it is not of this study."""
        match = re.fullmatch(f"{re.escape(self.key)}-([0-9]+)-[0-9a-f]+", name)
        return self.runs[int(match[1])] if match and int(match[1]) < len(self.runs) else None


class Backend(abc.ABC):
    """Starts runs on some kind of machine, and lists those that are active.

    Attributes:
      needs: required program -> how to install it.
      options: NAME of `--option=NAME=VALUE` -> its description.
      required: names of options that must be given.
      poll_seconds: time between two calls of `alive`.
    """

    needs: ClassVar[Mapping[str, str]] = {}
    options: ClassVar[Mapping[str, str]] = {}
    required: ClassVar[Sequence[str]] = ()
    poll_seconds: ClassVar[float] = 20.0

    def __init__(self, study: StudyRuns, options: Mapping[str, str]) -> None:
        """Takes the study, and options from `check`.

        Raises:
          UserError: if the backend cannot run this study.
        """
        if study.size.hosts < 1:
            raise UserError(
                f"hosts={study.size.hosts} of the size: a run needs a host: set hosts=1"
            )
        self.study, self.given = study, options

    @classmethod
    def check(cls, options: Mapping[str, str]) -> None:
        """Raises UserError for an option that is unknown or missing."""
        known = ", ".join(cls.options) or "none"
        for name in options:
            if name not in cls.options:
                raise UserError(f"--option={name} is unknown: choose among {known}")
        for name in cls.required:
            if name not in options:
                raise UserError(f"--option={name}=... is missing: give {cls.options[name]}")

    @classmethod
    def check_installed(cls) -> None:
        """Raises UserError if a program is missing."""
        for program, remedy in cls.needs.items():
            if shutil.which(program) is None:
                raise UserError(f"{program} is not installed: {remedy}")

    def room(self, alive: Sequence[Run]) -> int | None:
        """Returns the number of runs that may start besides active ones; None: no limit."""
        del alive
        return None

    @abc.abstractmethod
    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns the commands that start runs."""

    def start(self, runs: Sequence[Run]) -> None:
        """Starts runs."""
        for command in self.commands(runs):
            call(command)

    @abc.abstractmethod
    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns the runs that are active, or will be without another start."""

    def stop(self) -> str:
        """Handles the end of the sweep; returns a line for the log about active runs."""
        return "active runs continue; the same command watches them again"


def note_loss(folder: StudyFolder, run: Run) -> None:
    """Records that the hosts of an active run were preempted, which is not a failure."""
    attempts = folder.attempts(run)
    if attempts and attempts[-1].status is None:
        attempts[-1].ended, attempts[-1].status = time.time(), RESTART_STATUS
        folder.write_attempts(run, attempts)


def in_bucket(study: StudyRuns, bucket: str) -> str:
    """Returns the absolute path of a study's folder in a bucket, which is the same on all hosts.

    Raises:
      UserError: if the folder, or an input of the runs, is not in the mounted bucket; or if the
        folder is relative, as the flags of runs would be.
    """
    folder, mount = study.folder.path.absolute(), pathlib.Path(MOUNTS) / bucket
    if mount not in folder.parents:
        raise UserError(
            f"--workdir={study.folder.path} is not in the bucket: mount it at {mount}, as the hosts"
            f" do, and name a folder in it, such as {mount}/{study.name}"
        )
    if not study.folder.path.is_absolute():
        raise UserError(
            f"--workdir={study.folder.path} is relative, and hosts run in another folder: give"
            f" {folder}"
        )
    for flag, path in study.inputs.items():
        if "://" not in path and mount not in pathlib.Path(path).parents:
            raise UserError(
                f"{flag}={path} is not in the bucket, so that the hosts cannot read it: copy it"
                f" there and give its absolute path, such as {mount}/{pathlib.Path(path).name}"
            )
    return str(folder)


def call(command: Command) -> str:
    """Runs a command; returns its output.

    Raises:
      CommandFailed: if it fails; the message has the last line of its output.
    """
    done = subprocess.run(
        command.words, input=command.stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        output = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = output[-1] if output else "no output"
        name = pathlib.Path(command.words[0]).name
        raise CommandFailed(f"{name} failed with status {done.returncode}: {last}")
    return done.stdout
