"""Tasks shared by processes: every result comes, and every end of a worker is told."""

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from bert_jax.data.corpus import workers
from bert_jax.errors import UserError

# The drivers' processes come from the same server, which `share` would start with ctrl-C held.
pytestmark = pytest.mark.usefixtures("drivers")


def square() -> Callable[[int], Iterator[tuple[int, int]]]:
    def handle(number: int) -> Iterator[tuple[int, int]]:
        yield number, os.getpid()
        yield number**2, os.getpid()

    return handle


def faulty() -> Callable[[object], Iterator[object]]:
    def handle(task: object) -> Iterator[object]:
        yield task
        if isinstance(task, BaseException):
            raise task
        if task == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "leave":
            os._exit(3)

    return handle


@pytest.mark.parametrize("count", [1, 3, 9])
def test_every_result_comes(count: int) -> None:
    results = list(workers.share(square, range(7), count))
    values = [value for value, _ in results]
    assert sorted(values) == sorted([*range(7), *(number**2 for number in range(7))])
    pids = {pid for _, pid in results}
    assert (os.getpid() in pids) == (count == 1)
    assert 1 <= len(pids) <= count


def test_without_tasks_nothing_is_started() -> None:
    assert list(workers.share(square, [], 4)) == []


@pytest.mark.parametrize(
    ("task", "error", "message"),
    [
        (UserError("a.txt is damaged: copy it"), UserError, "a.txt is damaged: copy it"),
        (OSError(28, "No space left"), OSError, "No space left"),
        (KeyError("inner"), RuntimeError, "in handle"),
        (MemoryError(), UserError, "ran out of memory: run the command again with fewer --workers"),
        ("kill", UserError, "killed by SIGKILL, perhaps for lack of memory"),
        ("leave", UserError, "ended with status 3"),
    ],
)
def test_what_ends_a_worker_is_told(task: object, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        list(workers.share(faulty, [0, task, 2, 3], 2))
    if error is UserError:
        assert "\n" not in str(raised.value)
