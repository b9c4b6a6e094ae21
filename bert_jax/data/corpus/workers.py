"""Work shared by processes: tasks in, results out, and every failure told in the caller's words."""

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

Task = TypeVar("Task")
Result = TypeVar("Result")
# Does a task and yields what it has finished. It is made once in each process.
Handle = Callable[[Task], Iterator[Result]]

_COLLECTED_AFTER = 100_000  # new objects


def cpus() -> int:
    """Returns how many CPUs this process may use."""
    with contextlib.suppress(AttributeError):  # not every system can pin processes
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(
    setup: Callable[[], Handle[Task, Result]], tasks: Iterable[Task], workers: int
) -> Iterator[Result]:
    """Does tasks in processes of their own, or in this one where one is enough.

    The processes begin with a fresh interpreter, which imports what `setup` needs and no more. They
    leave ctrl-C to this one, and end when it ends, however that is.

    Args:
      setup: makes what does a task; it can be pickled.
      tasks: begun in this order.
      workers: processes at most.

    Yields:
      The results, in the order in which they are finished.

    Raises:
      UserError: where a process was killed, or its memory was not enough.
      Exception: what a task raised; UserError and OSError as they were.
    """
    waiting = list(tasks)
    if min(workers, len(waiting)) < 2:
        handle = setup()
        for task in waiting:
            yield from handle(task)
        return
    processes: dict[Connection, Any] = {}
    try:
        with _interrupts_held():  # which the processes inherit
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
            process.kill()  # what it was writing is no shard yet
            process.join()
            pipe.close()


def _deal(waiting: list[Task], processes: dict[Connection, Any]) -> Iterator[Any]:
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
        return UserError(f"a worker process ended with status {process.exitcode}: start again")
    return UserError(
        f"a worker process was killed by {signal.Signals(number).name}, as happens where memory is"
        " short: start again with fewer --workers"
    )


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Holds ctrl-C back for a moment."""
    resource_tracker.ensure_running()  # or it would begin now, and let ctrl-C through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(setup: Callable[[], Handle[Any, Any]], pipe: Connection) -> None:
    """Is what a worker process runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        handle = setup()
        # Text makes many objects and no cycles, and the collector looks for those all the time.
        gc.freeze()
        gc.set_threshold(_COLLECTED_AFTER)
        while True:
            for result in handle(pipe.recv()):
                pipe.send(("result", result))
            pipe.send(("done", None))
    except (EOFError, ConnectionError):
        pass  # nobody is there any more
    except MemoryError:
        error = UserError("a worker process has no memory left: start again with fewer --workers")
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
