"""The directory of a run: claimed by one process, and bound to one config."""

import contextlib
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from typing import Any

from bert_jax.checkpoints.checkpoint import FOLDER
from bert_jax.checkpoints.literal_path import literal_path
from bert_jax.config import (
    FinetuneConfig,
    RootConfig,
    TaskKind,
    differences,
    from_dict,
    to_dict,
)
from bert_jax.errors import UserError
from bert_jax.files import strict_json, write_atomically

CONFIG_FILE, LEASE_FILE = "config.json", "lease.json"

LEASE_SECONDS = 60  # a lease that was not renewed for so long has ended

_locked: list[int] = []  # open directories; the system's locks on them end with this process


def check_workdir(workdir: pathlib.Path, config: RootConfig) -> None:
    """Checks that a directory is free for a run, or already has this run; writes nothing.

    Args:
      workdir: need not exist.
      config: of the run.

    Raises:
      UserError: if the directory has a run with another config, or files that are not a run's; or
        if it cannot have checkpoints.
    """
    literal_path(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory")
    stored_path = workdir / CONFIG_FILE
    if not stored_path.exists():
        if workdir.exists() and not all(map(_precedes_config, workdir.iterdir())):
            raise UserError(
                f"--workdir={workdir} has files that are not a run's: name a new or an empty"
                " directory"
            )
        return
    try:
        stored = from_dict(type(config), strict_json(stored_path.read_text()))
    except (ValueError, UserError) as error:
        raise UserError(
            f"--workdir={workdir} has another kind of run ({error}): name another directory"
        ) from None
    if changed := differences(stored, config):
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        remedy = "name another directory, or use the run's own config"
        if isinstance(config, FinetuneConfig) and (workdir / FOLDER).is_dir():
            head = "" if config.task is TaskKind.VECTORS else " --config.keep_head=True"
            remedy += f"; --checkpoint={workdir}{head} trains its model further"
        raise UserError(
            f"--workdir={workdir} has a run with another config: {', '.join(changed[:3])}{more};"
            f" {remedy}"
        )


def _precedes_config(path: pathlib.Path) -> bool:
    """Returns True for what a fresh disk has, and what a run that was killed at once leaves."""
    is_staged = path.name.startswith(".") and path.suffix == ".tmp"
    return path.name in (LEASE_FILE, "lost+found") or is_staged


def claim_workdir(workdir: pathlib.Path, config: RootConfig) -> None:
    """Makes the directory, locks it until this process ends, and writes the resolved config.

    The lock is the operating system's. Storage without such locks, as mounted buckets, gets a
    lease: a file that this process keeps renewing, and without which it ends.

    Raises:
      UserError: if another process uses the directory.
    """
    os.makedirs(workdir, exist_ok=True)
    lock = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _taken(workdir, "another process") from None
    except OSError:
        _lease(workdir)
    _locked.append(lock)
    write_atomically(workdir / CONFIG_FILE, json.dumps(to_dict(config), indent=1).encode())


def _taken(workdir: pathlib.Path, by: str) -> UserError:
    return UserError(
        f"{by} uses --workdir={workdir}: wait until it ends, or name another directory"
    )


def _holder(lease: dict[str, Any]) -> str:
    return f"process {lease.get('process')} of {lease.get('host')}"


def _lease(workdir: pathlib.Path) -> None:
    """Takes the lease, once an earlier one has run out, and keeps renewing it in a thread."""
    own = {"id": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid()}

    def renew() -> None:
        content = json.dumps(own | {"time": time.time()})
        write_atomically(workdir / LEASE_FILE, content.encode())

    def keep() -> None:
        renewed = time.monotonic()
        while time.monotonic() - renewed < LEASE_SECONDS:
            time.sleep(LEASE_SECONDS / 4)
            if not workdir.is_dir():
                return  # removed: nothing is left to protect
            if (now := _read_lease(workdir)).get("id", own["id"]) != own["id"]:
                _end(_taken(workdir, _holder(now)))
            with contextlib.suppress(OSError):  # storage may fail for a moment
                renew()
                renewed = time.monotonic()
        _end(
            UserError(
                f"--workdir={workdir} could not be written for {LEASE_SECONDS:g} s: start again"
            )
        )

    _wait_until_run_out(workdir)
    renew()
    time.sleep(LEASE_SECONDS / 30)
    if (now := _read_lease(workdir)).get("id") != own["id"]:  # two processes came at once
        raise _taken(workdir, _holder(now))
    threading.Thread(target=keep, name="lease", daemon=True).start()


def _end(error: UserError) -> None:
    """Ends this process at once, before it writes into what may be another one's."""
    print(f"error: {error}", file=sys.stderr, flush=True)
    os._exit(1)


def _wait_until_run_out(workdir: pathlib.Path) -> None:
    """Returns when the lease has run out; raises UserError if it is renewed meanwhile."""
    found, begin = _read_lease(workdir), time.monotonic()
    if time.time() - found.get("time", 0.0) > LEASE_SECONDS:
        return
    while time.monotonic() - begin < LEASE_SECONDS:
        time.sleep(LEASE_SECONDS / 60)
        if _read_lease(workdir) != found:
            raise _taken(workdir, _holder(found))


def _read_lease(workdir: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads((workdir / LEASE_FILE).read_text())
    except (OSError, ValueError):
        return {}
