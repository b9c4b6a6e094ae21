"""Worker processes: tasks in, results out, and errors raised in the calling process."""

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from bert_jax.errors import UserError

WorkItem = TypeVar("WorkItem")
Result = TypeVar("Result")
# Does a task and yields its results. Each process makes one.
Handle = Callable[[WorkItem], Iterator[Result]]

_OBJECTS_PER_COLLECTION = 100_000  # a higher threshold of the garbage collector


def cpus() -> int:
    """Returns the number of CPUs that this process may use."""
    with contextlib.suppress(AttributeError):  # not every system can pin processes
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(
    setup: Callable[[], Handle[WorkItem, Result]], tasks: Iterable[WorkItem], workers: int
) -> Iterator[Result]:
    """Does tasks in worker processes; in this process if one worker or one task is enough.

    A worker starts with a fresh interpreter, which imports only what `setup` needs. Workers ignore
    ctrl-C, and end when this process ends, even if it is killed.

    Args:
      setup: makes the function that does a task; it can be pickled.
      tasks: started in this order.
      workers: number of processes, at most.

    Yields:
      The results, in the order in which they are finished.

    Raises:
      UserError: if a worker was killed or ran out of memory.
      Exception: an error of a task; UserError and OSError unchanged, others as RuntimeError with
        the traceback.
    """
    waiting = list(tasks)
    if min(workers, len(waiting)) < 2:
        handle = setup()
        for task in waiting:
            yield from handle(task)
        return
    processes: dict[Connection, Any] = {}
    try:
        with _interrupts_blocked():  # the workers inherit that
            context = multiprocessing.get_context("forkserver")
            for _ in range(min(workers, len(waiting))):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(setup, theirs))
                process.start()
                theirs.close()
                processes[ours] = process
        yield from _deal(waiting, processes)
    finally:
        for pipe, process in processes.items():
            process.kill()  # an unfinished result does not count
            process.join()
            pipe.close()


def _deal(waiting: list[WorkItem], processes: dict[Connection, Any]) -> Iterator[Any]:
    waiting = waiting[::-1]
    busy = set()
    for pipe in processes:
        _send(pipe, processes[pipe], waiting.pop())
        busy.add(pipe)
    while busy:
        for pipe in wait(list(busy)):
            assert isinstance(pipe, Connection)
            try:
                kind, value = pipe.recv()
            except (EOFError, ConnectionError):
                raise _killed(processes[pipe]) from None
            if kind == "result":
                yield value
            elif kind == "error":
                raise value
            elif waiting:
                _send(pipe, processes[pipe], waiting.pop())
            else:
                busy.remove(pipe)


def _send(pipe: Connection, process: Any, task: object) -> None:
    try:
        pipe.send(task)
    except ConnectionError:
        raise _killed(process) from None


def _killed(process: Any) -> UserError:
    process.join()
    number = -process.exitcode
    if number <= 0:
        return UserError(
            f"a worker process ended with status {process.exitcode}: run the command again"
        )
    return UserError(
        f"a worker process was killed by {signal.Signals(number).name}, perhaps for lack of memory:"
        " run the command again with fewer --workers"
    )


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Blocks ctrl-C for a moment."""
    resource_tracker.ensure_running()  # else it would start now, and unblock ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(setup: Callable[[], Handle[Any, Any]], pipe: Connection) -> None:
    """Does tasks in a worker process until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        handle = setup()
        # Text makes many objects but no cycles, so that frequent collections are wasted time.
        gc.freeze()
        gc.set_threshold(_OBJECTS_PER_COLLECTION)
        while True:
            for result in handle(pipe.recv()):
                pipe.send(("result", result))
            pipe.send(("done", None))
    except (EOFError, ConnectionError):
        pass  # the parent process has ended
    except MemoryError:
        error = UserError(
            "a worker process ran out of memory: run the command again with fewer --workers"
        )
        pipe.send(("error", error))
    except (UserError, OSError) as error:
        pipe.send(("error", error))
    except Exception:
        pipe.send(("error", RuntimeError(traceback.format_exc())))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
