"""A sweep on a real SLURM of two nodes: it gives what this machine gives, through everything."""

import contextlib
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest

from bert_jax.stopping import RESTART_STATUS
from experiments.folder import StudyFolder
from experiments.study import Run
from tests.distributed.test_processes import DEVICES, assert_same_losses, one_process
from tests.fixtures.drivers import PATIENCE_SECONDS, PRETRAIN_RECIPE, ROOT, Drivers, log_of
from tests.fixtures.slurm import Slurm

# Two runs of one config on two hosts each, long enough to be disturbed.
_TWO_HOSTS = '''
"""Does it matter what befalls a run?"""

from experiments.study import Size, Study, Variant

SIZE = Size(prepare=(), recipe="RECIPE", seeds=1, minutes=5, hosts=2,
            pretrain=("steps=60", "eval_steps=20", "checkpoint_steps=20", "log_steps=1"))
STUDY = Study(
    base="left_alone",
    variants=(Variant("left_alone"), Variant("disturbed", pretrain=("seed=0",))),
    sizes={"two": SIZE},
)
'''


@pytest.fixture(scope="module")
def environment() -> Iterator[None]:
    """What all drivers of this module have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", f"{DEVICES}1")
        yield


# `python -m launch.sweep` that looks more often than is good for a cluster of many users.
_SWEEP = """
import runpy
from launch.backends.slurm import Slurm
Slurm.poll_seconds = 0.5
runpy.run_module("launch.sweep", run_name="__main__", alter_sys=True)
"""


class Sweep:
    """A sweep at work."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-c", _SWEEP, *words]
        self._words = tempfile.TemporaryFile("w+")
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=self._words, stderr=self._words)

    def said(self) -> str:
        self._words.seek(0)
        return self._words.read()

    def wait_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert self._process.poll() is None and time.monotonic() < end, self.said()
            time.sleep(0.02)

    def finish(self) -> None:
        assert self._process.wait(PATIENCE_SECONDS) == 0, self.said()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._words.close()


@contextlib.contextmanager
def sweeping(study: pathlib.Path, *flags: str, on: str) -> Iterator[Sweep]:
    sweep = Sweep(str(study), f"--on={on}", *flags)
    try:
        yield sweep
    finally:
        sweep.kill()


def logs(folder: StudyFolder) -> dict[str, list[dict]]:
    runs = [run for run in folder.read_plan().runs if run.driver != "prepare"]
    return {run.name: log_of(folder.path / run.name) for run in runs}


def statuses(folder: StudyFolder, run: Run) -> list[int | None]:
    return [attempt.status for attempt in folder.attempts(run)]


@pytest.fixture(scope="module")
def two_hosts(
    slurm: Slurm, environment: None, corpus: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> StudyFolder:
    """The study of two runs, of which one was disturbed twice."""
    place = tmp_path_factory.mktemp("two_hosts")
    (place / "pretrain.py").write_text(PRETRAIN_RECIPE)
    study = place / "fates.py"
    study.write_text(_TWO_HOSTS.lstrip().replace("RECIPE", str(place / "pretrain.py")))
    folder = StudyFolder(place / "runs")
    flags = [f"--workdir={folder.path}", "--size=two", f"--corpus={corpus}", f"--data={place}"]
    with sweeping(study, *flags, on="slurm") as sweep:
        sweep.wait_until(folder.find_plan)
        disturbed = folder.read_plan().runs[1]
        log = folder.path / disturbed.name / "log.jsonl"
        for times, words in enumerate((["scancel", "--signal=TERM"], ["scontrol", "requeue"])):
            sweep.wait_until(lambda n=times: len(statuses(folder, disturbed)) > n)
            lines = len(log.read_text().splitlines()) if log.exists() else 0
            sweep.wait_until(lambda n=lines: log.exists() and len(log.read_text().splitlines()) > n)
            job = element(slurm, 1)
            slurm.call(*words, job)
            # SLURM would let two minutes pass before the next start.
            sweep.wait_until(
                lambda n=job: slurm.call("squeue", "-h", "-j", n, "-o%T") == "PENDING\n"
            )
            slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
        sweep.finish()
    return folder


def element(slurm: Slurm, index: int) -> str:
    """Returns the one job of the queue that has this place in its array."""
    lines = slurm.call("squeue", "--array", "--noheader", "--format=%K %i").splitlines()
    (found,) = [job for place, job in map(str.split, lines) if int(place) == index]
    return found


def test_two_hosts_form_one_job_and_give_what_one_process_gives(
    two_hosts: StudyFolder, environment: None, drivers: Drivers, tmp_path: pathlib.Path
):
    run = two_hosts.read_plan().runs[0]
    assert statuses(two_hosts, run) == [0]
    assert "2 x cpu: data=2" in two_hosts.output(run).read_text()
    alone = tmp_path / "alone"
    one_process(drivers, "pretrain", *run.flags, f"--workdir={alone}", devices=2)
    assert_same_losses(two_hosts.path / run.name, alone)


def test_who_is_asked_to_end_or_taken_away_goes_on_and_ends_as_the_others(two_hosts: StudyFolder):
    left_alone, disturbed = two_hosts.read_plan().runs
    assert statuses(two_hosts, disturbed) == [RESTART_STATUS, RESTART_STATUS, 0]
    ours, theirs = (log_of(two_hosts.path / run.name) for run in (disturbed, left_alone))
    assert ours == theirs


def test_a_study_gives_what_it_gives_here_though_its_sweep_was_killed(
    slurm: Slurm, environment: None, study_file: pathlib.Path, tmp_path: pathlib.Path
):
    folders = {on: StudyFolder(tmp_path / on) for on in ("local", "slurm")}
    shared = [f"--data={study_file.parent / 'data'}", "--seeds=1"]
    flags = {on: [*shared, f"--workdir={folder.path}"] for on, folder in folders.items()}
    with sweeping(study_file, *flags["local"], on="local") as sweep:
        sweep.finish()
    with sweeping(study_file, *flags["slurm"], on="slurm") as sweep:
        sweep.wait_until(folders["slurm"].find_plan)
        first = folders["slurm"].read_plan().runs[0]
        sweep.wait_until(lambda: statuses(folders["slurm"], first))
    with sweeping(study_file, *flags["slurm"], on="slurm") as sweep:
        sweep.finish()
    runs = folders["slurm"].read_plan().runs
    assert len(runs) == 6  # a corpus, two pretrainings, three fine-tunings
    assert [statuses(folders["slurm"], run) for run in runs] == [[0]] * len(runs)
    sent = list((folders["slurm"].path / "output").glob("slurm-*.txt"))
    assert len(sent) == len(runs)  # SLURM writes one for each job; none was sent twice
    assert logs(folders["slurm"]) == logs(folders["local"])


def test_an_element_that_asks_for_it_goes_on_and_one_that_is_cancelled_does_not(
    slurm: Slurm, tmp_path: pathlib.Path
):
    asks = tmp_path / "python"  # in place of a run: it saves and ends when it is asked to
    # SLURM signals every process of a step, and `sleep` may get it first: then the loop goes on.
    wait = "while :; do sleep 0.2 & wait; done"
    step = f'trap "exit 75" TERM; touch {tmp_path}/set-$SLURM_ARRAY_TASK_ID; {wait}'
    asks.write_text(f"#!/bin/bash\ntrap : TERM\nsrun bash -c '{step}'\n")
    asks.chmod(0o755)
    script = str(ROOT / "launch" / "slurm_job.sh")
    words = ["sbatch", "--parsable", "--array=1,2", "--requeue", f"--output={tmp_path}/%a.txt"]
    job = slurm.call(*words, script, str(asks), str(tmp_path), "0").strip()

    def states() -> list[str]:
        return slurm.call("squeue", "--array", "-h", "-j", job, "-o%K %T").splitlines()

    def wait_for(*wanted: str) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while sorted(states()) != list(wanted):
            assert time.monotonic() < end, states()
            time.sleep(0.1)

    while len(list(tmp_path.glob("set-*"))) < 2:
        time.sleep(0.1)
    slurm.call("scancel", f"{job}_1")
    wait_for("2 RUNNING")
    slurm.call("scancel", "--signal=TERM", f"{job}_2")
    wait_for("2 PENDING")
    slurm.call("scancel", job)
    wait_for()
