"""Real jobs of several processes on this machine: they give what one gives, and end together."""

import fcntl
import functools
import os
import pathlib
import signal
import socket

import numpy as np
import pytest

from bert_jax.checkpoints.checkpoint import read_metadata, steps_in
from bert_jax.config import Launch
from bert_jax.distributed.processes import refuse_several
from bert_jax.errors import UserError
from bert_jax.inspection.stored import open_checkpoint
from tests.fixtures.drivers import (
    Drivers,
    Result,
    Run,
    Running,
    assert_same_bits,
    finetune_flags,
    log_of,
    newest,
    state_of,
)

DEVICES = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count="


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("", 0))
        return held.getsockname()[1]


def start(
    drivers: Drivers, driver: str, *flags: str, processes: int = 2, devices: int = 1
) -> list[Running]:
    """Starts a job of several processes with so many devices each."""
    port, environment = free_port(), {"XLA_FLAGS": f"{DEVICES}{devices}"}
    together = [f"--coordinator=localhost:{port}", f"--processes={processes}"]
    return [
        drivers.start(driver, *flags, *together, f"--process={n}", environment=environment)
        for n in range(processes)
    ]


def run(
    drivers: Drivers, driver: str, *flags: str, processes: int = 2, devices: int = 1
) -> list[Result]:
    jobs = start(drivers, driver, *flags, processes=processes, devices=devices)
    results = [job.wait() for job in jobs]
    assert all(result.status == 0 for result in results), results
    return results


def one_process(drivers: Drivers, driver: str, *flags: str, devices: int) -> Result:
    environment = {"XLA_FLAGS": f"{DEVICES}{devices}"}
    result = drivers.run(driver, *flags, environment=environment)
    assert result.status == 0, result
    return result


@pytest.fixture(scope="module")
def pair(
    drivers: Drivers, pretrain_flags: list[str], tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """A pretraining run of two processes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("pair") / "run"
    first, second = run(drivers, "pretrain", *pretrain_flags, f"--workdir={workdir}")
    assert (
        "2 x cpu: data=2" in first.err and "\nfinished 12 steps" in first.out
    )  # after Gloo's line
    assert not second.err and "finished" not in second.out
    return workdir


def assert_same_losses(ours: pathlib.Path, theirs: pathlib.Path, rtol: float = 1e-5) -> None:
    for one, other in zip(log_of(ours), log_of(theirs), strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, str):
                assert value == other[name]
            else:
                np.testing.assert_allclose(value, other[name], rtol=rtol, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("mesh", "processes", "devices"),
    [
        (["--config.mesh.tensor=2"], 2, 1),
        (["--config.mesh.tensor=2", "--config.mesh.fsdp=2"], 4, 1),
    ],
    ids=["two with tensor=2 across them", "four with fsdp=2 and tensor=2"],
)
def test_several_processes_pretrain_as_one_does(
    mesh, processes, devices, drivers, pretrain_flags, tmp_path
):
    flags = [*pretrain_flags, *mesh]
    several, alone = tmp_path / "several", tmp_path / "alone"
    run(drivers, "pretrain", *flags, f"--workdir={several}", processes=processes, devices=devices)
    devices *= processes
    one_process(drivers, "pretrain", *flags, f"--workdir={alone}", devices=devices)
    assert steps_in(several) == steps_in(alone) == [4, 8, 12]
    assert_same_losses(several, alone)
    ours, theirs = (read_metadata(newest(each)) for each in (several, alone))
    assert ours["cursor"] == theirs["cursor"]
    stored, whole = open_checkpoint(several).params, state_of(newest(several)).params["encoder"]
    for name in ("embeddings/tokens", "layers/mlp/up/kernel"):  # each process wrote a part
        leaf = functools.reduce(lambda tree, key: tree[key], name.split("/"), whole)
        np.testing.assert_array_equal(stored[f"encoder/{name}"], leaf)


@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_dies_the_other_says_so_and_they_go_on(
    killed, drivers, pretrain_flags, pair, tmp_path
):
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    jobs = start(drivers, "pretrain", *flags)
    jobs[0].wait_until(lambda: any(tmp_path.glob("checkpoints/4")))
    jobs[killed].send(signal.SIGKILL)
    results = [job.wait() for job in jobs]
    assert results[killed].status == -signal.SIGKILL
    survivor = results[1 - killed]
    assert survivor.status == 75, survivor
    assert f"error: process {killed}" in survivor.err
    assert "is gone: start all processes again, and the run resumes" in survivor.err
    run(drivers, "pretrain", *flags)
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(pair)))
    assert read_metadata(newest(tmp_path)) == read_metadata(newest(pair))
    assert log_of(tmp_path) == log_of(pair)


@pytest.mark.parametrize(("number", "asked"), [(signal.SIGTERM, 1), (signal.SIGINT, 0)])
def test_asked_to_stop_all_save_the_same_step(
    number, asked, drivers, pretrain_flags, pair, tmp_path
):
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    jobs = start(drivers, "pretrain", *flags, "--config.checkpoint_steps=100")
    jobs[0].wait_until(lambda: "step 2/12" in jobs[0].err)
    jobs[asked].send(number)
    results = [job.wait() for job in jobs]
    (step,) = steps_in(tmp_path)
    assert step < 12
    for result in results:
        assert result.status == 75
        assert f"stopped at step {step} and saved: the same command" in result.err
    run(drivers, "pretrain", *flags)
    assert_same_bits(state_of(newest(tmp_path)), state_of(newest(pair)))


def test_two_then_one_then_two_processes(drivers, pretrain_flags, pair, tmp_path):
    flags = [*pretrain_flags, f"--workdir={tmp_path}"]
    for processes, last in ((2, 4), (1, 8), (2, 12)):
        if processes == 1:
            jobs = [drivers.start("pretrain", *flags, environment={"XLA_FLAGS": f"{DEVICES}1"})]
        else:
            jobs = start(drivers, "pretrain", *flags)
        if last < 12:
            jobs[0].wait_until(lambda last=last: any(tmp_path.glob(f"checkpoints/{last}")))
            for job in jobs:
                job.send(signal.SIGKILL)
        results = [job.wait() for job in jobs]
    assert all(result.status == 0 for result in results)
    assert_same_losses(tmp_path, pair, rtol=1e-4)
    assert read_metadata(newest(tmp_path))["cursor"] == read_metadata(newest(pair))["cursor"]


def test_two_processes_fine_tune_and_evaluate_as_one_does(drivers, pretrained: Run, task, tmp_path):
    outputs = []
    for name, processes in (("several", 2), ("alone", 1)):
        flags = finetune_flags(task, pretrained, tmp_path / name)
        scoring = [f"--checkpoint={tmp_path / name}", f"--output={tmp_path / name}-scores"]
        if processes == 2:
            run(drivers, "finetune", *flags)
            printed = run(drivers, "evaluate", *scoring)[0].out
        else:
            one_process(drivers, "finetune", *flags, devices=2)
            printed = one_process(drivers, "evaluate", *scoring, devices=2).out
        outputs.append([line for line in printed.splitlines() if line.startswith(("acc", "loss"))])
    assert outputs[0] == outputs[1] and outputs[0]
    assert_same_losses(tmp_path / "several", tmp_path / "alone")
    ours, theirs = (
        (tmp_path / f"{name}-scores/predictions.jsonl").read_text() for name in ("several", "alone")
    )
    assert len(ours.splitlines()) == len(theirs.splitlines()) == 17


def test_an_error_that_all_find_is_told_by_all(drivers, pretrain_flags, tmp_path):
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run/thesis.txt").write_text("mine")
    results = [job.wait() for job in start(drivers, "pretrain", *flags)]
    assert [result.status for result in results] == [1, 1]
    for result in results:
        assert "has files that are not a run's" in result.err and "Traceback" not in result.err


def test_an_error_of_one_ends_all(drivers, pretrain_flags, tmp_path):
    # Process 0 alone claims the directory; the other waits for it inside a collective.
    lock = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    jobs = start(drivers, "pretrain", *pretrain_flags, f"--workdir={tmp_path}")
    results = [job.wait() for job in jobs]
    os.close(lock)
    assert [result.status for result in results] == [1, 1]
    assert results[0].err.startswith("error: another process uses")
    assert results[1].err.startswith("error: process 0 (")
    assert f"ended: another process uses --workdir={tmp_path}" in results[1].err


def test_who_is_missing_is_told_before_anything_is_written(drivers, pretrain_flags, tmp_path):
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}", "--config.hosts.start_seconds=2"]
    flags += [f"--coordinator=localhost:{free_port()}", "--processes=3"]
    jobs = [drivers.start("pretrain", *flags, f"--process={n}") for n in (0, 1)]
    for message in (job.wait().error() for job in jobs):
        assert message.startswith("process 2 of 3 did not start in time")
    assert not (tmp_path / "run").exists()


def test_configs_that_differ_are_named(drivers, pretrain_flags, tmp_path):
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}", "--processes=2"]
    flags.append(f"--coordinator=localhost:{free_port()}")
    first = drivers.start("pretrain", *flags, "--process=0")
    second = drivers.start("pretrain", *flags, "--process=1", "--config.seed=3")
    for message in (first.wait().error(), second.wait().error()):
        assert "differs from process 0" in message and "seed is 3, not 0" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process=0"], "--processes is not set"),
        (["--processes=2", "--process=0"], "--coordinator is not set"),
        (["--processes=2", "--coordinator=a:1", "--process=2"], "--process=2 must be from 0 to 1"),
        (["--processes=few"], "--processes=few must be a number from 1, or auto"),
        (["--processes=auto"], "JAX finds no cluster: give --coordinator"),
    ],
)
def test_flags_that_make_no_sense(flags, message, drivers, pretrain_flags, tmp_path):
    result = drivers.run("pretrain", *pretrain_flags, f"--workdir={tmp_path / 'run'}", *flags)
    assert message in result.error()


def test_an_empty_number_of_tasks_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # as scripts hide a cluster
    refuse_several(Launch(), "this")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(UserError, match="JAX finds no cluster"):
        refuse_several(Launch(), "this")


def test_under_slurm_jax_finds_the_others(drivers, pretrain_flags, tmp_path):
    # What `srun` sets for two tasks on this host.
    flags = [*pretrain_flags, f"--workdir={tmp_path / 'run'}"]
    common = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_NODELIST": "localhost"}
    common |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}
    common |= {"XLA_FLAGS": f"{DEVICES}1"}
    jobs = [
        drivers.start(
            "pretrain",
            *flags,
            environment=common | {"SLURM_PROCID": str(n), "SLURM_LOCALID": str(n)},
        )
        for n in range(2)
    ]
    results = [job.wait() for job in jobs]
    assert [result.status for result in results] == [0, 0], results
    assert "2 x cpu: data=2" in results[0].err
