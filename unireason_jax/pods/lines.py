"""Lines between the first process of a job and every other, for what the first decides.

Beside the texts of JAX's coordinator (`pod.gather`), for messages that come many times a second or
are large: in order, and without a clock. Who waits at a line needs no processor and may wait for
days, and the end of a process at the other end is heard at once. Lines are as trustworthy as the
coordinator, which hands out their secret.
"""

import hmac
import pickle
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import jax
from jax._src import distributed  # where the coordinator is has no public name

from unireason_jax.pods import pod

_SLOWEST = 30 * 24 * 3600.0  # seconds that processes wait for the last to come to its line
_KNOCK = 10.0  # seconds in which who connects must have said the secret
_REACH = 60.0  # seconds in which the first process must be reached
_SECRET, _NUMBER = 32, 4  # bytes
_ALIVE = 60  # seconds without a message after which networks are reminded of a line


def connect(name: str) -> list[Connection]:
    """Joins this process: in the first one its lines to 1, 2, ..., in the others that to the first.

    Args:
      name: as that of `pod.gather`; all processes must call.

    Raises:
      OSError: the first process cannot be reached on the port that it told.
    """
    me, count, host = jax.process_index(), jax.process_count(), _first_host()
    if me:
        port, secret = pod.gather(name, None, timeout=_SLOWEST)[0]
        line = socket.create_connection((host, port), timeout=_REACH)
        line.sendall(bytes.fromhex(secret) + me.to_bytes(_NUMBER))
        return [_line(line)]
    secret, found = secrets.token_bytes(_SECRET), {}
    with _door(host) as door:
        pod.gather(name, [door.getsockname()[1], secret.hex()], timeout=_SLOWEST)
        while len(found) < count - 1:
            line, _ = door.accept()
            number = _number(line, secret)
            if number is None:
                line.close()  # somebody who looks for open ports
            else:
                found[number] = _line(line)
    return [found[number] for number in sorted(found)]


def send(lines: Sequence[Connection], message: Any) -> None:
    """Says a message, of anything that can be pickled, on lines; None is the last one."""
    data = pickle.dumps(message)
    for line in lines:
        line.send_bytes(data)


def listen(line: Connection, process: int, heard: Callable[[Any], None]) -> None:
    """Calls `heard` with every message of a process, in a thread of its own; None is the last.

    If it dies before it says that, this process ends, and with it the job.
    """

    def run() -> None:
        try:
            message = ""
            while message is not None:
                heard(message := line.recv())
        except (EOFError, OSError):
            told = f"process {process} has died; what it printed last may say why."
            pod.fail(told, dead=process)

    threading.Thread(target=run, name=f"line to {process}", daemon=True).start()


def _first_host() -> str:
    """Where the first process runs: the coordinator is in it."""
    return distributed.global_state.coordinator_address.rpartition(":")[0].strip("[]")


def _door(host: str) -> socket.socket:
    """Where the first process waits for the others: on all networks, or on this machine only."""
    if host in ("localhost", "127.0.0.1"):
        return socket.create_server(("127.0.0.1", 0))
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _number(line: socket.socket, secret: bytes) -> int | None:
    """Which process knocks; None for one that does not know the secret."""
    line.settimeout(_KNOCK)
    said = b""
    try:
        while len(said) < _SECRET + _NUMBER:
            if not (more := line.recv(_SECRET + _NUMBER - len(said))):
                return None
            said += more
    except OSError:
        return None
    if not hmac.compare_digest(said[:_SECRET], secret):
        return None
    return int.from_bytes(said[_SECRET:])


def _line(found: socket.socket) -> Connection:
    """A socket as a line that networks do not forget while nothing is said."""
    found.settimeout(None)
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _ALIVE)
    return Connection(found.detach())
