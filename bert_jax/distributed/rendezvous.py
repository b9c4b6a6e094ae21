"""The processes of a run meet over sockets before JAX starts, and notice at once when one is gone.

JAX itself waits in silence for who is late, and ends in an abort that names nobody. Here process 0
listens, the others say who they are and what they run, and what is missing or differs is told to
all. The connections stay open: when a process dies, its system closes them.
"""

import contextlib
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

_LINE_BYTES = 1 << 16  # a longer message is not one of ours
_CLOCK_SECONDS = 60  # clocks may differ by as much: logs and leases are read across hosts
_RETRY_SECONDS = 0.1


class Member(NamedTuple):
    """A process of the run, as it introduces itself."""

    process: int
    processes: int  # that it believes there are
    host: str
    clock: float  # seconds since 1970
    must_agree: dict[str, Any]  # what must be the same everywhere

    def __str__(self) -> str:
        """Names it in messages."""
        return f"process {self.process} ({self.host})"


class _Line:
    """A connection that carries JSON values, one a line."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._held = b""

    def send(self, value: Any) -> None:
        """Sends a value; who is gone already does not get it."""
        with contextlib.suppress(OSError):
            self.connection.sendall(json.dumps(value).encode() + b"\n")

    def receive(self) -> Any:
        """Waits for a value; None where the other side is gone, or is none of us."""
        while b"\n" not in self._held:
            try:
                part = self.connection.recv(4096)
            except OSError:
                return None
            self._held += part
            if not part or len(self._held) > _LINE_BYTES:
                return None
        line, _, self._held = self._held.partition(b"\n")
        try:
            return json.loads(line)
        except ValueError:
            return None

    def watch_for(self, seconds: float) -> None:
        """Lets the system find within so many seconds that the other host is gone."""
        connection = self.connection
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        options = {"TCP_KEEPIDLE": seconds / 2, "TCP_KEEPINTVL": seconds / 4, "TCP_KEEPCNT": 2}
        for name, value in options.items():
            if hasattr(socket, name):
                option = getattr(socket, name)
                connection.setsockopt(socket.IPPROTO_TCP, option, max(int(value), 1))


class Lifeline:
    """The open connections of a process: to process 0, or from process 0 to all others."""

    def __init__(self, own: str, lines: dict[int, tuple[str, _Line]]) -> None:
        """Takes this process's name, and the names and connections of the others by number."""
        self._own, self._lines = own, lines
        self._leaving, self._told = threading.Event(), threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def leave(self, status: int, message: str) -> None:
        """Tells the others, once, that this process ends; after a status other than 0 they do too.

        Args:
          status: of its exit; 0 also where all end by agreement.
          message: its last words.
        """
        self._tell(status, f"{self._own} ended: {message}")

    def _tell(self, status: int, said: str) -> None:
        if not self._leaving.is_set():
            self._leaving.set()
            for _, line in self._lines.values():
                line.send({"status": status, "said": said})
            self._told.set()

    def _watch(self) -> None:
        with contextlib.ExitStack() as opened:
            selector = opened.enter_context(selectors.DefaultSelector())
            for number, (_, line) in self._lines.items():
                opened.enter_context(line.connection)
                selector.register(line.connection, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    name, line = self._lines[key.data]
                    message = line.receive()
                    if self._leaving.is_set():
                        self._told.wait()  # who is not told takes a closed connection for a death
                        return
                    if message is None:
                        said = f"{name} is gone: start all processes again, and they go on"
                        self._end(RESTART_STATUS, said)
                    elif message["status"]:
                        self._end(message["status"], message["said"])
                    selector.unregister(line.connection)

    def _end(self, status: int, said: str) -> None:
        """Ends this process, and through process 0 all others.

        At once: the main thread may be inside a collective that never returns.
        """
        self._tell(status, said)
        print(f"error: {said}", file=sys.stderr, flush=True)
        os._exit(status)


def meet(
    address: str,
    member: Member,
    *,
    timeout_seconds: float,
    heartbeat_seconds: float,
) -> Lifeline:
    """Waits until all processes of the run are there, and checks that they are of one run.

    Args:
      address: HOST:PORT of process 0. The port is free again afterwards, for JAX's own use.
      member: this process.
      timeout_seconds: to wait for the others.
      heartbeat_seconds: in which a host that vanishes is noticed.

    Raises:
      UserError: in every process, if one is missing or differs.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--coordinator={address} is not HOST:PORT: for example node0:9876")
    end = time.monotonic() + timeout_seconds
    if member.process == 0:
        lines = _gather(int(port), member, end)
    else:
        lines = {0: ("process 0", _introduce(host.strip("[]"), int(port), member, end))}
    for _, line in lines.values():
        line.watch_for(heartbeat_seconds)
    return Lifeline(str(member), lines)


def _gather(port: int, own: Member, end: float) -> dict[int, tuple[str, _Line]]:
    """Collects the others; tells each that all is well, or what is wrong."""
    members: dict[int, Member] = {}
    lines: list[_Line] = []
    hosts = {own.host: "here"}
    problem = ""
    try:
        server = socket.create_server(("", port))
    except OSError as error:
        raise UserError(
            f"--coordinator: port {port} cannot be used on {own.host} ({error.strerror}): name"
            " another one"
        ) from None
    with contextlib.ExitStack() as opened:
        opened.enter_context(server)
        while len(members) < own.processes - 1 and not problem:
            server.settimeout(max(end - time.monotonic(), 0.01))
            try:
                connection, peer = server.accept()
            except TimeoutError:
                problem = _missing(own, members)
                break
            opened.enter_context(connection)
            connection.settimeout(5)
            line = _Line(connection)
            try:
                member = Member(**line.receive())
            except TypeError:  # something else that knocks at ports
                connection.close()
                continue
            lines.append(line)
            where = "here" if peer[0] == connection.getsockname()[0] else peer[0]
            problem = _clash(own, member, members, hosts.setdefault(member.host, where) == where)
            members[member.process] = member
        for line in lines:
            line.send({"problem": problem})
        if problem:
            raise UserError(problem)
        opened.pop_all()
    server.close()
    return {n: (str(each), line) for (n, each), line in zip(members.items(), lines, strict=True)}


def _introduce(host: str, port: int, member: Member, end: float) -> _Line:
    """Finds process 0 and waits for its answer."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=5)
            break
        except OSError as error:
            if time.monotonic() > end:
                raise UserError(
                    f"process 0 does not answer at {host}:{port} ({error.strerror or error}): start"
                    " it, or name its host and port in --coordinator"
                ) from None
            time.sleep(_RETRY_SECONDS)
    line = _Line(connection)
    line.send(member._asdict())
    connection.settimeout(max(end - time.monotonic(), 1) + 10)  # process 0 waits for all
    answer = line.receive() or {"problem": f"process 0 at {host}:{port} went away at the start"}
    if answer["problem"]:
        connection.close()
        raise UserError(answer["problem"])
    return line


def _missing(own: Member, members: dict[int, Member]) -> str:
    missing = sorted(set(range(1, own.processes)) - members.keys())
    named = f"process{'es' if len(missing) > 1 else ''} {', '.join(map(str, missing[:10]))}"
    there = ", ".join(str(member) for member in (own, *members.values()))
    return (
        f"{named} of {own.processes} did not come in time (there are {there[:200]}): see why, or"
        " raise --config.hosts.start_seconds"
    )


def _clash(own: Member, member: Member, members: dict[int, Member], host_is_known: bool) -> str:
    """Returns what does not go together, or ''."""
    if member.processes != own.processes:
        return (
            f"{member} was started with --processes={member.processes}, {own} with {own.processes}"
        )
    if member.process in members or not 0 < member.process < own.processes:
        other = members.get(member.process, own)
        return (
            f"{member} and {other} have one number: give each its own --process from 0 to"
            f" {own.processes - 1}"
        )
    if not host_is_known:
        return f"two hosts are named {member.host}: give each a name of its own"
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
        return f"{member} differs from {own}: {'; '.join(differing[:3])}{more}"
    return ""
