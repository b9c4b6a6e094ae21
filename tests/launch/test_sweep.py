"""Sweeps on this machine, real ones of a small study, and what their reports say."""

import csv
import io
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

import bert_jax
from bert_jax.stopping import RESTART_STATUS
from experiments.folder import Attempt, StudyFolder, lock_file
from experiments.latency import measure_latencies, read_latencies, text_of, write_latencies
from experiments.study import Plan, Run, Size, Variant
from launch.backends import StudyRuns
from launch.backends.local import Local
from tests.fixtures.drivers import PATIENCE_SECONDS, ROOT, log_of


def command(study_file: pathlib.Path, workdir: pathlib.Path, *flags: str) -> list[str]:
    data = study_file.parent / "data"
    words = [sys.executable, "-m", "launch.sweep", str(study_file), f"--data={data}"]
    return [*words, f"--workdir={workdir}", *flags]


Sweep = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def sweep(study_file: pathlib.Path) -> Sweep:
    def call(workdir: pathlib.Path, *flags: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(study_file, workdir, *flags),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_SECONDS,
        )

    return call


@pytest.fixture(scope="session")
def swept(
    sweep: Sweep, tmp_path_factory: pytest.TempPathFactory
) -> tuple[pathlib.Path, subprocess.CompletedProcess[str]]:
    """A sweep, of one seed, that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("sweep") / "small"
    done = sweep(workdir, "--seeds=1")
    assert done.returncode == 0, done
    return workdir, done


Swept = tuple[pathlib.Path, subprocess.CompletedProcess[str]]


def report(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments.report", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )


def trained(workdir: pathlib.Path) -> list[Run]:
    return [run for run in StudyFolder(workdir).read_plan().runs if run.driver != "prepare"]


def test_a_sweep_makes_every_run_once(swept: Swept, sweep: Sweep) -> None:
    workdir, done = swept
    folder = StudyFolder(workdir)
    runs = folder.read_plan().runs
    assert len(runs) == 6 and done.stdout.startswith("6 runs are done: python -m experiments")
    for run in runs:
        (attempt,) = folder.attempts(run)
        assert attempt.status == 0 and len(attempt.cores) == 1
        assert done.stderr.count(f"started {run.name}\n") == 1
        assert done.stderr.count(f"done    {run.name}\n") == 1
    again = sweep(workdir, "--seeds=1")
    assert again.returncode == 0 and not again.stderr
    assert all(len(folder.attempts(run)) == 1 for run in runs)


def test_runs_of_a_study_share_their_compiled_programs(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = StudyFolder(tmp_path / "study")
    size = Size(prepare=(), recipe="", minutes=1, cores=1)
    runs = [
        Run(name=f"feel/a/seed-{seed}", driver="none", flags=(), stage="feel") for seed in (0, 1)
    ]
    folder.write_plan(
        Plan(
            study="small",
            size="cpu",
            question="?",
            base="a",
            variants=(Variant("a"),),
            published=(),
            runs=tuple(runs),
        )
    )
    told = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: told.append(env) or Ended())
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    local = Local(StudyRuns("small", size, folder, runs, {}), {})
    local.start(runs)
    (place,) = {env["JAX_COMPILATION_CACHE_DIR"] for env in told}
    assert len(told) == 2 and pathlib.Path(place).is_relative_to(tmp_path / "study")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/chosen")
    local.start(runs[:1])
    assert told[-1]["JAX_COMPILATION_CACHE_DIR"] == "/chosen"


class Ended:
    """A process that has ended."""

    def poll(self) -> int:
        return 0


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def start(study_file: pathlib.Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a sweep in the background; what it left is ended."""
    started = []

    def call(workdir: pathlib.Path, *flags: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command(study_file, workdir, *flags),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append((process, workdir))
        return process

    yield call
    for process, workdir in started:
        process.kill()
        process.communicate()
        folder = StudyFolder(workdir)
        plan = folder.find_plan()
        for run in plan.runs if plan else ():
            if folder.is_locked(run):
                os.kill(folder.attempts(run)[-1].process, signal.SIGKILL)


def at_work(workdir: pathlib.Path, name: str) -> int:
    """Waits until a run has trained a little; returns its process."""
    folder = StudyFolder(workdir)
    wait_until(lambda: folder.find_plan() is not None)
    run = next(run for run in folder.read_plan().runs if run.name == name)
    wait_until(lambda: any("step" in line for line in folder.last_output(run, 5)))
    return folder.attempts(run)[-1].process


def results(workdir: pathlib.Path) -> tuple[str, list[list[dict[str, Any]]]]:
    """Returns the values of a study's report, and what its runs' evaluations found."""
    assert report(str(workdir)).returncode == 0
    evaluated = [
        [
            entry
            for entry in log_of(workdir / run.name)
            if {"heldout_mlm_loss", "dev_loss"} & entry.keys()
        ]
        for run in trained(workdir)
    ]
    return (workdir / "values.csv").read_text(), evaluated


def test_stopped_and_killed_in_the_middle_it_ends_as_if_it_had_not_been(
    swept: Swept, sweep: Sweep, start: Callable[..., Any], tmp_path: pathlib.Path
) -> None:
    workdir, name = tmp_path / "small", "pretrain/pairs/seed-0"
    process = start(workdir, "--seeds=1")
    wait_until(lambda: StudyFolder(workdir).find_plan() is not None)
    second = sweep(workdir, "--seeds=2")
    assert second.returncode == 1
    assert (
        second.stderr.startswith("error: --workdir=")
        and "another sweep is running" in second.stderr
    )
    assert len(StudyFolder(workdir).read_plan().runs) == 6  # by which jobs find their run
    at_work(workdir, name)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == RESTART_STATUS
    said = "stopped: all runs have saved and ended; the same command continues"
    assert err.splitlines()[-1] == said
    folder = StudyFolder(workdir)
    (run,) = (run for run in folder.read_plan().runs if run.name == name)
    assert folder.attempts(run)[-1].status == RESTART_STATUS

    process = start(workdir, "--seeds=1")
    wait_until(lambda: len(folder.attempts(run)) == 2 and folder.is_locked(run))
    process.kill()  # the other run lives on, and is found
    os.kill(folder.attempts(run)[-1].process, signal.SIGKILL)
    done = sweep(workdir, "--seeds=1")
    assert done.returncode == 0, done
    assert [attempt.status for attempt in folder.attempts(run)][1:] in ([-9, 0], [None, 0])
    assert results(workdir) == results(swept[0])
    assert "feel/accuracy" in results(workdir)[0]


def test_what_fails_is_tried_again_then_left_and_the_others_go_on(
    study_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    other = tmp_path / "small.py"
    text = study_file.read_text()
    # The corpus is there, one recipe ends in an error that no check before the start can see.
    broken = 'Variant("no_loss", pretrain=("data.objective=none", "data.corpus=gone"))'
    assert 'Variant("no_loss", pretrain=("data.objective=none",))' in text
    other.write_text(text.replace('Variant("no_loss", pretrain=("data.objective=none",))', broken))
    workdir = tmp_path / "run"
    flags = ("--seeds=1", "--retries=1", "--variants=pairs,no_loss")
    words = command(study_file, workdir, *flags)
    words[3] = str(other)
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    *events, last = done.stderr.splitlines()
    assert last.startswith("error: failed: pretrain/no_loss/seed-0, and 1 more wait for them:")
    told = "\n".join(events)
    assert "failed  pretrain/no_loss/seed-0: it ended with status 1; retrying" in told
    assert told.count("error: gone is not a corpus") == 2  # its last words, each time
    folder = StudyFolder(workdir)
    states = {run.name: folder.is_done(run) for run in trained(workdir)}
    assert [name for name, is_done in states.items() if not is_done] == [
        "pretrain/no_loss/seed-0",
        "feel/no_loss/seed-0",
    ]
    rows = {row[0]: row for row in map(lambda line: line.split(" | "), report_lines(workdir))}
    assert rows["| no_loss"][1] == "0 of 2" and rows["| no_loss"][-2] == "1"


def report_lines(workdir: pathlib.Path) -> list[str]:
    done = report(str(workdir))
    assert done.returncode == 0, done
    return done.stdout.splitlines()[: done.stdout[: done.stdout.index("Differences")].count("\n")]


def test_a_dry_run_prints_what_would_be_run(sweep: Sweep, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "small"
    jobs = sweep(workdir, "--dry_run", "--seeds=1").stdout.splitlines()
    assert len(jobs) == 6 and not workdir.exists()
    assert f"-m launch.job --workdir={workdir} --number=5 --cores=" in jobs[5]
    drivers = sweep(workdir, "--on=print", "--seeds=1", "--variants=pairs").stdout.splitlines()
    kinds = [shlex.split(line)[2] for line in drivers]
    assert kinds == ["bert_jax.prepare", "bert_jax.pretrain", "bert_jax.finetune"]
    assert drivers[2].endswith(f"--workdir={workdir}/feel/pairs/seed-0")
    (array,) = sweep(workdir, "--on=slurm", "--dry_run", "--seeds=1").stdout.splitlines()
    assert array.startswith("sbatch --array=0,1,2,3,4,5 --job-name=s-small-")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--size=huge"], "--size=huge: choose one of cpu"),
        (["--variants=pairs,none"], "--variants=none: choose among pairs, no_loss, slow"),
        (["--variants=slow"], "--variants=slow lacks the base, with which the others are compared"),
        (
            ["--variants=pairs,slow"],
            "--variants=pairs,slow lacks no_loss, which slow is compared with: add it",
        ),
        (["--checkpoint=runs/x"], "--checkpoint=runs/x: small pretrains its variants"),
        (["--option=zone"], "--option=zone: write it as --option=NAME=VALUE"),
        (["--option=zone=here"], "--option=zone is unknown: choose among none"),
        (["--data=nowhere"], "--data=nowhere is not a folder"),
        (["--corpus=nowhere"], "nowhere is not a corpus (it has no manifest.json)"),
        (["again.py"], "name one study"),
    ],
)
def test_a_wrong_call_is_one_line(
    flags: list[str], message: str, sweep: Sweep, tmp_path: pathlib.Path
) -> None:
    done = sweep(tmp_path / "new", *flags)
    assert done.returncode == 1 and not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "new").exists()


def test_a_folder_of_something_else_is_refused(
    swept: Swept, sweep: Sweep, study_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    shutil.copy(swept[0] / "plan.json", folder)
    shutil.copytree(swept[0] / "states", folder / "states")
    plan = json.loads((folder / "plan.json").read_text())
    for change, message in (
        ({"study": "other"}, "has other at size cpu, not small at size cpu: name another"),
        (
            {"runs": [run | {"flags": ["--other"]} for run in plan["runs"]]},
            "began corpus with another command (it differs in",
        ),
    ):
        (folder / "plan.json").write_text(json.dumps(plan | change))
        done = sweep(folder, "--seeds=1")
        assert done.returncode == 1 and message in done.stderr, done
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    assert "has files but no study" in sweep(tmp_path / "letters").stderr


def copied(workdir: pathlib.Path, path: pathlib.Path) -> StudyFolder:
    """Copies what a sweep reads of a study to another folder."""
    shutil.copytree(workdir / "states", path / "states")
    plan = (workdir / "plan.json").read_text()
    (path / "plan.json").write_text(plan.replace(str(workdir), str(path)))
    return StudyFolder(path)


def test_an_active_run_keeps_its_number(swept: Swept, sweep: Sweep, tmp_path: pathlib.Path) -> None:
    folder = copied(swept[0], tmp_path / "copy")
    last = folder.read_plan().runs[-1]
    held = lock_file(folder.lock(last))
    assert held is not None
    done = sweep(folder.path, "--seeds=1", "--variants=pairs")
    os.close(held)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith(f"error: {last.name} is active, and this plan gives its number")
    plan = json.loads((folder.path / "plan.json").read_text())
    assert [run["name"] for run in plan["runs"]][-1] == last.name  # nothing was written


def test_a_run_keeps_its_driver(swept: Swept, sweep: Sweep, tmp_path: pathlib.Path) -> None:
    folder = copied(swept[0], tmp_path / "copy")
    plan = json.loads((folder.path / "plan.json").read_text())
    plan["runs"][-1]["driver"] = "linear"
    (folder.path / "plan.json").write_text(json.dumps(plan))
    done = sweep(folder.path, "--seeds=1")
    assert done.returncode == 1 and "(it differs in the driver finetune, the driver" in done.stderr


def test_task_files_and_checkpoints_must_be_there(
    study_file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "empty").mkdir()
    words = command(study_file, tmp_path / "new", "--corpus=gs://bucket/corpus")
    words = [word for word in words if not word.startswith("--data=")]
    done = subprocess.run(
        [*words, f"--data={tmp_path}/data"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr == (
        f"error: {tmp_path}/data/dev.tsv, which the study's tasks read, is not there: make it as"
        " experiments/README.md describes\n"
    )
    one = tmp_path / "one.py"
    one.write_text(
        "import dataclasses, runpy\nfrom experiments.study import Variant\n"
        f"STUDY = runpy.run_path({str(study_file)!r})['STUDY']\n"
        "STUDY = dataclasses.replace(STUDY, base='a', variants=(Variant('a'),))\n"
        "STUDY = dataclasses.replace(STUDY, one_pretraining=True)\n"
    )
    words = command(one, tmp_path / "new", f"--checkpoint={tmp_path}/empty")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert f"error: --checkpoint={tmp_path}/empty has no checkpoint: name a run" in done.stderr
    assert done.returncode == 1 and not (tmp_path / "new").exists()


def test_a_report_reads_the_logs(swept: Swept) -> None:
    workdir = swept[0]
    done = report(str(workdir))
    assert done.returncode == 0 and not done.stderr, done
    table = (workdir / "table.md").read_text()
    assert table.strip() in done.stdout
    rows = list(csv.DictReader(io.StringIO((workdir / "values.csv").read_text())))
    for run in trained(workdir):
        log = log_of(workdir / run.name)
        for variant in run.variants:
            mine = {
                row["metric"]: float(row["value"])
                for row in rows
                if row["variant"] == variant and int(row["seed"]) == run.seed
            }
            if run.driver == "pretrain":
                held_out = [entry for entry in log if "heldout_mlm_loss" in entry]
                assert mine["pretrain/mlm_loss"] == held_out[-1]["heldout_mlm_loss"]
            else:
                best = max(entry["dev_accuracy"] for entry in log if "dev_accuracy" in entry)
                assert mine["feel/accuracy"] == best
    assert "| the paper's row | F1 |" in table and "Published, not measured here: A paper" in table
    assert (workdir / "curves.png").stat().st_size > 10_000


def test_a_report_is_made_again_of_what_is_kept(swept: Swept, tmp_path: pathlib.Path) -> None:
    kept = tmp_path / "kept"
    assert report(str(swept[0]), f"--keep={kept}").returncode == 0
    assert not list(kept.rglob("checkpoints")) and not list(kept.rglob("*.npy"))
    before = {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    for place, message in (
        (kept, "is the study's own folder: name another one"),
        (tmp_path / "letters", "has files but no study: name a new or an empty directory"),
    ):
        assert report(str(kept), f"--keep={place}").stderr == f"error: --keep={place} {message}\n"
    assert report(str(kept)).returncode == 0
    assert before == {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()}
    log = next(kept.rglob("log.jsonl"))
    with log.open("a") as file:
        file.write('{"step": 99, "los')  # torn
    assert report(str(kept)).returncode == 0
    assert (kept / "values.csv").read_bytes() == before["values.csv"]


def test_a_report_shows_how_long_models_take(swept: Swept, tmp_path: pathlib.Path) -> None:
    workdir, _ = swept
    run_folder = tmp_path / "run"
    shutil.copytree(workdir, run_folder)
    models = StudyFolder(run_folder)
    latencies = measure_latencies(models, turns=2, tokens=10)
    assert set(latencies) == {"pairs", "no_loss", "slow"}
    model = bert_jax.load(str(run_folder / "pretrain/pairs/seed-0"))
    params = model.params["encoder"]
    text, size = text_of(10, model.tokenizer)
    (ids,) = model.tokenizer.encode_batch([text])
    assert size == 10 == len(ids) + 2  # [CLS] and [SEP]
    for each in latencies.values():
        assert each.milliseconds > 0 and each.tokens == 10
        assert each.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    write_latencies(models, latencies)
    kept = tmp_path / "kept"
    done = report(str(run_folder), f"--keep={kept}")
    assert done.returncode == 0, done
    assert read_latencies(StudyFolder(kept)) == latencies
    assert "| pairs | " in done.stdout.partition("one text of 10 tokens")[2]
    assert (kept / "latency.png").read_bytes()[:4] == b"\x89PNG"


def test_without_a_finished_run_there_is_no_report(swept: Swept, tmp_path: pathlib.Path) -> None:
    shutil.copy(swept[0] / "plan.json", tmp_path)
    done = report(str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: no run of {tmp_path} is finished: wait, or run launch.sweep again\n"
    )
    assert "has no study" in report(str(tmp_path / "none")).stderr


def test_an_attempt_that_vanished_counts_as_failed(tmp_path: pathlib.Path) -> None:
    folder = StudyFolder(tmp_path)
    run = Run(name="pretrain/a/seed-0", driver="pretrain", flags=(), stage="pretrain")
    folder.write_attempts(run, [Attempt(1.0, "host", 5, (0,))])
    assert not folder.is_done(run) and not folder.is_locked(run)
    assert folder.attempts(run) == [Attempt(1.0, "host", 5, (0,))]
