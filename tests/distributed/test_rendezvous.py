"""Processes meet, or are told who is missing and what differs."""

import contextlib
import json
import socket
import threading
import time
from typing import Any

import pytest

from bert_jax.distributed import rendezvous
from bert_jax.distributed.rendezvous import Lifeline, Member, meet
from bert_jax.errors import UserError


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("", 0))
        return held.getsockname()[1]


def member(process: int, processes: int, **changes: Any) -> Member:
    must_agree = {"config.steps": 100, "jax": "1.2"}
    return Member(process, processes, f"host{process}", time.time(), must_agree)._replace(**changes)


def meet_all(
    *members: Member, seconds: float = 20, port: int = 0, host: str = "localhost"
) -> list[Lifeline | str]:
    """Returns each one's lifeline, or the message of its error."""
    port = port or free_port()
    results: list[Any] = [None] * len(members)

    def start(number: int) -> None:
        try:
            results[number] = meet(
                f"{host}:{port}", members[number], timeout_seconds=seconds, heartbeat_seconds=8
            )
        except UserError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=start, args=(n,)) for n in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_all_meet_and_the_port_is_free_again() -> None:
    port = free_port()
    lifelines = meet_all(*(member(n, 4) for n in (2, 0, 3, 1)), port=port)
    with socket.create_server(("", port)):  # as JAX will
        pass
    for lifeline in lifelines:
        assert isinstance(lifeline, Lifeline)
        lifeline.leave(0, "")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
def test_all_meet_at_addresses_of_either_kind(host: str) -> None:
    for lifeline in meet_all(*(member(n, 3) for n in range(3)), host=host):
        assert isinstance(lifeline, Lifeline)
        lifeline.leave(0, "")


def test_leaving_together_is_not_taken_for_a_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, send = [], socket.socket.sendall

    def send_slowly(connection: socket.socket, content: bytes) -> None:
        time.sleep(0.2)
        send(connection, content)

    first, *others = meet_all(*(member(n, 4) for n in range(4)))
    monkeypatch.setattr(socket.socket, "sendall", send_slowly)
    monkeypatch.setattr(rendezvous.os, "_exit", ended.append)
    threads = [threading.Thread(target=each.leave, args=(0, "")) for each in (others[0], first)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lifeline in others[1:]:
        lifeline.leave(0, "")
    assert not ended


def message_to(*members: Member, seconds: float = 20) -> str:
    """Returns the message that all of them get."""
    (message,) = set(meet_all(*members, seconds=seconds))
    assert isinstance(message, str)
    return message


def test_missing_processes_are_named() -> None:
    message = message_to(member(0, 4), member(2, 4), seconds=1)
    assert message.startswith("processes 1, 3 of 4 did not start in time")
    assert "process 0 (host0), process 2 (host2)" in message


def test_a_missing_process_0_is_named() -> None:
    port = free_port()
    (message,) = meet_all(member(1, 2), seconds=0.5, port=port)
    assert isinstance(message, str)
    assert message.startswith(f"process 0 does not answer at localhost:{port} (Connection refused)")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"must_agree": {"config.steps": 7, "jax": "1.2"}},
            "process 1 (host1) differs from process 0 (host0): config.steps is 7, not 100",
        ),
        (
            {"must_agree": {"config.steps": 100}},
            'differs from process 0 (host0): jax is null, not "1.2"',
        ),
        (
            {"processes": 3},
            "process 1 (host1) was started with --processes=3, process 0 (host0) with 2",
        ),
        ({"process": 2}, "process 2 (host1) and process 0 (host0) have one number: give each"),
        ({"clock": time.time() + 4000}, "the clock of process 1 (host1) is +"),
    ],
)
def test_a_difference_is_named(changes: dict[str, Any], message: str) -> None:
    assert message in message_to(member(0, 2), member(1, 2)._replace(**changes))


def test_two_with_one_number_are_named() -> None:
    message = message_to(member(0, 3), member(1, 3), member(1, 3, host="other"))
    assert "have one number: give each process its own --process, from 0 to 2" in message


def test_two_hosts_of_one_name_are_refused() -> None:
    # Of the loopback's many addresses two are as good as two hosts.
    port = free_port()
    results: list[Any] = []

    def first() -> None:
        try:
            meet(f"localhost:{port}", member(0, 3), timeout_seconds=20, heartbeat_seconds=8)
        except UserError as error:
            results.append(str(error))

    thread = threading.Thread(target=first)
    thread.start()
    lines = []
    for number, address in ((1, "127.0.0.1"), (2, "127.0.0.2")):
        while True:
            with contextlib.suppress(OSError):
                lines.append(
                    socket.create_connection(("127.0.0.1", port), source_address=(address, 0))
                )
                break
        same = member(number, 3, host="twin")
        lines[-1].sendall(json.dumps(same._asdict()).encode() + b"\n")
    thread.join()
    assert results == ["two hosts are named twin: give each host its own name"]
    for line in lines:
        line.close()


def test_connections_of_other_programs_are_ignored() -> None:
    port = free_port()

    def knock() -> None:
        for content in (b"GET / HTTP/1.1\r\n\r\n", b'{"process": 1}\n', b"x" * 100_000, b""):
            while True:
                with contextlib.suppress(OSError):
                    with socket.create_connection(("localhost", port), timeout=1) as connection:
                        with contextlib.suppress(OSError):
                            connection.sendall(content)
                    break

    thread = threading.Thread(target=knock)
    results: list[Any] = []
    starter = threading.Thread(
        target=lambda: results.append(
            meet(f"localhost:{port}", member(0, 2), timeout_seconds=20, heartbeat_seconds=8)
        )
    )
    starter.start()
    thread.start()
    thread.join()
    other = meet(f"localhost:{port}", member(1, 2), timeout_seconds=20, heartbeat_seconds=8)
    starter.join()
    for lifeline in (other, *results):
        lifeline.leave(0, "")


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("", 0)) as held:
        port = held.getsockname()[1]
        (message,) = meet_all(member(0, 2), seconds=1, port=port)
    assert isinstance(message, str) and f"port {port} of host0 cannot be used" in message


@pytest.mark.parametrize("address", ["host", "host:", ":1", "host:one", "host:0", "h:65536"])
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(UserError, match=f"--coordinator={address} is not HOST:PORT"):
        meet(address, member(1, 2), timeout_seconds=1, heartbeat_seconds=8)
