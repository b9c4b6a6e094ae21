"""Runs as the elements of SLURM's job arrays, a task on each host.

Nothing is kept on who was sent where: the jobs have the study's name, and an element of an array
says by its index which run it is. So a sweep finds what an earlier one has sent.
"""

import itertools
import pathlib
import sys
from collections.abc import Sequence

from experiments.study import Run
from launch.backends import Backend, Command, call

_SCRIPT = pathlib.Path(__file__).parents[1] / "slurm_job.sh"
_FIELDS = ("account", "partition", "qos", "constraint", "gres", "gpus-per-node", "mem")
_FIELDS += ("cpus-per-task", "exclude", "nodelist", "reservation")

# The indexes of an array; SLURM's default for MaxArraySize allows no more.
_ARRAY_SIZE = 1000
# Before the time limit, so that a run can save and go on in another job.
_NOTICE_SECONDS = 120
# Reasons for which SLURM lets a job wait for an administrator, whose run had no chance to begin.
_STUCK = ("launch failed requeued held", "user env retrieval failed requeued held")
_STUCK += ("JobHoldMaxRequeue",)


class Slurm(Backend):
    """The checkout, its environment and the study's folder must be where all hosts see them."""

    needs = {"sbatch": "SLURM's client programs belong on this machine (Debian: slurm-client)"}
    options = {name: f"sbatch's --{name}" for name in _FIELDS}

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns an array of jobs for each thousand numbers."""
        numbers = sorted(self.study.number(run) for run in runs)
        groups = itertools.groupby(numbers, lambda number: number // _ARRAY_SIZE)
        return [self._array(group, list(members)) for group, members in groups]

    def _array(self, group: int, numbers: Sequence[int]) -> Command:
        first = group * _ARRAY_SIZE
        indexes = ",".join(str(number - first) for number in numbers)
        size, folder = self.study.size, self.study.folder.path.absolute()
        words = ["sbatch", f"--array={indexes}", f"--job-name={self.study.key}.{group}"]
        words += [f"--nodes={size.hosts}", "--ntasks-per-node=1", f"--time={size.minutes}"]
        words += [f"--signal=TERM@{_NOTICE_SECONDS}", "--requeue", "--open-mode=append"]
        words += [f"--output={folder}/output/slurm-%A_%a.txt"]
        words += [f"--{name}={value}" for name, value in self.given.items()]
        return Command([*words, str(_SCRIPT), sys.executable, str(folder), str(first)])

    def start(self, runs: Sequence[Run]) -> None:
        """Sends the arrays."""
        (self.study.folder.path / "output").mkdir(exist_ok=True)  # SLURM would not make it
        super().start(runs)

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those whose element waits, runs or is about to end."""
        words = ["squeue", "--me", "--array", "--noheader", "--format=%i|%j|%K|%r"]
        found = set()
        for line in call(Command(words)).splitlines():
            job, name, index, reason = line.split("|", 3)
            key, _, group = name.rpartition(".")
            if key != self.study.key:
                continue
            if reason.replace("_", " ") in _STUCK:
                call(Command(["scancel", job]))
            else:
                found.add(int(group) * _ARRAY_SIZE + int(index))
        return [run for run in runs if self.study.number(run) in found]
