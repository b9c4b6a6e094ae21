"""One attempt of a run: what is written down of it, and by whom."""

import pathlib
import signal
import subprocess
import sys
import time

import pytest

from bert_jax.stopping import RESTART_STATUS
from experiments.folder import Attempt, StudyFolder
from experiments.study import Plan, Run, Variant
from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT

CORPUS = Run(name="corpus", driver="prepare", flags=("--output=/nowhere",), stage="corpus")
TUNING = Run(name="feel/a/seed-0", driver="finetune", flags=("--config=none.py",), stage="feel")


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> StudyFolder:
    result = StudyFolder(tmp_path / "runs")
    plan = Plan(
        study="small",
        size="cpu",
        question="?",
        base="a",
        variants=(Variant("a"),),
        published=(),
        runs=(CORPUS, TUNING),
    )
    result.write_plan(plan)
    return result


def start(folder: StudyFolder, number: int, *flags: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "launch.job", f"--workdir={folder.path}", f"--number={number}"]
    return subprocess.Popen([*words, *flags], cwd=ROOT)


def end(job: subprocess.Popen[bytes]) -> int:
    return job.wait(PATIENCE_SECONDS)


def statuses(folder: StudyFolder, run: Run) -> list[int | None]:
    return [attempt.status for attempt in folder.attempts(run)]


@pytest.mark.parametrize(("restarts", "before"), [(0, None), (1, RESTART_STATUS)])
def test_what_the_cluster_ended_did_not_fail(restarts, before, folder: StudyFolder):
    folder.write_attempts(TUNING, [Attempt(1.0, "host", 1)])
    assert end(start(folder, 1, f"--restarts={restarts}")) == 1
    assert statuses(folder, TUNING) == [before, 1]


def test_of_several_hosts_the_first_one_tells(folder: StudyFolder):
    assert end(start(folder, 1, "--host=2", "--together=--processes=2")) == 1
    assert not folder.attempts(TUNING) and not folder.output(TUNING).exists()
    said = folder.output(TUNING, 2).read_text()
    assert "feel/a/seed-0 --processes=2\n" in said and "none.py is no file" in said


def test_the_first_host_alone_prepares(folder: StudyFolder):
    assert end(start(folder, 0, "--host=1")) == 0
    assert not (folder.path / "output").exists()


def test_who_is_asked_to_end_before_it_can_save_is_to_be_started_again(folder: StudyFolder):
    job = start(folder, 1)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not folder.attempts(TUNING) and time.monotonic() < deadline:
        time.sleep(0.002)
    job.send_signal(signal.SIGTERM)  # the driver has just begun to import
    assert end(job) == RESTART_STATUS
    assert statuses(folder, TUNING) == [RESTART_STATUS]
