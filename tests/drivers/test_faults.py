"""Many faults at random moments; `make faults` runs them and prints how often what happened."""

import collections
import contextlib
import pathlib
import random
import shutil
import signal
import time

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import FOLDER, read_metadata, steps_in
from tests.distributed.test_processes import start
from tests.drivers.test_resilience import damage
from tests.fixtures.drivers import (
    PATIENCE_SECONDS,
    Drivers,
    Run,
    Running,
    assert_same_bits,
    log_of,
    newest,
    prepare_flags,
    state_of,
    write_text,
)

pytestmark = pytest.mark.slow

KILLS = {"training": 20, "a save": 15, "one of two processes": 10, "prepare": 5}


def tell(capsys: pytest.CaptureFixture[str], what: str, counts: collections.Counter) -> None:
    """Prints figures past pytest's capture."""
    with capsys.disabled():
        said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        print(f"\n  {what}: {said}")


def kill_after(running: Running, seconds: float) -> bool:
    """Kills a process after a time; returns whether it was still alive."""
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):  # it has ended
        running.send(signal.SIGKILL)
    return running.wait().status == -signal.SIGKILL


def kill_in_a_save(running: Running, workdir: pathlib.Path) -> bool:
    """Kills a process when a checkpoint that is being written lies there."""
    before = len(steps_in(workdir))
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if any(workdir.glob(f"{FOLDER}/*.*")) or len(steps_in(workdir)) != before:
            break
        time.sleep(0.001)
    with contextlib.suppress(ProcessLookupError):
        running.send(signal.SIGKILL)
    return running.wait().status == -signal.SIGKILL


@pytest.mark.parametrize("moment", ["training", "a save"])
def test_killed_again_and_again_the_run_ends_with_the_same_bits(
    moment: str,
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng, counts, number = random.Random(moment), collections.Counter(), 0
    while counts["kills"] < KILLS[moment]:
        number += 1
        workdir = tmp_path / str(number)
        flags = [*pretrain_flags, f"--workdir={workdir}", "--config.checkpoint_steps=2"]
        flags.append("--config.keep_checkpoints=2")
        for _ in range(rng.randint(1, 3)):
            running = drivers.start("pretrain", *flags)
            if moment == "training":
                killed = kill_after(running, rng.uniform(0.5, 8))
            else:
                killed = kill_in_a_save(running, workdir)
            counts["kills"] += killed
        result = drivers.run("pretrain", *flags)
        assert result.status == 0, result
        counts["restarts that succeeded"] += 1
        assert_same_bits(state_of(newest(workdir)), state_of(newest(pretrained[0])))
        assert (
            read_metadata(newest(workdir))["cursor"]
            == read_metadata(newest(pretrained[0]))["cursor"]
        )
        assert log_of(workdir) == log_of(pretrained[0])
        counts["runs with the unbroken one's bits, cursor and log"] += 1
        shutil.rmtree(workdir)
    tell(capsys, f"killed in {moment}", counts)


def test_one_of_two_processes_killed_again_and_again(
    drivers: Drivers,
    pretrain_flags: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*pretrain_flags, "--config.checkpoint_steps=2", "--config.hosts.start_seconds=120"]
    whole = tmp_path / "whole"
    assert all(
        j.wait().status == 0 for j in start(drivers, "pretrain", *flags, f"--workdir={whole}")
    )
    rng, counts, number = random.Random(0), collections.Counter(), 0
    while counts["kills"] < KILLS["one of two processes"]:
        number += 1
        workdir = tmp_path / str(number)
        jobs = start(drivers, "pretrain", *flags, f"--workdir={workdir}")
        victim = rng.randrange(2)
        # After the start: before it, who waits says who is missing, in its own time.
        jobs[0].wait_until(lambda jobs=jobs: "first step done" in jobs[0].err)
        killed = kill_after(jobs[victim], rng.uniform(0, 3))
        result = jobs[1 - victim].wait()
        if killed and result.status:
            counts["kills"] += 1
            assert result.status == 75 and "is gone: start all" in result.err, result
        jobs = start(drivers, "pretrain", *flags, f"--workdir={workdir}")
        assert all(job.wait().status == 0 for job in jobs)
        assert_same_bits(state_of(newest(workdir)), state_of(newest(whole)))
        assert log_of(workdir) == log_of(whole)
        counts["runs with the unbroken one's bits and log"] += 1
    tell(capsys, "one of two processes killed", counts)


def test_prepare_killed_again_and_again(
    drivers: Drivers, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"bert_jax.data.corpus.documents.PIECE_BYTES": 6000}
    for number in range(8):
        write_text(tmp_path / f"text-{number}.txt", 400, seed=number)

    def flags(output: pathlib.Path) -> list[str]:
        return [*prepare_flags(tmp_path / "text-*.txt", output), "--workers=2"]

    assert drivers.run("prepare", *flags(tmp_path / "whole"), constants=small).status == 0
    rng, counts = random.Random(0), collections.Counter()
    wanted = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in files(tmp_path / "whole")}
    while counts["kills"] < KILLS["prepare"]:
        output = tmp_path / f"again-{counts['kills']}-{counts['too late']}"
        running = drivers.start("prepare", *flags(output), constants=small)
        killed = kill_after(running, rng.uniform(0.2, 4))
        # A kill after the corpus has its name is too late as well.
        unfinished = not (output / "manifest.json").exists()
        assert killed or not unfinished
        counts["kills" if unfinished else "too late"] += 1
        if unfinished:
            result = drivers.run("prepare", *flags(output), constants=small)
            assert result.status == 0, result
        assert {p.relative_to(output): p.read_bytes() for p in files(output)} == wanted
        counts["corpora with the unbroken one's bytes"] += 1
    tell(capsys, "prepare killed", counts)


def files(directory: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".png"]


# What Orbax's tasks leave behind when another of them has failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_every_file_of_a_checkpoint_damaged_in_turn(
    drivers: Drivers,
    pretrain_flags: list[str],
    pretrained: Run,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rng, counts = random.Random(0), collections.Counter()
    source = pretrained[0]
    inside = [p.relative_to(source) for p in files(source / FOLDER / "8")]
    for number, relative in enumerate(rng.sample(inside, min(8, len(inside)))):
        run = tmp_path / str(number)
        shutil.copytree(source, run)
        shutil.rmtree(run / FOLDER / "12")
        content = bytearray((run / relative).read_bytes())
        how = rng.choice(["flip", "truncate", "remove"])
        if how == "remove":
            (run / relative).unlink()
        elif how == "truncate":
            (run / relative).write_bytes(content[: len(content) // 2])
        else:
            content[rng.randrange(max(len(content), 1))] ^= 1 << rng.randrange(8)
            (run / relative).write_bytes(content)
        result = drivers.run("pretrain", *pretrain_flags, f"--workdir={run}")
        assert result.status == 0, result
        assert_same_bits(state_of(newest(run)), state_of(newest(source)))
        assert log_of(run) == log_of(source)
        counts["set aside" if (run / "damaged/8").exists() else "of no consequence"] += 1
    tell(capsys, "files damaged", counts)


@pytest.mark.parametrize("how", ["a flipped bit", "a truncated file"])
def test_two_processes_agree_on_what_is_damaged(
    how: str, drivers: Drivers, pretrain_flags: list[str], tmp_path: pathlib.Path
) -> None:
    flags = [*pretrain_flags, "--config.mesh.fsdp=2", f"--workdir={tmp_path}"]
    assert all(job.wait().status == 0 for job in start(drivers, "pretrain", *flags))
    expected = state_of(newest(tmp_path))
    shutil.rmtree(tmp_path / FOLDER / "12")
    damage(tmp_path / FOLDER / "8", how)
    results = [job.wait() for job in start(drivers, "pretrain", *flags)]
    assert [result.status for result in results] == [0, 0], results
    assert "moved to" in results[0].err
    assert_same_bits(state_of(newest(tmp_path)), expected)


def test_eight_four_one_eight_devices(
    drivers: Drivers,
    pretrain_flags: list[str],
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*pretrain_flags, "--config.batch_size=8", "--config.steps=50", "--config.log_steps=1"]
    flags += ["--config.checkpoint_steps=1", "--config.keep_checkpoints=60"]
    flags += ["--config.encoder.dropout_rate=0.0", "--config.encoder.attention_dropout_rate=0.0"]
    flags += ["--config.optimizer.warmup_steps=5"]

    def run(workdir: pathlib.Path, devices: int, until: int) -> None:
        environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
        running = drivers.start("pretrain", *flags, f"--workdir={workdir}", environment=environment)
        if until < 50:
            running.wait_until(lambda: bool(steps_in(workdir)) and steps_in(workdir)[-1] >= until)
            running.send(signal.SIGTERM)
        assert running.wait().status == (75 if until < 50 else 0)

    run(tmp_path / "whole", 8, 50)
    for devices, until in ((8, 10), (4, 20), (1, 30), (8, 50)):
        run(tmp_path / "moved", devices, until)
    ours, theirs = (
        {e["step"]: e["loss"] for e in log_of(tmp_path / name) if "loss" in e}
        for name in ("moved", "whole")
    )
    assert ours.keys() == theirs.keys() and len(ours) == 50
    furthest = max(abs(ours[step] / theirs[step] - 1) for step in ours)
    np.testing.assert_array_less(furthest, 1e-4)
    places = [read_metadata(newest(tmp_path / name))["cursor"] for name in ("moved", "whole")]
    assert places[0] == places[1]
    with capsys.disabled():
        print(f"\n  8, 4, 1, 8 devices: losses of 50 steps differ by {furthest:.1e} at most")
