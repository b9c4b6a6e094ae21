"""A directory that grows beside the one that it will become, and that one process may fill."""

import contextlib
import fcntl
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator

from bert_jax.errors import UserError


@contextlib.contextmanager
def locked_staging(
    output: pathlib.Path, worth_keeping: Callable[[pathlib.Path], bool]
) -> Iterator[pathlib.Path]:
    """Makes or finds `.{output}.partial` beside an output, and holds it alone.

    The lock is the system's, so that it ends with this process, however that ends. On leaving, the
    directory is removed, and so are the parents made for it where nothing else is in them; except
    after an error when it is worth keeping.

    Args:
      output: what is to be made.
      worth_keeping: says whether the directory holds what another attempt can use.

    Yields:
      The directory.

    Raises:
      UserError: if another process holds it.
      OSError: if it cannot be made.
    """
    staging = output.with_name(f".{output.name}.partial")
    # The deepest first. The staging directory is one of them: ctrl-C may come before it is held.
    absent = [path for path in (staging, *staging.parents) if not path.exists()]
    try:
        lock = _lock(staging, output)
        keep = False
        try:
            yield staging
        except BaseException:
            keep = worth_keeping(staging)
            raise
        finally:
            if not keep:
                shutil.rmtree(staging, ignore_errors=True)
            os.close(lock)
    finally:
        for path in absent:
            with contextlib.suppress(OSError):  # it holds something, or was never made
                path.rmdir()


def _lock(staging: pathlib.Path, output: pathlib.Path) -> int:
    """Returns an open file that holds the lock."""
    while True:
        staging.mkdir(parents=True, exist_ok=True)
        lock = os.open(staging, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it until now may have removed the directory.
            if os.path.samestat(os.fstat(lock), staging.stat()):
                return lock
        except BlockingIOError:
            os.close(lock)
            raise UserError(
                f"another process is making {output}: wait for it or choose another name"
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(lock)
            raise OSError(error.errno, error.strerror, str(staging)) from error
        os.close(lock)
