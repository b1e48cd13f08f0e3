"""`unireason bench calls`: what a call over HTTP costs, beside a client that does nothing but call.

Both ask a loopback server in a process of its own, which takes a fixed time for an answer and
otherwise does nothing. "share" is calls a second of those that so many in flight could reach at
best; "cpu_ms" is the client's processor time a call, "server_ms" the server's. One machine carries
client and server, so the shares of both say what the machine can do, and "ratio" what our client
leaves of it.

All answers of so equal a server come nearly at once, and so do the calls after them: while a client
works on such a wave, little else is on its way. "in_step" is its share if nothing were, so if
processor time and the server's added up; `--seconds 0.5` shows a client that has time.
"""

import asyncio
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import aiohttp

from unireason_jax.endpoints import chat
from unireason_jax.endpoints.background import finish
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.loopback import completion
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint

Ask = Callable[[range], Awaitable[None]]


def run(
    *, calls: int = 1_000, in_flight: int = 200, seconds: float = 0.05, rounds: int = 3
) -> dict:
    """The best of some rounds of calls, in turns with the bare client.

    Args:
      calls: of one round.
      in_flight: at a time.
      seconds: that the server takes for an answer.
      rounds: of each client.

    Returns:
      "ours" and "bare": {"share", "cpu_ms", "in_step"}; "ratio": of their shares; "most": the most
      calls that the server had at a time; "server_ms": its processor time a call, of both clients;
      "grown_kib": memory that the first round of ours added.
    """
    if min(calls, in_flight, rounds) < 1 or seconds <= 0:
        raise ValueError("--calls, --in_flight, --rounds and --seconds must be > 0")
    with tempfile.TemporaryDirectory() as folder, _server(seconds) as (url, told):
        found = finish(_measure(url, CallJournal(folder), calls, in_flight, seconds, rounds))
        for way in ("ours", "bare"):
            wave = in_flight * found[way]["cpu_ms"] / 1e3
            found[way]["in_step"] = round(seconds / (seconds + wave), 3)
        return {"calls": calls, "in_flight": in_flight, "seconds": seconds, **found, **told()}


async def _measure(
    url: str, journal: CallJournal, calls: int, in_flight: int, seconds: float, rounds: int
) -> dict[str, Any]:
    least = seconds * -(-calls // in_flight)
    endpoint = Endpoint(url=url, model="m", concurrency=in_flight, timeout=60)
    role = Role("bench", [endpoint], journal=journal)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        ways = {"ours": _ours(role), "bare": _bare(session, url, in_flight)}
        for ask in ways.values():  # connections are there
            await ask(range(in_flight))
        found: dict[str, Any] = {}
        for number in range(rounds):
            asked = range(in_flight + number * calls, in_flight + (number + 1) * calls)
            for name, ask in ways.items():
                before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
                wall, cpu = time.perf_counter(), time.process_time()
                await ask(asked)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
                best = found.setdefault(name, {"share": 0.0, "cpu_ms": cpu / calls * 1e3})
                best["share"] = round(max(best["share"], least / wall), 3)
                best["cpu_ms"] = round(min(best["cpu_ms"], cpu / calls * 1e3), 3)
                if name == "ours":
                    found.setdefault("grown_kib", grown)
        await role.close()
    found["ratio"] = round(found["ours"]["share"] / found["bare"]["share"], 3)
    return found


def _ours(role: Role) -> Ask:
    """Calls through a role: with its turns, retries, bill and journal."""

    async def one(number: int) -> None:
        request = {"messages": chat.messages(f"call {number}"), "max_tokens": 16}
        if (await role.chat(request)).text != "yes":
            raise RuntimeError(f"call {number} was not answered with 'yes'")

    async def ask(numbers: range) -> None:
        await asyncio.gather(*map(one, numbers))

    return ask


def _bare(session: aiohttp.ClientSession, url: str, in_flight: int) -> Ask:
    """The same calls, sent and read and nothing else."""
    turns, body = asyncio.Semaphore(in_flight), json.dumps({"messages": []}).encode()
    headers = {"Content-Type": "application/json"}

    async def one(_: int) -> None:
        async with (
            turns,
            session.post(f"{url}/chat/completions", data=body, headers=headers) as response,
        ):
            await response.read()

    async def ask(numbers: range) -> None:
        await asyncio.gather(*map(one, numbers))

    return ask


@contextmanager
def _server(seconds: float) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Address of a server in a process of its own, and what ends it and tells how it went."""
    command = [sys.executable, "-m", "unireason_jax.endpoints.call_cost", str(seconds)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child.stdout.readline().strip(), lambda: json.loads(child.communicate()[0])
    finally:
        child.kill()
        child.wait()


class _Answering(asyncio.Protocol):
    """As much of HTTP/1.1 as the two clients need: every request is answered after a while."""

    flying = most = calls = 0  # of all connections

    def __init__(self, seconds: float):
        self._seconds, self._came = seconds, b""
        data = json.dumps(completion("yes")).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
        self._reply = head.encode() + b"\r\n\r\n" + data

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._came += data
        head, _, body = self._came.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        self._came = b""
        _Answering.flying += 1
        _Answering.calls += 1
        _Answering.most = max(_Answering.most, _Answering.flying)
        asyncio.get_running_loop().call_later(self._seconds, self._answer)

    def _answer(self) -> None:
        _Answering.flying -= 1
        self._transport.write(self._reply)


async def _serve(seconds: float) -> None:
    """Until standard input is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answering(seconds), "127.0.0.1", 0, backlog=1024)
    print("http://{}:{}/v1".format(*server.sockets[0].getsockname()), flush=True)
    before = time.process_time()
    await loop.run_in_executor(None, sys.stdin.read)
    each = (time.process_time() - before) / max(_Answering.calls, 1)
    print(json.dumps({"most": _Answering.most, "server_ms": round(each * 1e3, 3)}), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
