"""A SLURM of two nodes on this machine: its real daemons, in a folder of their own."""

import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

_PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
_PATIENCE_SECONDS = 60.0

# The nodes are called by addresses of this machine, since JAX and the runs find a host by the name
# of its node; a `slurmd` takes its node's name by -N.
_CONF = """
ClusterName=tests
SlurmctldHost=localhost
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
KillWait=5
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=127.0.0.1 NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=127.0.0.2 NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE
"""


class Slurm:
    """The daemons, and SLURM's commands as one types them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("munge", "state", "spool-127.0.0.1", "spool-127.0.0.2"):
            (self.folder / name).mkdir()
        munge, conf = self.folder / "munge", self.folder / "slurm.conf"
        (munge / "key").write_bytes(os.urandom(128))
        (munge / "key").chmod(0o600)
        conf.write_text(_CONF.format(folder=self.folder, ports=_free_ports(3)))
        places = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
        places |= {"seed-file": "seed"}
        # --force: the folder of the tests is writable by all.
        flags = [f"--{flag}={munge / name}" for flag, name in places.items()]
        self._daemon("munged", "--foreground", "--force", *flags)
        _wait_until((munge / "socket").exists, "munged made no socket")
        self._daemon("slurmctld", "-D", "-f", str(conf))
        for node in ("127.0.0.1", "127.0.0.2"):
            self._daemon("slurmd", "-D", "-N", node, "-f", str(conf))
        _wait_until(self._is_idle, f"the nodes are not idle: see {self.folder}")

    def _daemon(self, program: str, *flags: str) -> None:
        path = shutil.which(program, path=_path())
        assert path
        with (self.folder / f"{program}.txt").open("ab") as words:
            process = subprocess.Popen(
                [path, *flags], stdin=subprocess.DEVNULL, stdout=words, stderr=words
            )
        self._daemons.append(process)

    def _is_idle(self) -> bool:
        told = subprocess.run(
            ["sinfo", "--noheader", "--format=%T %D"], capture_output=True, text=True
        )
        return told.stdout.split() == ["idle", "2"]

    def call(self, *words: str) -> str:
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, (words, done)
        return done.stdout

    def end(self) -> None:
        with contextlib.suppress(AssertionError):
            self.call("scancel", "--user=root", "--signal=KILL")
            self.call("scancel", "--user=root")
            _wait_until(lambda: not self.call("squeue", "--noheader"), "jobs that do not end")
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    missing = [program for program in _PROGRAMS if not shutil.which(program, path=_path())]
    reason = f"not installed: {', '.join(missing)} (Debian: slurm-wlm munge)" if missing else ""
    if os.geteuid():
        reason = "SLURM's daemons want root"
    if reason:
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.folder / "slurm.conf"))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.end()


def _path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])  # daemons are there


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as opened:
        held = [opened.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("", 0))
        return [each.getsockname()[1] for each in held]


def _wait_until(condition: Callable[[], bool], otherwise: str) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, otherwise
        time.sleep(0.05)
