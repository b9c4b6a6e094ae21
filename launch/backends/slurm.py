"""Backend for SLURM: each run is an element of a job array, with a task on each host.

No record of submitted jobs is kept: the name of a job is that of the study, and the index of an
element identifies its run. So a sweep finds the jobs of an earlier one.
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

# Elements of an array, at most: SLURM's default for MaxArraySize.
_ARRAY_SIZE = 1000
# Between the signal and the time limit, for saving.
_NOTICE_SECONDS = 120
# Reasons for which SLURM holds a job until an administrator releases it; its run never started.
_STUCK = ("launch failed requeued held", "user env retrieval failed requeued held")
_STUCK += ("JobHoldMaxRequeue",)


class Slurm(Backend):
    """Submits runs; all hosts must see the checkout, its environment and the study's folder."""

    needs = {"sbatch": "install SLURM's client programs (Debian: slurm-client)"}
    options = {name: f"sbatch's --{name}" for name in _FIELDS}

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns a job array for each thousand run numbers."""
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
        """Submits the arrays."""
        (self.study.folder.path / "output").mkdir(exist_ok=True)  # SLURM does not create it
        super().start(runs)

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns the runs whose element is pending, running or completing; cancels held ones."""
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
