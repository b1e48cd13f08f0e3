"""Hundreds of calls in flight, in memory that does not grow, for little time of the processor.

Rates of a machine that others share say nothing; the processor's time that a call takes does.
"""

import asyncio
import json
import resource
import subprocess
import sys
import time

import aiohttp

from unireason_jax.endpoints import chat
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.loopback import Loopback, completion
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint

IN_FLIGHT = 200


def main(seconds):
    """A server of its own process, so that it does not share the interpreter with the client."""
    server = Loopback(lambda path, body: completion("yes"), seconds=seconds)
    print(server.url, flush=True)
    sys.stdin.read()
    print(server.most, flush=True)


async def ask(role, start, count):
    """Seconds of the processor for so many calls."""

    async def one(number):
        request = {"messages": chat.messages(f"call {number}"), "max_tokens": 16}
        assert (await role.chat(request)).text == "yes"

    began = time.process_time()
    await asyncio.gather(*(one(number) for number in range(start, start + count)))
    return time.process_time() - began


async def bare(url, count):
    """The same for a client that does nothing but call."""
    turns, body = asyncio.Semaphore(IN_FLIGHT), json.dumps({"messages": []}).encode()
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one():
            async with (
                turns,
                session.post(f"{url}/chat/completions", data=body, headers=headers) as response,
            ):
                await response.read()

        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        began = time.process_time()
        await asyncio.gather(*(one() for _ in range(count)))
        return time.process_time() - began


def test_a_thousand_calls_with_two_hundred_in_flight(tmp_path):
    seconds = 0.05
    command = [sys.executable, "-m", "tests.endpoints.test_scale", str(seconds)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        url = child.stdout.readline().strip()

        async def run():
            endpoint = Endpoint(url=url, model="m", concurrency=IN_FLIGHT, timeout=60)
            role = Role("r", [endpoint], journal=CallJournal(tmp_path))
            await ask(role, 0, IN_FLIGHT)  # connections are there
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            least, took = await bare(url, 1_000), await ask(role, 1_000, 1_000)
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            for start in (2_000, 3_000):  # the least of three: others use the machine too
                least = min(least, await bare(url, 1_000))
                took = min(took, await ask(role, start, 1_000))
            await role.close()
            return took / least, grown

        times, grown = asyncio.run(run())
        most = int(child.communicate()[0])
    finally:
        child.kill()
    assert most == IN_FLIGHT
    assert times < 4
    assert grown < 20_000  # KiB


if __name__ == "__main__":
    main(float(sys.argv[1]))
