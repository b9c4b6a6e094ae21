"""Sockets between a run's processes: they meet before JAX starts, and notice a lost one at once.

JAX alone waits silently for a late process, and aborts without naming the missing one. Here process
0 listens, the others introduce themselves, and everyone learns which process is missing or runs
something else. The connections stay open: when a process dies, its operating system closes them.
"""

import contextlib
import errno
import json
import os
import selectors
import socket
import sys
import threading
import time
from typing import Any, NamedTuple

from bert_jax.errors import UserError
from bert_jax.stopping import RESTART_STATUS

_LAST_PORT = 65_535
_MESSAGE_BYTES = 1 << 16  # a longer message is not one of ours
_CLOCK_SECONDS = 60  # greatest difference of clocks: logs and leases are read across hosts
_RETRY_SECONDS = 0.1


class Member(NamedTuple):
    """A process of the run, as it introduces itself."""

    process: int  # its number
    processes: int  # of the run, as its flags say
    host: str
    clock: float  # seconds since 1970
    must_agree: dict[str, Any]  # settings that must be equal in all processes

    def __str__(self) -> str:
        """Returns the process's name for messages."""
        return f"process {self.process} ({self.host})"


class _Connection:
    """A socket that carries JSON values, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._unread = b""

    def send(self, value: Any) -> None:
        """Sends a value, or does nothing if the other process is gone."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> Any:
        """Waits for a value; None if the other side is gone, or speaks another protocol."""
        while b"\n" not in self._unread:
            try:
                part = self.socket.recv(4096)
            except OSError:
                return None
            self._unread += part
            if not part or len(self._unread) > _MESSAGE_BYTES:
                return None
        line, _, self._unread = self._unread.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            return None

    def keep_alive(self, seconds: float) -> None:
        """Makes the system close the connection within so many seconds of the other host's loss."""
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": seconds / 2, "TCP_KEEPINTVL": seconds / 4, "TCP_KEEPCNT": 2}
        for name, value in options.items():
            if hasattr(socket, name):
                option = getattr(socket, name)
                self.socket.setsockopt(socket.IPPROTO_TCP, option, max(int(value), 1))


class Lifeline:
    """The open connections of a process: to process 0, or from process 0 to all others.

    A thread watches them, and ends this process when another one is lost or fails.
    """

    def __init__(self, own: str, connections: dict[int, tuple[str, _Connection]]) -> None:
        """Starts watching.

        Args:
          own: name of this process, for messages.
          connections: number of another process -> its name and the connection to it.
        """
        self._own, self._connections = own, connections
        self._leaving, self._notified = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def leave(self, status: int, message: str) -> None:
        """Notifies the others, once, that this process ends; unless the status is 0, they end too.

        Args:
          status: exit status of this process; 0 also if all end by agreement.
          message: reason, for the others to print.
        """
        self._notify(status, f"{self._own} ended: {message}")

    def _notify(self, status: int, message: str) -> None:
        if not self._leaving.is_set():
            self._leaving.set()
            for _, connection in self._connections.values():
                connection.send({"status": status, "message": message})
            self._notified.set()

    def _watch(self) -> None:
        with contextlib.ExitStack() as opened:
            selector = opened.enter_context(selectors.DefaultSelector())
            for number, (_, connection) in self._connections.items():
                opened.enter_context(connection.socket)
                selector.register(connection.socket, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    name, connection = self._connections[key.data]
                    notice = connection.receive()
                    if self._leaving.is_set():
                        # Without notice the others would take the closed connection for a death.
                        self._notified.wait()
                        return
                    if notice is None:
                        self._end(
                            RESTART_STATUS,
                            f"{name} is gone: start all processes again, and the run resumes",
                        )
                    elif notice["status"]:
                        self._end(notice["status"], notice["message"])
                    selector.unregister(connection.socket)

    def _end(self, status: int, message: str) -> None:
        """Ends this process and, through process 0, all others.

        It does so at once: the main thread may be in a collective that never returns.
        """
        self._notify(status, message)
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(status)


def meet(
    address: str,
    member: Member,
    *,
    timeout_seconds: float,
    heartbeat_seconds: float,
) -> Lifeline:
    """Connects to all other processes of the run, and checks that they agree.

    Args:
      address: HOST:PORT of process 0. The port is free again afterwards, for JAX's own use.
      member: this process.
      timeout_seconds: time to wait for the others.
      heartbeat_seconds: time within which the loss of a host is noticed.

    Raises:
      UserError: in every process, if one is missing or differs.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) <= _LAST_PORT:
        raise UserError(
            f"--coordinator={address} is not HOST:PORT, with a port of 1 to {_LAST_PORT}: for"
            " example node0:9876"
        )
    end = time.monotonic() + timeout_seconds
    if member.process == 0:
        connections = _accept_all(int(port), member, end)
    else:
        connections = {0: ("process 0", _introduce(host.strip("[]"), int(port), member, end))}
    for _, connection in connections.values():
        connection.keep_alive(heartbeat_seconds)
    return Lifeline(str(member), connections)


def _accept_all(port: int, own: Member, end: float) -> dict[int, tuple[str, _Connection]]:
    """Accepts the connections of all others, and answers each: all is well, or the problem."""
    members: dict[int, Member] = {}
    connections: list[_Connection] = []
    hosts = {own.host: "here"}  # name -> address: two hosts of one name are two addresses
    problem = ""
    try:
        server = _listen(port)
    except OSError as error:
        raise UserError(
            f"--coordinator: port {port} of {own.host} cannot be used ({error.strerror}): choose"
            " another port"
        ) from None
    with contextlib.ExitStack() as opened:
        opened.enter_context(server)
        while len(members) < own.processes - 1 and not problem:
            server.settimeout(max(end - time.monotonic(), 0.01))
            try:
                accepted, peer = server.accept()
            except TimeoutError:
                problem = _missing(own, members)
                break
            opened.enter_context(accepted)
            accepted.settimeout(5)
            connection = _Connection(accepted)
            try:
                member = Member(**connection.receive())
            except TypeError:  # not one of our processes, perhaps a port scan
                accepted.close()
                continue
            connections.append(connection)
            address = "here" if peer[0] == accepted.getsockname()[0] else peer[0]
            is_same_host = hosts.setdefault(member.host, address) == address
            problem = _disagreement(own, member, members, is_same_host)
            members[member.process] = member
        for connection in connections:
            connection.send({"problem": problem})
        if problem:
            raise UserError(problem)
        opened.pop_all()
    server.close()
    return {
        number: (str(member), connection)
        for (number, member), connection in zip(members.items(), connections, strict=True)
    }


def _listen(port: int) -> socket.socket:
    """Listens on all addresses of this host, those of IPv6 too where it has them."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is built in, and turned off
                raise
    return socket.create_server(("", port))


def _introduce(host: str, port: int, member: Member, end: float) -> _Connection:
    """Connects to process 0 and waits for its answer."""
    while True:
        try:
            connected = socket.create_connection((host, port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"process 0 does not answer at {host}:{port} ({error.strerror or error}): start"
                    " it, or correct --coordinator"
                ) from None
            time.sleep(_RETRY_SECONDS)
    connection = _Connection(connected)
    connection.send(member._asdict())
    connected.settimeout(max(end - time.monotonic(), 1) + 10)  # process 0 waits for all
    answer = connection.receive() or {
        "problem": f"process 0 at {host}:{port} ended during the start: see its messages"
    }
    if answer["problem"]:
        connected.close()
        raise UserError(answer["problem"])
    return connection


def _missing(own: Member, members: dict[int, Member]) -> str:
    missing = sorted(set(range(1, own.processes)) - members.keys())
    named = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing[:10]))}"
    there = ", ".join(str(member) for member in (own, *members.values()))
    return (
        f"{named} of {own.processes} did not start in time (present: {there[:200]}): see its"
        " messages, or raise --config.hosts.start_seconds"
    )


def _disagreement(
    own: Member, member: Member, members: dict[int, Member], is_same_host: bool
) -> str:
    """Returns a message that says in what a process and this one disagree, or ''.

    Args:
      own: process 0.
      member: the process that has just connected.
      members: those that connected before.
      is_same_host: False if another host has given the same name.
    """
    if member.processes != own.processes:
        return (
            f"{member} was started with --processes={member.processes}, {own} with"
            f" {own.processes}: give all the same"
        )
    if member.process in members or not 0 < member.process < own.processes:
        other = members.get(member.process, own)
        return (
            f"{member} and {other} have one number: give each process its own --process, from 0"
            f" to {own.processes - 1}"
        )
    if not is_same_host:
        return f"two hosts are named {member.host}: give each host its own name"
    if abs(seconds := member.clock - time.time()) > _CLOCK_SECONDS:
        return f"the clock of {member} is {seconds:+.0f} s from that of {own}: set the clocks"
    ours, theirs = own.must_agree, member.must_agree
    differing = [
        f"{name} is {json.dumps(theirs.get(name))}, not {json.dumps(ours.get(name))}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        more = f" (and {len(differing) - 3} more)" if len(differing) > 3 else ""
        return f"{member} differs from {own}: {'; '.join(differing[:3])}{more}; make them equal"
    return ""
