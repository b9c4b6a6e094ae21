"""The directory of a run: whose it is, and what it must hold before the first step."""

import fcntl
import json
import os
import pathlib

from bert_jax.config import RootConfig, differences, from_dict, to_dict
from bert_jax.errors import UserError
from bert_jax.files import write_atomically

CONFIG_FILE = "config.json"

_held: list[int] = []  # open directories; the system's locks on them end with this process


def check_workdir(workdir: pathlib.Path, config: RootConfig) -> None:
    """Refuses a directory that belongs to something else; writes nothing.

    Args:
      workdir: may not exist yet.
      config: resolved.

    Raises:
      UserError: if it holds a run with another config, or files that are no run's.
    """
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is a file: name a directory")
    stored_path = workdir / CONFIG_FILE
    if not stored_path.exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise UserError(
                f"--workdir={workdir} holds files and no run: name a new or an empty directory"
            )
        return
    try:
        stored = from_dict(type(config), json.loads(stored_path.read_text()))
    except (ValueError, UserError) as error:
        raise UserError(
            f"--workdir={workdir} holds another kind of run ({error}): name another directory"
        ) from None
    if changed := differences(stored, config):
        more = f" (and {len(changed) - 3} more)" if len(changed) > 3 else ""
        raise UserError(
            f"--workdir={workdir} holds a run with another config: {', '.join(changed[:3])}{more};"
            " name another directory, or give the config that the run began with"
        )


def claim_workdir(workdir: pathlib.Path, config: RootConfig) -> None:
    """Makes the directory, holds it until this process ends, and writes the resolved config.

    Raises:
      UserError: if another process holds it.
    """
    os.makedirs(workdir, exist_ok=True)
    lock = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise UserError(
            f"another process is at work in --workdir={workdir}: wait for it, or name another"
            " directory"
        ) from None
    except OSError:
        pass  # this file system has no locks
    _held.append(lock)
    write_atomically(workdir / CONFIG_FILE, json.dumps(to_dict(config), indent=1).encode())
