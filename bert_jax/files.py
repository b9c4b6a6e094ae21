"""Paths that users give, and results that are whole or absent.

Every path of a flag or a config passes `given_path`, or `path_list` where it may be several; every
result is written by `write_atomically`, or inside `new_folder` or `new_file`.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

from bert_jax.errors import UserError

_MOST_BYTES = 255  # of a name, in most file systems
_STAGING = ".partial"  # in a directory that becomes the output
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
_COMMA = re.compile(r"(?<!\\),")  # `\,` is a comma inside a path

REMEDIES = {  # what a user can do about an error of the system with a path
    errno.EACCES: "change its permissions, or name another",
    errno.EPERM: "change its permissions, or name another",
    errno.EROFS: "name a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOTDIR: "a part of the path is a file: name another",
    errno.EISDIR: "name a file",
    errno.ELOOP: "its links form a circle: name another",
}


def given(text: str) -> str:
    """Returns the path that a user gave: as it is if it exists, else with `~` expanded.

    What is no path on this machine, such as gs://bucket/wiki, stays as it is.

    Raises:
      UserError: if it has a character that no path has.
    """
    if "\0" in text:
        raise UserError(f"{text!r} is no path: remove its NUL character")
    return text if os.path.lexists(text) else os.path.expanduser(text)


def given_path(text: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path that a user gave, of this machine; see `given`."""
    return pathlib.Path(given(os.fspath(text)))


def exists(text: str) -> bool:
    """Returns True if a user's text is, as a whole, a path of this machine."""
    return os.path.lexists(given(text))


def matching(pattern: str) -> list[str]:
    """Returns the paths that a pattern matches, in no order; `**` matches any folders.

    A path that exists is taken as it is, and so are the folders that a pattern begins with.
    """
    folder, rest = given(pattern), ""
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder, last = os.path.split(folder)
        rest = os.path.join(last, rest) if rest else last
    return glob.glob(os.path.join(glob.escape(folder), rest), recursive=True) if rest else [folder]


def path_list(text: str, path_of: Callable[[str], str] = str) -> list[str]:
    r"""Cuts a list of paths, or of other sources, at its commas.

    A path that exists is not cut, the longest first; elsewhere `\,` is a comma that does not cut.
    Entries may be empty.

    Args:
      text: the list.
      path_of: returns the path in an entry, where entries have more than a path.
    """
    parts, found = _COMMA.split(text), []
    while parts:
        counts = range(len(parts), 1, -1)
        count = next((n for n in counts if exists(path_of(",".join(parts[:n])))), 1)
        entry = ",".join(parts[:count])
        found.append(entry if exists(path_of(entry)) else entry.replace("\\,", ",").strip())
        del parts[:count]
    return found


def beside(path: pathlib.Path, ending: str) -> pathlib.Path:
    """Returns the hidden path `.NAME.ENDING` in the same directory, shortened if it must be."""
    name = f".{path.name}.{ending}"
    if len(os.fsencode(name)) > _MOST_BYTES:
        name = f".{hashlib.blake2b(os.fsencode(path.name), digest_size=8).hexdigest()}.{ending}"
    return path.with_name(name)


def write_atomically(path: pathlib.Path, content: bytes) -> None:
    """Writes a file so that a reader, or a crash, sees the old content or the new, never a part."""
    staged = beside(path, f"{os.getpid()}.tmp")
    try:
        with staged.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def check_new(output: pathlib.Path, flag: str) -> pathlib.Path:
    """Checks that a new directory can have this name; returns it with its links followed.

    Raises:
      UserError: if a file or a directory with content is there.
    """
    if output.is_dir():
        is_taken = any(child.name != _STAGING for child in output.iterdir())
    else:
        is_taken = output.exists()
    if is_taken:
        raise UserError(f"--{flag}={output} is there already: name a new or an empty directory")
    return output.resolve()


@contextlib.contextmanager
def new_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a directory that becomes `output` on leaving without an error.

    It is made at once, so that a place that cannot be written is found before any work.

    Args:
      output: from `check_new`.

    Raises:
      UserError: if another process is making it.
      OSError: if it cannot be made.
    """
    with locked_staging(output) as staging:
        made = staging / "new"
        made.mkdir()
        yield made
        take_place(made, output)


@contextlib.contextmanager
def new_file(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a path that becomes the file `output`, or replaces it, on leaving without an error.

    Raises:
      UserError: if `output` is a directory, or another process is making it.
      OSError: if it cannot be made.
    """
    if output.is_dir():
        raise UserError(f"{output} is a directory: name a file")
    output = output.resolve()
    with locked_staging(output) as staging:
        made = staging / output.name
        made.touch()  # the name may be too long
        yield made
        os.replace(made, output)


def take_place(made: pathlib.Path, output: pathlib.Path) -> None:
    """Moves a directory to its place, which may be an empty directory with the staging in it."""
    if output.is_dir():  # it may be a mount point, which cannot be replaced
        for child in made.iterdir():
            child.rename(output / child.name)
    else:
        made.rename(output)


@contextlib.contextmanager
def locked_staging(
    output: pathlib.Path, is_worth_keeping: Callable[[pathlib.Path], bool] = lambda _: False
) -> Iterator[pathlib.Path]:
    """Makes or finds a directory in which an output grows, on the same disk, and locks it.

    It is `.{output}.partial` beside the output; or `.partial` in it, if it is a directory already.
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
    staging = output / _STAGING if output.is_dir() else beside(output, "partial")
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
                f"another process is making {output}: wait for it, or name another place"
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(lock)
            raise OSError(error.errno, error.strerror, str(staging)) from error
        os.close(lock)


def strict_json(text: str) -> Any:
    """Parses JSON.

    Raises:
      UnicodeEncodeError: if it has half of a surrogate pair.
      ValueError: if it is not JSON, or nested too deeply.
    """
    try:
        value = json.loads(text)
        if _SURROGATE_ESCAPE.search(text):  # rare, and usually in whole pairs
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError(str(error)) from None
    return value


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file with one JSON object.

    Raises:
      UserError: if it is not JSON, not an object, or has half of a surrogate pair.
    """
    try:
        content = path.read_bytes()
        values = strict_json(content.decode(json.detect_encoding(content)))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): copy or download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} is not a JSON object: copy or download it again")
    return values
