"""Compiled programs, kept for the next launch.

JAX finds a program by a digest of the program itself, the compiler's version and its options: what
is kept may be useless, but never wrong.
"""

import contextlib
import os
import pathlib
import socket

import jax
from jax.experimental.compilation_cache import compilation_cache

_KEPT_BYTES = 512 * 2**20  # of the programs of a user's commands


def keep_compiled(workdir: pathlib.Path) -> None:
    """Keeps a run's programs in WORKDIR/compiled, so that a restarted run compiles nothing.

    Does nothing if they are kept elsewhere already, such as in JAX_COMPILATION_CACHE_DIR.
    """
    if _is_free():
        _keep_in(workdir.absolute() / "compiled" / _target())


def keep_compiled_of_commands() -> None:
    """Keeps the programs that start from a checkpoint, so that the next command compiles none.

    They are in bert_jax/compiled of $XDG_CACHE_HOME or ~/.cache, 512 MB at most; the oldest go
    first. Does nothing where that cannot be written, the environment sets
    JAX_COMPILATION_CACHE_DIR, or several processes share a run: JAX lets only one of them write.
    """
    if not _is_free() or jax.process_count() > 1:
        return
    caches = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    with contextlib.suppress(OSError, RuntimeError):  # no home, or a disk that is full
        folder = caches.expanduser().absolute() / "bert_jax" / "compiled"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # it holds code that is executed
        _prune(folder)
        place = folder / _target()
        place.mkdir(mode=0o700, exist_ok=True)
        if os.access(place, os.W_OK) and place.stat().st_uid == os.getuid():
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
            _keep_in(place)


def _is_free() -> bool:
    return jax.config.jax_compilation_cache_dir is None  # pyright: ignore[reportAttributeAccessIssue]


def _target() -> str:
    """Names what programs are compiled for: those for a CPU suit one machine only."""
    backend = jax.default_backend()
    return socket.gethostname() if backend == "cpu" else backend


def _keep_in(folder: pathlib.Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # earlier compilations have fixed that there is none


def _prune(folder: pathlib.Path) -> None:
    entries = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another command removed it
            if path.is_file():
                status = path.stat()
                entries.append((status.st_mtime, status.st_size, path))
    held = 0
    for _, size, path in sorted(entries, reverse=True):
        held += size
        if held > _KEPT_BYTES:
            with contextlib.suppress(OSError):
                path.unlink()
