"""A directory is of one run at a time, also on storage without locks."""

import errno
import json
import os
import pathlib
import subprocess
import sys
import time

import pytest

from bert_jax.checkpoints import workdir as workdirs
from bert_jax.checkpoints.workdir import CONFIG_FILE, LEASE_FILE, check_workdir, claim_workdir
from bert_jax.config import PretrainConfig
from bert_jax.errors import UserError


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(workdirs.fcntl, "flock", flock)
    monkeypatch.setattr(workdirs, "LEASE_SECONDS", 2.0)


def test_a_lease_that_is_renewed_refuses_others(no_locks: None, tmp_path: pathlib.Path) -> None:
    claim_workdir(tmp_path, PretrainConfig())
    with pytest.raises(UserError, match=rf"process {os.getpid()} of .* uses --workdir="):
        claim_workdir(tmp_path, PretrainConfig())


def test_a_lease_of_the_dead_runs_out(no_locks: None, tmp_path: pathlib.Path) -> None:
    lease = {"id": "x", "host": "gone", "process": 1, "time": time.time()}
    (tmp_path / LEASE_FILE).write_text(json.dumps(lease))
    begin = time.monotonic()
    claim_workdir(tmp_path, PretrainConfig())
    assert time.monotonic() - begin >= 2
    assert json.loads((tmp_path / LEASE_FILE).read_text())["process"] == os.getpid()


@pytest.mark.parametrize("name", [LEASE_FILE, ".config.json.77.tmp", "lost+found"])
def test_a_start_that_was_killed_can_be_repeated(tmp_path: pathlib.Path, name: str) -> None:
    (tmp_path / name).write_text("{}")
    check_workdir(tmp_path, PretrainConfig())
    (tmp_path / "model.bin").touch()
    with pytest.raises(UserError, match="has files that are not a run's"):
        check_workdir(tmp_path, PretrainConfig())


@pytest.mark.parametrize("content", ["{", '{"a":' * 9999])
def test_a_config_that_cannot_be_read_is_told(tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(UserError, match="has another kind of run"):
        check_workdir(tmp_path, PretrainConfig())


@pytest.mark.parametrize("content", ["{", "", json.dumps({"time": 1.0, "host": "h", "process": 1})])
def test_an_old_or_torn_lease_holds_nobody(
    no_locks: None, tmp_path: pathlib.Path, content: str
) -> None:
    (tmp_path / LEASE_FILE).write_text(content)
    begin = time.monotonic()
    claim_workdir(tmp_path, PretrainConfig())
    assert time.monotonic() - begin < 1.5


_HOLDER = """
import pathlib, sys, time
from bert_jax.checkpoints import workdir
from bert_jax.config import PretrainConfig
def flock(*_): raise OSError
workdir.fcntl.flock, workdir.LEASE_SECONDS = flock, 2.0
folder = pathlib.Path(sys.argv[1])
workdir.claim_workdir(folder, PretrainConfig())
write, failures = workdir.write_atomically, int(sys.argv[2])
def failing(path, content):
    global failures
    failures -= 1
    if failures >= 0: raise OSError
    write(path, content)
workdir.write_atomically = failing
print("claimed", flush=True)
time.sleep(8)
print("held", flush=True)
"""


def holder(folder: pathlib.Path, *, failures: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLDER, str(folder), str(failures)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "claimed\n"
    return process


def test_a_lease_outlives_a_write_that_fails(no_locks: None, tmp_path: pathlib.Path) -> None:
    process = holder(tmp_path, failures=1)
    time.sleep(4)
    with pytest.raises(UserError, match=rf"process {process.pid} of .* uses --workdir="):
        claim_workdir(tmp_path, PretrainConfig())
    assert process.communicate() == ("held\n", "")


def test_a_process_that_cannot_hold_its_lease_ends(tmp_path: pathlib.Path) -> None:
    out, told = holder(tmp_path, failures=1000).communicate()
    assert (
        not out
        and told
        == f"error: --workdir={tmp_path} could not be written for 2 s: start" + (" again\n")
    )
    process = holder(tmp_path / "other", failures=0)
    lease = {"id": "x", "host": "there", "process": 7, "time": time.time()}
    (tmp_path / "other" / LEASE_FILE).write_text(json.dumps(lease))
    out, told = process.communicate()
    assert not out and told.startswith("error: process 7 of there uses --workdir=")
    assert json.loads((tmp_path / "other" / LEASE_FILE).read_text()) == lease


def test_of_two_that_come_at_once_one_is_refused(tmp_path: pathlib.Path) -> None:
    program = """
import pathlib, sys
from bert_jax.checkpoints import workdir
from bert_jax.config import PretrainConfig
def flock(*_): raise OSError
workdir.fcntl.flock, workdir.LEASE_SECONDS = flock, 8.0
try:
    workdir.claim_workdir(pathlib.Path(sys.argv[1]), PretrainConfig())
except workdir.UserError as error:
    sys.exit(str(error))
import time
time.sleep(9)  # the other may wait for the lease to run out
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    results = [process.communicate()[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    assert any("uses --workdir=" in message for message in results)
