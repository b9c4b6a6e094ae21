"""Runs of several processes, usually one on each host: how they start, agree and stop together.

On TPU pods, under SLURM and on GKE, JAX finds the processes; elsewhere three flags describe them:

    --coordinator=HOST:PORT --processes=N --process=I     (I from 0; HOST is process 0's)

Process 0 alone writes logs, files and standard output.
"""

import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
import orbax.checkpoint
from jax.experimental import multihost_utils

import bert_jax
from bert_jax.config import HostsConfig, Launch
from bert_jax.distributed.rendezvous import Member, meet
from bert_jax.errors import UserError
from bert_jax.stopping import StopRequest, leave_through

HEARTBEAT_SECONDS = 60  # within which a host that vanished is noticed


class _ProcessConfig(NamedTuple):
    """Arguments of `jax.distributed.initialize`."""

    coordinator: str  # HOST:PORT of process 0
    processes: int
    process: int  # number of this process
    local_device_ids: Any = None  # None: all devices of the host


def join(launch: Launch, config: HostsConfig, must_agree: dict[str, Any]) -> None:
    """Connects to the run's other processes, if there are any, and initialises JAX with them.

    Must be called before JAX is used.

    Args:
      launch: from the command line.
      config: timeouts.
      must_agree: settings that must be equal in all processes; flat and JSON-ready.

    Raises:
      UserError: if the flags contradict each other, or a process is missing or differs.
    """
    own = _process_config(launch)
    if own is None or own.processes == 1:
        return
    member = Member(
        process=own.process,
        processes=own.processes,
        host=socket.gethostname(),
        clock=time.time(),
        must_agree=must_agree | versions(),
    )
    lifeline = meet(
        own.coordinator,
        member,
        timeout_seconds=config.start_seconds,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )
    leave_through(lifeline.leave)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        own.coordinator,
        own.processes,
        own.process,
        own.local_device_ids,
        cluster_detection_method="deactivate",  # everything is known already
        initialization_timeout=config.start_seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    if own.process:
        sys.stdout = open(os.devnull, "w", encoding="utf-8", errors="surrogateescape")


def refuse_several(launch: Launch, what: str) -> None:
    """Raises UserError if this process is one of several.

    Args:
      launch: from the command line.
      what: the work that needs a single process, for the message.
    """
    own = _process_config(launch)
    if own is not None and own.processes > 1:
        raise UserError(
            f"--processes={own.processes}, but {what} runs in one process: start it on one host"
            " alone"
        )


def _process_config(launch: Launch) -> _ProcessConfig | None:
    """Returns this process's number among the others; None if it is alone."""
    environment = os.environ
    tasks = max(
        int(environment.get(name) or 1)  # empty, as scripts hide them
        for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    found = tasks > 1 or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    if launch.processes == "auto" or (found and not launch.processes):
        return _found_by_jax()
    if not launch.processes:
        if launch.coordinator or launch.process >= 0:
            raise UserError("--processes is not set: give the number of processes of the run")
        return None
    if not launch.processes.isdecimal() or int(launch.processes) < 1:
        raise UserError(f"--processes={launch.processes} must be a number from 1, or auto")
    processes = int(launch.processes)
    if processes > 1 and not launch.coordinator:
        raise UserError("--coordinator is not set: name HOST:PORT of process 0")
    if processes > 1 and not 0 <= launch.process < processes:
        raise UserError(f"--process={launch.process} must be from 0 to {processes - 1}")
    return _ProcessConfig(launch.coordinator, processes, launch.process)


def _found_by_jax() -> _ProcessConfig:
    from jax._src.clusters import ClusterEnv  # no public function tells this before initialize()

    try:
        coordinator, processes, process, local_device_ids = (
            ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
        )
    except Exception as error:
        raise UserError(
            f"--processes=auto: JAX cannot describe this cluster ({error}): give --coordinator,"
            " --processes and --process"
        ) from error
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--processes=auto, but JAX finds no cluster: give --coordinator, --processes and"
            " --process"
        )
    # The only task that SLURM runs on a host uses all devices of the host.
    environment = os.environ
    if environment.get("SLURM_STEP_NUM_TASKS") == environment.get("SLURM_STEP_NUM_NODES", ""):
        local_device_ids = None
    return _ProcessConfig(coordinator, processes, process, local_device_ids)


def versions() -> dict[str, str]:
    """Returns the versions of the libraries that determine a run's numbers, by name."""
    return {
        "bert_jax": bert_jax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "orbax": orbax.checkpoint.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def is_first() -> bool:
    """Returns True in process 0, which writes logs and files."""
    return jax.process_index() == 0


def first_alone(act: Callable[[], None]) -> None:
    """Calls a function in process 0 alone, while all other processes wait."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("before")
    if is_first():
        act()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("after")


def any_process(is_so: bool) -> bool:
    """Returns True, in every process, if the argument is True in any."""
    if jax.process_count() == 1:
        return is_so
    return bool(multihost_utils.process_allgather(np.bool_(is_so)).any())


def check_agreed(what: str, value: int, remedy: str) -> None:
    """Raises UserError, in every process, unless all have the same value.

    Args:
      what: name of the value, for the message.
      value: from -2^31 to 2^31 - 1.
      remedy: advice, for the message.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.int32(value))
    differing = np.flatnonzero(values != values[0])
    if differing.size:
        process = int(differing[0])
        raise UserError(
            f"process {process} finds {what} {values[process]}, process 0 finds {values[0]}:"
            f" {remedy}"
        )


class JointStop:
    """`StopRequest` for several processes: all of them end after the same step.

    JAX catches SIGTERM and passes it on to the other processes; ctrl-C is turned into SIGTERM.
    """

    def __enter__(self) -> "JointStop":
        """Installs the handler of ctrl-C."""
        self._requested = False
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Restores the previous handler."""
        signal.signal(signal.SIGINT, self._previous)

    def requested(self, step: int) -> bool:
        """Returns True, in every process, if the run should end after this step."""
        return multihost_utils.reached_preemption_sync_point(step)

    def _handle(self, number: int, _: object) -> None:
        if self._requested:
            raise KeyboardInterrupt
        self._requested = True
        os.kill(os.getpid(), signal.SIGTERM)


def stop_request() -> StopRequest | JointStop:
    """Returns the stop request of this process, or of all processes of its run."""
    return StopRequest() if jax.process_count() == 1 else JointStop()
