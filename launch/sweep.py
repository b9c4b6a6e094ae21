"""Runs a study, with all its variants and seeds, on this machine or on a cluster.

    python -m launch.sweep experiments/drop_nsp.py --on=local --size=cpu

Runs that variants share are made once. Finished runs are not repeated: after a stop or a crash the
same command continues. A run that fails is retried, then skipped, and the others continue.
"""

import dataclasses
import os
import pathlib
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from absl import flags

from bert_jax.cli import app
from bert_jax.data.corpus.corpus import read_manifest
from bert_jax.errors import UserError
from bert_jax.files import exists, given, given_path, path_list
from bert_jax.stopping import RESTART_STATUS, Stopped, StopRequest
from experiments.folder import StudyFolder, failures, lock_file
from experiments.study import (
    Plan,
    Run,
    Size,
    Study,
    StudyPaths,
    expand,
    load_study,
    reads_data,
    variants_of,
)
from launch import backends
from launch.backends import Backend, CommandFailed
from launch.backends.gke import Gke
from launch.backends.local import Local
from launch.backends.printed import Printed
from launch.backends.slurm import Slurm
from launch.backends.tpu import Tpu
from launch.table import State, Table

BACKENDS: dict[str, type[Backend]] = {
    "local": Local,
    "slurm": Slurm,
    "tpu": Tpu,
    "gke": Gke,
    "print": Printed,
}

_ON = flags.DEFINE_enum("on", "local", list(BACKENDS), "backend; print: only print the commands")
_SIZE = flags.DEFINE_string("size", "cpu", "one of the study's sizes")
_WORKDIR = flags.DEFINE_string("workdir", "", "the folder of the study; '': runs/STUDY")
_DATA = flags.DEFINE_string("data", "data", "the folder of texts and tasks (experiments/README.md)")
_CORPUS = flags.DEFINE_string("corpus", "", "an existing corpus; '': prepare one")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", "", "for a study with one pretraining: an existing run; '': pretrain"
)
_VARIANTS = flags.DEFINE_list("variants", [], "run only these, with the base; none: all")
_SEEDS = flags.DEFINE_integer("seeds", 0, "number of seeds per variant; 0: that of the size", 0)
_RETRIES = flags.DEFINE_integer("retries", 2, "how often to retry a run that failed", 0)
_OPTIONS = flags.DEFINE_multi_string("option", [], "NAME=VALUE, for the backend")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "only print the commands that would start the runs")

_TASK_FILES = tuple(f"--config.data.{name}" for name in ("train", "dev", "unlabelled"))
_ELSEWHERE = re.compile(r"tfds:|\w+://")  # a dataset, or in the cloud
_OUTPUT_LINES = 5  # of a run that failed
_FAILURES_IN_A_ROW = 10  # of a cluster's programs, after which a sweep gives up


class Sweep:
    """Starts the runs of a study, and watches them until each is done or has failed."""

    def __init__(
        self, folder: StudyFolder, runs: Sequence[Run], backend: Backend, *, retries: int
    ) -> None:
        """Takes the runs, each after those that it needs, and the number of retries of each."""
        self._folder, self._runs, self._backend = folder, runs, backend
        self._began, self._retries = time.time(), retries
        self._states = {run.name: State.WAITING for run in runs}
        self._attempts_before: dict[str, int] = {}  # run's name -> attempts before its last start
        self._silent: Counter[str] = Counter()  # starts of a run that led to no attempt
        self._warned = ""
        self._table = Table(folder)

    def go(self, stop: StopRequest) -> Mapping[str, State]:
        """Runs until no more can be done, or a stop is requested; returns each run's state.

        Raises:
          CommandFailed: if a program of the backend fails at once, or again and again.
        """
        over, failed, worked = False, 0, False
        while not over and not stop.requested(0):
            try:
                over, failed, worked = self._turn(), 0, True
            except CommandFailed as error:
                failed += 1
                if not worked or failed > _FAILURES_IN_A_ROW:
                    raise
                self._warn(error)
            if not over:
                time.sleep(self._backend.poll_seconds)
        self._table.close()
        return self._states

    def _turn(self) -> bool:
        """Looks at all runs and starts those that can; returns True if none is active."""
        alive = self._look()
        ready = [run for run in self._runs if self._states[run.name] is State.READY]
        room = self._backend.room(alive)
        starting = ready if room is None else ready[:room]
        if starting:
            for run in starting:
                self._attempts_before[run.name] = len(self._folder.attempts(run))
            try:
                self._backend.start(starting)
            except CommandFailed as error:
                alive = alive or self._backend.alive(starting)  # some of them may have started
                if not alive:
                    raise
                self._warn(error)  # such as a quota, which may have room when active runs end
                starting = []
            for run in starting:
                self._states[run.name] = State.RUNNING
                self._table.log(f"started {run.name}")
        self._table.show(self._runs, self._states)
        return not alive and not starting

    def _warn(self, error: CommandFailed) -> None:
        """Logs a failure, once until there is another one."""
        if str(error) != self._warned:
            self._table.log(f"warning: {error}; trying again")
        self._warned = str(error)

    def _look(self) -> list[Run]:
        """Updates the states; returns the active runs."""
        open_runs = [run for run in self._runs if self._states[run.name] is not State.DONE]
        alive = self._backend.alive(open_runs)
        living = {run.name for run in alive}
        for run in open_runs:  # each after those that it needs
            before = self._states[run.name]
            if before is State.RUNNING and run.name not in living:
                if len(self._folder.attempts(run)) == self._attempts_before.get(run.name):
                    self._silent[run.name] += 1  # its job ended without starting the run
            now = self._states[run.name] = self._state(run, run.name in living)
            if before is State.RUNNING and now is not before:
                self._tell_end(run, now)
        return alive

    def _state(self, run: Run, lives: bool) -> State:
        needs = [self._states[name] for name in run.needs]
        if lives:
            return State.RUNNING
        if self._folder.is_done(run):
            return State.DONE
        failed = failures(self._folder.attempts(run), self._began) + self._silent[run.name]
        if failed > self._retries:
            return State.FAILED
        if State.FAILED in needs or State.BLOCKED in needs:
            return State.BLOCKED
        return State.READY if all(state is State.DONE for state in needs) else State.WAITING

    def _tell_end(self, run: Run, state: State) -> None:
        attempts = self._folder.attempts(run)
        status = attempts[-1].status if attempts else None
        if state is State.DONE:
            self._table.log(f"done    {run.name}")
        elif status == RESTART_STATUS:
            self._table.log(f"stopped {run.name}: it asks for a restart")
        else:
            how = "without a status" if status is None else f"with status {status}"
            again = "" if state is State.FAILED else "; retrying"
            self._table.log(f"failed  {run.name}: it ended {how}{again}")
            for line in self._folder.last_output(run, _OUTPUT_LINES):
                self._table.log(f"        {line}")


def chosen_size(study: Study) -> Size:
    """Returns the size in the flags, with the seeds and variants in the flags.

    Raises:
      UserError: if the study has no such size or variant, or the base is not among the variants.
    """
    if _SIZE.value not in study.sizes:
        raise UserError(f"--size={_SIZE.value}: choose one of {', '.join(study.sizes)}")
    size = study.sizes[_SIZE.value]
    variants = {variant.name: variant for variant in variants_of(study, size)}
    given = _VARIANTS.value
    for name in given:
        if name not in variants:
            raise UserError(f"--variants={name}: choose among {', '.join(variants)}")
    if given and study.base not in given:
        raise UserError(
            f"--variants={','.join(given)} lacks the base, with which the others are compared: add"
            f" {study.base}"
        )
    for name in given:
        for other, need in variants[name].others.items():
            if other and other not in given:
                raise UserError(
                    f"--variants={','.join(given)} lacks {other}, which {name} {need}: add it"
                )
    chosen = tuple(variant for name, variant in variants.items() if name in (given or variants))
    return dataclasses.replace(size, seeds=_SEEDS.value or size.seeds, variants=chosen)


def _has_steps(checkpoint: str) -> bool:
    """Returns True for the directory of a run with a checkpoint, or one of its checkpoints."""
    named = pathlib.Path(checkpoint)
    folders = [named / "checkpoints", named]  # a run, or the folder of its checkpoints
    steps = [step for each in folders if each.is_dir() for step in each.iterdir()]
    return (named / "metadata").is_dir() or any(step.name.isdecimal() for step in steps)


def _check_task_files(runs: Sequence[Run]) -> None:
    """Raises UserError if a file of a task is not there; cloud paths may be closed to us here."""
    sources = {flag.partition("=")[2] for run in runs for flag in run.flags if _is_of_task(flag)}
    for path in sorted({path for source in sources for path in path_list(source) if path}):
        if not _ELSEWHERE.match(path) and not exists(path):
            raise UserError(
                f"{path}, which the study's tasks read, is not there: make it as"
                " experiments/README.md describes"
            )


def _is_of_task(flag: str) -> bool:
    return flag.partition("=")[0] in _TASK_FILES


def chosen_options() -> dict[str, str]:
    """Returns name -> value of the --option flags.

    Raises:
      UserError: if one has no value.
    """
    options = {}
    for option in _OPTIONS.value:
        name, equals, value = option.partition("=")
        if not equals or not value:
            raise UserError(f"--option={option}: write it as --option=NAME=VALUE")
        options[name] = value
    return options


def main(argv: Sequence[str]) -> None:
    """Checks everything, then starts the runs."""
    files = argv[1:]
    if len(files) != 1:
        raise UserError("name one study: python -m launch.sweep experiments/drop_nsp.py")
    study, question = load_study(files[0])
    name, size = pathlib.Path(files[0]).stem, chosen_size(study)
    folder = StudyFolder(given_path(_WORKDIR.value or f"runs/{name}"))
    paths = StudyPaths(
        workdir=str(folder.path),
        data=given(_DATA.value),
        corpus=given(_CORPUS.value),
        checkpoint=given(_CHECKPOINT.value),
    )
    if paths.checkpoint and not study.one_pretraining:
        raise UserError(
            f"--checkpoint={paths.checkpoint}: {name} pretrains its variants: leave the flag out"
        )
    runs = expand(study, size, paths)
    inputs = {"--corpus": paths.corpus, "--checkpoint": paths.checkpoint}
    inputs = {flag: path for flag, path in inputs.items() if path}
    if reads_data(study, size, paths):
        inputs["--data"] = paths.data
    if "--data" in inputs and not os.path.isdir(paths.data):
        raise UserError(
            f"--data={paths.data} is not a folder: make it as experiments/README.md describes"
        )
    if paths.corpus and "://" not in paths.corpus:  # what is in the cloud may be closed to us here
        read_manifest(paths.corpus)
    if paths.checkpoint and "://" not in paths.checkpoint and not _has_steps(paths.checkpoint):
        raise UserError(f"--checkpoint={paths.checkpoint} has no checkpoint: name a run")
    _check_task_files(runs)
    backend_type, options = BACKENDS[_ON.value], chosen_options()
    backend_type.check(options)
    backend = backend_type(backends.StudyRuns(name, size, folder, runs, inputs), options)
    if _DRY_RUN.value or _ON.value == "print":
        for command in backend.commands(runs):
            print(command)
        return
    backend_type.check_installed()
    plan = Plan(
        study=name,
        size=_SIZE.value,
        question=question,
        base=study.base,
        variants=variants_of(study, size),
        published=study.published,
        runs=tuple(runs),
    )
    folder.check_plan(plan)
    if lock_file(folder.path / "sweep.lock") is None:
        raise UserError(f"--workdir={folder.path}: another sweep is running there: wait for it")
    if before := folder.find_plan():
        # Jobs know their run by its number; what is active must keep it.
        names = [run.name for run in runs]
        moved = [run for at, run in enumerate(before.runs) if names[at : at + 1] != [run.name]]
        earlier = backend_type(backend.study._replace(runs=before.runs), options)
        if moved and (active := earlier.alive(moved)):
            raise UserError(
                f"{active[0].name} is active, and this plan gives its number to another run: wait"
                " for it or cancel it, or give the flags that it was started with"
            )
    folder.write_plan(plan)  # jobs find their run by its index in the plan
    with StopRequest() as stop:
        states = Sweep(folder, runs, backend, retries=_RETRIES.value).go(stop)
    if stop.requested(0):
        raise Stopped(f"stopped: {backend.stop()}")
    failed = [name for name, state in states.items() if state is State.FAILED]
    if failed:
        blocked = list(states.values()).count(State.BLOCKED)
        waiting = f", and {blocked} more wait for them" if blocked else ""
        raise UserError(
            f"failed: {', '.join(failed)}{waiting}: see {folder.path}/output; the same command"
            " retries them"
        )
    print(f"{len(runs)} runs are done: python -m experiments.report {folder.path}")


if __name__ == "__main__":
    app.run(main, positional=True)
