"""Staging directory: an output grows beside its final place, locked by one process."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from bert_jax.errors import UserError


@contextlib.contextmanager
def locked_staging(
    output: pathlib.Path, is_worth_keeping: Callable[[pathlib.Path], bool]
) -> Iterator[pathlib.Path]:
    """Makes or finds `.{output}.partial` beside the output, and locks it.

    The operating system releases the lock when this process ends, even if it is killed. On leaving,
    the directory is removed, and with it the parents that were made for it and are empty; after an
    error it is kept if it is worth keeping.

    Args:
      output: path of the output.
      is_worth_keeping: returns True if the directory has work that another attempt can use.

    Yields:
      The directory.

    Raises:
      UserError: if another process has locked it.
      OSError: if it cannot be made.
    """
    staging = output.with_name(f".{output.name}.partial")
    # Deepest first; with the staging directory, since ctrl-C may come before it is locked.
    absent = [path for path in (staging, *staging.parents) if not path.exists()]
    try:
        lock = _lock(staging, output)
        keep = False
        try:
            yield staging
        except BaseException:
            keep = is_worth_keeping(staging)
            raise
        finally:
            if not keep:
                shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)
    finally:
        for path in absent:
            with contextlib.suppress(OSError):  # it is not empty, or was never made
                path.rmdir()


def _lock(staging: pathlib.Path, output: pathlib.Path) -> int:
    """Returns an open file descriptor that has the lock."""
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        lock = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The process that had the lock may have removed the directory.
            if os.path.samestat(os.fstat(lock), staging.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"another process is making {output}: wait for it, or choose another --output"
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(lock)
            raise OSError(error.errno, error.strerror, str(staging)) from error
        os.close(lock)
