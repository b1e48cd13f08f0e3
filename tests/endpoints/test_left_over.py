"""What a failed call leaves in memory: nothing that only the search for cycles would free.

A request holds pictures, and hundreds of failures may come before that search.
"""

import asyncio
import gc
import weakref

import pytest

from unireason_jax.endpoints import chat
from unireason_jax.endpoints.background import finish
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.loopback import Faults, Loopback, completion
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint


class Words(str):
    """A text that can be watched."""


@pytest.mark.parametrize("fault", ["500", "cut", "malformed", "refusal", "null"])
@pytest.mark.parametrize("endpoints", [1, 2])
def test_a_failed_call_leaves_nothing(fault, endpoints):
    server = Loopback(lambda path, body: completion("yes"), Faults({fault: 1.0}, times=99))
    each = [
        Endpoint(url=server.url, model="m", retries=1, wait=0.0, extra={"n": number})
        for number in range(endpoints)
    ]

    async def ask():
        role, words = Role("judge", each), Words("a cat")
        with pytest.raises(CallFailure):
            await role.chat({"messages": chat.messages(words)})
        watched = weakref.ref(words)
        del words
        await asyncio.sleep(0)  # the loop forgets who has run
        assert watched() is None
        await role.close()

    gc.disable()
    try:
        asyncio.run(ask())
    finally:
        gc.enable()
        server.close()


def test_garbage_is_looked_for_as_before_when_the_calls_are_done():
    before, seen = gc.get_threshold(), []

    async def work():
        seen.append(gc.get_threshold())

    finish(work())
    assert seen[0][0] > before[0] and gc.get_threshold() == before
