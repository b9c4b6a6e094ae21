"""Runs as the elements of SLURM's job arrays, a task on each host."""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence

from bert_jax.files import write_atomically
from experiments.study import Run
from launch.backends import Backend, Command, Study, call

_SCRIPT = pathlib.Path(__file__).parents[1] / "slurm_job.sh"
_FIELDS = ("account", "partition", "qos", "constraint", "gres", "gpus-per-node", "mem")
_FIELDS += ("cpus-per-task", "exclude", "nodelist", "reservation", "overcommit", "ntasks")


class Slurm(Backend):
    """The checkout, its environment and the study's folder must be where all hosts see them."""

    needs = {"sbatch": "SLURM's client programs belong on this machine (Debian: slurm-client)"}
    options = {name: f"sbatch's --{name}" for name in _FIELDS}

    def __init__(self, study: Study, options: Mapping[str, str]) -> None:
        """Finds the jobs that an earlier sweep has sent."""
        super().__init__(study, options)
        self._path = study.folder.path / "slurm.json"
        self._jobs: dict[str, str] = {}  # run -> JOB_ELEMENT
        if self._path.exists():
            self._jobs = json.loads(self._path.read_text())

    def commands(self, runs: Sequence[Run]) -> list[Command]:
        """Returns one array of all of them."""
        numbers = ",".join(str(self.study.number(run)) for run in runs)
        size, folder = self.study.size, self.study.folder.path.absolute()
        words = ["sbatch", "--parsable", f"--array={numbers}", f"--job-name={self.study.name}"]
        words += [f"--nodes={size.hosts}", "--ntasks-per-node=1", f"--time={size.minutes}"]
        words += ["--requeue", "--open-mode=append", f"--output={folder}/slurm-%A_%a.txt"]
        words += [f"--{name}={value}" for name, value in self.given.items()]
        return [Command([*words, str(_SCRIPT), sys.executable, str(folder)])]

    def start(self, runs: Sequence[Run]) -> None:
        """Sends the array, and remembers who is who in it."""
        (command,) = self.commands(runs)
        job = call(command).strip().partition(";")[0]
        self._jobs |= {run.name: f"{job}_{self.study.number(run)}" for run in runs}
        write_atomically(self._path, json.dumps(self._jobs, indent=1).encode())

    def alive(self, runs: Sequence[Run]) -> list[Run]:
        """Returns those whose element waits, runs or is about to end."""
        sent = [run for run in runs if run.name in self._jobs]
        if not sent:
            return []
        words = ["squeue", "--me", "--array", "--noheader", "--format=%F_%K"]
        elements = set(call(Command(words)).split())
        return [run for run in sent if self._jobs[run.name] in elements]
