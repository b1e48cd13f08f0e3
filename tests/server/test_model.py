"""A real model behind the server: many at once are each as they are alone, and nothing is left."""

import concurrent.futures
import gc
import json
import os

import pytest

from tests.inference import toy
from tests.server import canned
from tests.server.test_protocol import post
from unireason_jax.server import process

PROMPTS = ("a red circle", "a blue square", "a red circle left of a blue square")
MODELS = ("unireason:t2i", "unireason:think_t2i", "unireason:refine")


def body(number):
    """A request: of several presets, options and lengths."""
    messages = [{"role": "user", "content": PROMPTS[number % 3]}]
    told = {"model": MODELS[number % 3], "messages": messages, "seed": number, "rounds": 1}
    return told | ({"temperature": 1.0} if number % 2 else {})


def made(address, number):
    """What came of it, its time apart."""
    status, _, told = post(address, body(number))
    assert status == 200, told
    return json.dumps(told["choices"][0]["message"], sort_keys=True)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compile")
def test_thirty_two_at_once_are_each_as_they_are_alone_to_the_bit():
    with process.running(toy.reasoner(), rows=4) as (address, _):
        alone = [made(address, number) for number in range(8)]
        with concurrent.futures.ThreadPoolExecutor(32) as pool:
            together = list(pool.map(lambda number: made(address, number), [*range(8)] * 4))
    assert together == alone * 4 and len(set(alone)) == 8


REASONERS = {"canned": canned.reasoner, "a model": toy.reasoner}
drill = pytest.mark.drill


@pytest.mark.parametrize(
    "kind, count",
    [
        ("canned", 200),
        pytest.param("canned", 2000, marks=drill),
        pytest.param("a model", 2000, marks=drill),
    ],
)
def test_memory_is_flat(kind, count):
    """Of requests that are answered, refused and left."""

    def some(address, numbers):
        for number in numbers:
            post(address, body(number) | ({"size": "huge"} if number % 5 == 4 else {}))
        gc.collect()
        return resident()

    live = {"live": canned.Live()} if kind == "canned" else {}
    with process.running(REASONERS[kind](), **live, rows=4) as (address, scheduler):
        before = some(address, range(100))
        after = some(address, range(count))
        print(f"{before >> 20} MiB after 100 requests, {after >> 20} after {count} more")
        assert after - before < 24 << 20
        assert not scheduler.running and not scheduler.waiting and not scheduler.live.guests


def resident():
    """Bytes of memory that this process holds."""
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("this system does not tell a process's memory")
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
