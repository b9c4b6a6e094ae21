"""One run of several processes, on as many hosts: who they are, and what they do together.

On TPU pods, under SLURM and on GKE JAX finds the others; elsewhere three flags name them:

    --coordinator=HOST:PORT --processes=N --process=I     (I from 0; HOST is that of process 0)

Process 0 alone writes logs, files and the standard output.
"""

import os
import pathlib
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
from jax.experimental.compilation_cache import compilation_cache

import bert_jax
from bert_jax.config import HostsConfig, Launch
from bert_jax.distributed.rendezvous import Member, meet
from bert_jax.errors import UserError
from bert_jax.stopping import StopRequest, leave_through

HEARTBEAT_SECONDS = 60  # within which a host that vanished is noticed


class _Place(NamedTuple):
    """Where a process stands among the others."""

    coordinator: str
    processes: int
    process: int
    local_device_ids: Any = None  # None: all devices of the host


def join(launch: Launch, config: HostsConfig, must_agree: dict[str, Any]) -> None:
    """Meets the other processes, if the run has any, and starts JAX with them.

    Must be called before JAX is used.

    Args:
      launch: from the command line.
      config: how long to wait.
      must_agree: flat and JSON-ready; what all processes must agree on.

    Raises:
      UserError: if the flags make no sense, or a process is missing or differs.
    """
    place = _place(launch)
    if place is None or place.processes == 1:
        return
    member = Member(
        process=place.process,
        processes=place.processes,
        host=socket.gethostname(),
        clock=time.time(),
        must_agree=must_agree | versions(),
    )
    lifeline = meet(
        place.coordinator,
        member,
        timeout_seconds=config.start_seconds,
        heartbeat_seconds=HEARTBEAT_SECONDS,
    )
    leave_through(lifeline)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(
        place.coordinator,
        place.processes,
        place.process,
        place.local_device_ids,
        cluster_detection_method="deactivate",  # all is known
        initialization_timeout=config.start_seconds,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )
    if place.process:
        sys.stdout = open(os.devnull, "w")


def refuse_several(launch: Launch, what: str) -> None:
    """Raises UserError if this process is one of several.

    Args:
      launch: from the command line.
      what: runs in one alone, for the message.
    """
    place = _place(launch)
    if place is not None and place.processes > 1:
        raise UserError(
            f"--processes={place.processes}: {what} runs in one process: start it on one host alone"
        )


def _place(launch: Launch) -> _Place | None:
    """Returns where this process stands; None where it is alone."""
    environment = os.environ
    tasks = max(
        int(environment.get(name, 1)) for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    )
    found = tasks > 1 or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
    if launch.processes == "auto" or (found and not launch.processes):
        return _found_by_jax()
    if not launch.processes:
        if launch.coordinator or launch.process >= 0:
            raise UserError("--processes is not set: say how many processes the run has")
        return None
    if not launch.processes.isdecimal() or int(launch.processes) < 1:
        raise UserError(f"--processes={launch.processes} must be a number from 1, or auto")
    processes = int(launch.processes)
    if processes > 1 and not launch.coordinator:
        raise UserError("--coordinator is not set: name HOST:PORT of process 0")
    if processes > 1 and not 0 <= launch.process < processes:
        raise UserError(f"--process={launch.process} must be from 0 to {processes - 1}")
    return _Place(launch.coordinator, processes, launch.process)


def _found_by_jax() -> _Place:
    from jax._src.clusters import ClusterEnv  # JAX tells it nowhere else before it starts

    try:
        coordinator, processes, process, local_device_ids = (
            ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 300)
        )
    except Exception as error:
        raise UserError(f"JAX cannot tell the processes of this cluster: {error}") from error
    if coordinator is None or processes is None or process is None:
        raise UserError(
            "--processes=auto: JAX finds no cluster here: give --coordinator, --processes and"
            " --process"
        )
    # Where SLURM has one task on a host, all devices of the host are its.
    environment = os.environ
    if environment.get("SLURM_STEP_NUM_TASKS") == environment.get("SLURM_STEP_NUM_NODES", ""):
        local_device_ids = None
    return _Place(coordinator, processes, process, local_device_ids)


def versions() -> dict[str, str]:
    """Returns the versions of what decides a run's numbers, by name."""
    return {
        "bert_jax": bert_jax.__version__,
        "jax": jax.__version__,
        "flax": flax.__version__,
        "orbax": orbax.checkpoint.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def keep_compiled(workdir: pathlib.Path) -> None:
    """Lets a run that is started again find its compiled programs in its directory.

    Those for a CPU are of use on the same machine only. Does nothing where the environment has
    JAX_COMPILATION_CACHE_DIR.
    """
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        where = socket.gethostname() if jax.default_backend() == "cpu" else jax.default_backend()
        directory = workdir.absolute() / "compiled" / where
        jax.config.update("jax_compilation_cache_dir", str(directory))
        compilation_cache.reset_cache()  # what was compiled before went nowhere


def is_first() -> bool:
    """Whether this process writes logs and files."""
    return jax.process_index() == 0


def first_alone(act: Callable[[], None]) -> None:
    """Lets process 0 act when all processes have come here, and lets them go on when it is done."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("before")
    if is_first():
        act()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("after")


def any_process(is_so: bool) -> bool:
    """Returns whether it is so in any of the processes."""
    if jax.process_count() == 1:
        return is_so
    return bool(multihost_utils.process_allgather(np.bool_(is_so)).any())


def check_agreed(what: str, value: int, remedy: str) -> None:
    """Raises UserError, in every process, unless all have the same value.

    Args:
      what: the value is.
      value: from -2^31 to 2^31 - 1.
      remedy: for the message.
    """
    if jax.process_count() == 1:
        return
    values = multihost_utils.process_allgather(np.int32(value))
    differing = np.flatnonzero(values != values[0])
    if differing.size:
        process = int(differing[0])
        raise UserError(
            f"process {process} finds {what} {values[process]}, process 0 {values[0]}: {remedy}"
        )


class JointStop:
    """As `StopRequest`, for several processes: all end after the same step.

    SIGTERM is JAX's to catch: it tells the other processes. Ctrl-C is made one.
    """

    def __enter__(self) -> "JointStop":
        """Installs the handler of ctrl-C."""
        self._asked = False
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        """Puts the earlier handler back."""
        signal.signal(signal.SIGINT, self._before)

    def requested(self, step: int) -> bool:
        """Whether the run should end after this step, the same in every process."""
        return multihost_utils.reached_preemption_sync_point(step)

    def _ask(self, number: int, _: object) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True
        os.kill(os.getpid(), signal.SIGTERM)


def stop_request() -> StopRequest | JointStop:
    """Returns what a loop asks, after each step, whether to end."""
    return StopRequest() if jax.process_count() == 1 else JointStop()
