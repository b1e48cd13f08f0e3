"""A server on this machine that speaks the protocols of the clients, and fails on request.

What it answers is a function that it is given; what goes wrong is drawn from the content of a call,
so that two runs with the same calls meet the same faults in whatever order they ask.
"""

import asyncio
import base64
import collections
import copy
import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web

from unireason_jax.endpoints.background import Background
from unireason_jax.endpoints.calls import content_key
from unireason_jax.endpoints.failures import CallFailure

Answer = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
Spoil = Callable[[Mapping[str, Any]], Mapping[str, Any]]
WIRE_FAULTS = ("429", "500", "cut", "malformed", "slow", "drip")
REPLY_FAULTS = ("refusal", "no_json", "parts", "null", "usage")
_LIES = (None, "many", float("nan"), -5, 10**30, 0, {"prompt_tokens": "1e9"}, [])
_PORT = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Attributes:
      shares: of calls, by kind of fault: `WIRE_FAULTS`, `REPLY_FAULTS`, and those of `spoil`.
      times: how often a call meets its fault before it is answered.
      seconds: that "slow" waits and "drip" drips.
      spoil: further kinds, functions that spoil a right answer.
      lasting: kinds that a call meets as often as it is made, as a model repeats itself.
    """

    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)
    times: int = 1
    seconds: float = 5.0
    spoil: Mapping[str, Spoil] = dataclasses.field(default_factory=dict)
    lasting: tuple[str, ...] = ()

    def of(self, content: str) -> str:
        """The fault of a call, "" for none."""
        point, total = random.Random(content).random(), 0.0
        for kind, share in self.shares.items():
            total += share
            if point < total:
                return kind
        return ""

    def met(self, content: str, calls: int) -> str:
        """The fault that a call meets when it is made for the so many-th time, "" for none."""
        kind = self.of(content)
        return kind if calls <= self.times or kind in self.lasting else ""


class Loopback:
    """Serves until it is closed, in a thread of its own.

    Args:
      answer: (path below /v1, body) -> JSON; a form comes as a body whose "pictures" are bytes.
        What it raises as CallFailure is answered with status 400.
      faults: what goes wrong.
      seconds: that every answer takes.
      models: names at `/models`.
      key: bearer token that is asked for, "" for none.

    Attributes:
      calls: calls that came, by content.
      answered: of them, those whose answer was sent whole and can be read, so is to be paid.
      most: the most that were in flight.
    """

    def __init__(
        self,
        answer: Answer,
        faults: Faults | None = None,
        *,
        seconds: float = 0.0,
        models: tuple[str, ...] = (),
        key: str = "",
    ):
        self._answer, self.faults, self._seconds = answer, faults or Faults(), seconds
        self._models, self._key = models, key
        self.calls: collections.Counter[str] = collections.Counter()
        self.answered: collections.Counter[str] = collections.Counter()
        self.most = self._flying = 0
        self._background = Background()
        self._background.run(self._start())

    def forget(self) -> None:
        """Counts calls from nothing again, so that they meet their faults again."""
        self.calls.clear()
        self.answered.clear()

    @property
    def url(self) -> str:
        """Its address, with `/v1`."""
        return f"http://{_PORT}:{self._port}/v1"

    def close(self) -> None:
        """Ends the server and its thread."""
        self._background.close(self._runner.cleanup())

    async def _start(self) -> None:
        app = web.Application(client_max_size=1 << 28)
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/{path:.*}", self._post)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _PORT, 0, backlog=1024)
        await site.start()
        self._port = site._server.sockets[0].getsockname()[1]

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": name} for name in self._models]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        self._flying += 1
        self.most = max(self.most, self._flying)
        try:
            return await self._reply(request)
        finally:
            self._flying -= 1

    async def _reply(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if self._key and given != f"Bearer {self._key}":
            return web.json_response({"error": f"wrong key {given}"}, status=401)
        path, body = request.match_info["path"], await _body(request)
        content = content_key(path, body)
        self.calls[content] += 1
        fault = self.faults.met(content, self.calls[content])
        await asyncio.sleep(self._seconds)
        if fault in ("429", "500"):
            return web.Response(status=int(fault), headers={"Retry-After": "0.01"}, text="later")
        if self._models and body.get("model") not in self._models:
            return web.json_response({"error": f"no model {body.get('model')!r}"}, status=404)
        try:
            found = self._answer(path, body)
        except CallFailure as error:
            return web.json_response({"error": str(error)}, status=400)
        if fault in REPLY_FAULTS:
            found = _spoiled(fault, found, content)
        elif fault in self.faults.spoil:
            found = self.faults.spoil[fault](found)
        data = json.dumps(found).encode()
        if fault in WIRE_FAULTS:
            return await self._broken(request, fault, data)
        self.answered[content] += 1
        return web.Response(body=data, content_type="application/json")

    async def _broken(self, request: web.Request, fault: str, data: bytes) -> web.StreamResponse:
        if fault == "malformed":
            return web.Response(body=data[: len(data) // 2], content_type="application/json")
        if fault == "slow":
            await asyncio.sleep(self.faults.seconds)
        response = web.StreamResponse(headers={"Content-Length": str(len(data))})
        await response.prepare(request)
        if fault == "drip":
            for place in range(max(int(self.faults.seconds / 0.05), 1)):
                await response.write(data[place : place + 1])
                await asyncio.sleep(0.05)
        else:
            await response.write(data[: len(data) // 2])
        request.transport.close()  # before the promised end
        return response


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON of a request, or the fields of its form with the files as "pictures"."""
    if request.content_type == "application/json":
        return await request.json()
    found: dict[str, Any] = {"pictures": []}
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            found["pictures"].append(value.file.read())
        else:
            found[name] = value
    return found


def completion(text: str, model: str = "") -> dict[str, Any]:
    """A chat completion that says `text`."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": max(len(text) // 4, 1)}
    return {
        "model": model,
        "choices": [{"message": message, "finish_reason": "stop"}],
        "usage": usage,
    }


def drawn(picture: bytes) -> dict[str, Any]:
    """The answer of an image endpoint with one picture."""
    return {"data": [{"b64_json": base64.b64encode(picture).decode()}]}


def _spoiled(fault: str, found: Mapping[str, Any], content: str) -> Mapping[str, Any]:
    """An answer with a fault of its content; what has none is given back as it is."""
    found = copy.deepcopy(dict(found))
    if fault == "usage":
        return found | {"usage": random.Random(content).choice(_LIES)}
    if "choices" not in found:
        return found
    message = found["choices"][0]["message"]
    text = message["content"]
    if fault == "null":
        found["choices"][0]["message"] = None
    elif fault == "refusal":
        message |= {"content": None, "refusal": "I cannot help with that."}
    elif fault == "parts":
        half = len(text) // 2
        parts = [{"type": "text", "text": part} for part in (text[:half], text[half:])]
        message["content"] = parts
    else:
        message["content"] = "Here you are: {" + text[1 : len(text) // 2]
    return found
