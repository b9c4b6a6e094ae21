"""Where the runs of a study can go: each backend says by which commands, and which runs live."""

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

MOUNTS = "/gcs"  # where buckets are mounted, each under its name


class Command(NamedTuple):
    """What is typed, and what it reads from its standard input."""

    words: list[str]
    stdin: str = ""

    def __str__(self) -> str:
        """Returns it as one would type it in a shell."""
        line = shlex.join(self.words)
        return f"{line} <<'END'\n{self.stdin}\nEND" if self.stdin else line


class Study(NamedTuple):
    """What a backend must know of the study."""

    name: str
    size: Size
    folder: StudyFolder
    runs: Sequence[Run]

    def number(self, run: Run) -> int:
        """Returns a run's place in the plan, by which jobs are told theirs."""
        return self.runs.index(run)

    @property
    def key(self) -> str:
        """Returns what all its jobs are named after, which no other study's are.

        At most 28 lower case letters, digits and hyphens, a letter first: a label of DNS, to which
        more can be added.
        """
        name = re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-")[:17].rstrip("-")
        folder = hashlib.sha256(str(self.folder.path.absolute()).encode()).hexdigest()
        return f"s-{name}-{folder[:8]}"

    def new_name(self, run: Run) -> str:
        """Returns a name for a start of a run, which no earlier start had (it ends in the ms)."""
        return f"{self.key}-{self.number(run)}-{time.time_ns() // 1_000_000:x}"

    def run_of(self, name: str) -> Run | None:
        """Returns whose start has a name; None: no run's of this study."""
        match = re.fullmatch(f"{re.escape(self.key)}-([0-9]+)-[0-9a-f]+", name)
        return self.runs[int(match[1])] if match and int(match[1]) < len(self.runs) else None


class Backend(abc.ABC):
    """Starts runs elsewhere, and says which of them live.

    Attributes:
      needs: programs that must be there, and what brings them.
      options: names that `--option=NAME=VALUE` may have, and what each is.
      required: those without which nothing can be started.
      poll_seconds: between two looks.
    """

    needs: ClassVar[Mapping[str, str]] = {}
    options: ClassVar[Mapping[str, str]] = {}
    required: ClassVar[Sequence[str]] = ()
    poll_seconds: ClassVar[float] = 20.0

    def __init__(self, study: Study, options: Mapping[str, str]) -> None:
        """Takes the study and the options, which have been checked.

        Raises:
          UserError: if the runs cannot go there.
        """
        if study.size.hosts < 1:
            raise UserError(
                f"hosts={study.size.hosts} of the size: a run needs a host, set hosts=1"
            )
        self.study, self.given = study, options

    @classmethod
    def check(cls, options: Mapping[str, str]) -> None:
        """Raises UserError for an option that is unknown or missing."""
        known = ", ".join(cls.options) or "none"
        for name in options:
            if name not in cls.options:
                raise UserError(f"--option={name}: there is no such option here; there are {known}")
        for name in cls.required:
            if name not in options:
                raise UserError(f"--option={name}=... is missing: {cls.options[name]}")

    @classmethod
    def check_installed(cls) -> None:
        """Raises UserError where a program is missing."""
        for program, remedy in cls.needs.items():
            if shutil.which(program) is None:
                raise UserError(f"{program} is not installed: {remedy}")

    def room(self, alive: Sequence[Run]) -> int | None:
        """Returns how many more may start beside those; None: as many as there are."""
        del alive
        return None

    @abc.abstractmethod
    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns what starts runs."""

    def start(self, runs: Sequence[Run]) -> None:
        """Starts runs."""
        for command in self.commands(runs):
            call(command)

    @abc.abstractmethod
    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those that are at work, or will be without another start."""

    def stop(self) -> str:
        """Is called when the sweep is asked to end; returns a line about the runs that live."""
        return "runs that have been started go on; the same command watches them again"


def note_loss(folder: StudyFolder, run: Run) -> None:
    """Writes down that the hosts of a run at work were taken away: it did not fail."""
    attempts = folder.attempts(run)
    if attempts and attempts[-1].status is None:
        attempts[-1].ended, attempts[-1].status = time.time(), RESTART_STATUS
        folder.write_attempts(run, attempts)


def in_bucket(study: Study, bucket: str) -> str:
    """Returns the absolute path of a study's folder, which all hosts see in a bucket.

    Raises:
      UserError: if it is not where they mount the bucket.
    """
    folder, mount = study.folder.path.absolute(), pathlib.Path(MOUNTS) / bucket
    if mount not in folder.parents:
        raise UserError(
            f"--workdir={study.folder.path} is not in the bucket: mount it at {mount}, as its hosts"
            f" do, and name a folder of it, such as {mount}/{study.name}"
        )
    return str(folder)


def call(command: Command) -> str:
    """Runs a command; returns what it wrote.

    Raises:
      UserError: if it fails, with its last words.
    """
    done = subprocess.run(
        command.words, input=command.stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        last = said[-1] if said else "no word"
        name = pathlib.Path(command.words[0]).name
        raise UserError(f"{name} failed with status {done.returncode}: {last}")
    return done.stdout
