"""A role: who answers, at one address or several, what it may spend, and what it has spent."""

import asyncio
import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from unireason_jax.endpoints import chat, drawing
from unireason_jax.endpoints.billing import Bill, Budget, Sent, tokens
from unireason_jax.endpoints.calls import CallJournal, content_key
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.settings import Endpoint, secret_of
from unireason_jax.endpoints.transport import Transport, Tries

_AWAY = 30.0  # seconds that an endpoint whose calls all failed is asked last
_EXPECTED = 512  # tokens of an answer that a budget sets aside
_SORTED = json.JSONEncoder(sort_keys=True)


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a call brought.

    Attributes:
      key: of the call's content.
      text: of a chat.
      likely: probabilities of its first token, where the request asked for them and the endpoint
        tells them.
      pictures: of an image model, encoded.
      model, endpoint: who answered.
      cost: that was paid for it, now or earlier.
      cached: it was paid for earlier.
    """

    key: str
    text: str = ""
    likely: Mapping[str, float] = dataclasses.field(default_factory=dict)
    pictures: tuple[bytes, ...] = ()
    model: str = ""
    endpoint: str = ""
    cost: float = 0.0
    cached: bool = False


class Role:
    """Endpoints that play one role, to be used within one event loop.

    Which endpoint is asked depends on the content of the call and on nothing else, in proportion to
    their concurrency; where all its tries fail, the next one is asked. A call that is on its way is
    not begun a second time.

    Args:
      name: for messages and the bill.
      endpoints: one or more.
      budget: None for no limit.
      journal: where finished calls are kept; None keeps none.
      secrets: keys of the endpoints; None reads those that their variables hold.
      wires: shared by all roles of a run, so that an endpoint that several roles name alike is
        one, with one limit of calls and one pace.

    Raises:
      ValueError: no endpoint, or the variable of a key is not set.
    """

    def __init__(
        self,
        name: str,
        endpoints: Sequence[Endpoint],
        *,
        budget: Budget | None = None,
        journal: CallJournal | None = None,
        secrets: Sequence[str] | None = None,
        wires: dict[str, Transport] | None = None,
    ):
        if not endpoints:
            raise ValueError(f"role '{name}' has no endpoint.")
        secrets = [secret_of(each) for each in endpoints] if secrets is None else secrets
        self.name, self.endpoints = name, tuple(endpoints)
        self.bill, self.budget, self.journal = Bill(), budget or Budget(name=name), journal
        wires = {} if wires is None else wires
        self._transports = [
            wires.setdefault(each.model_dump_json(), Transport(each, secret))
            for each, secret in zip(endpoints, secrets)
        ]
        self._away = [0.0] * len(endpoints)
        self._flying: dict[str, asyncio.Future] = {}

    async def chat(self, request: Mapping[str, Any], attempt: int = 0) -> Answer:
        """The answer to a chat body without its model; a later attempt is another call.

        Raises:
          CallFailure: no answer, or a refusal.
        """

        async def call(transport: Transport, row: dict[str, Any]) -> None:
            body = _with(transport.endpoint, request)
            data = _SORTED.encode(body).encode()
            found = await self._paid(transport, chat.PATH, lambda: data, chat.weight(body), 0, row)
            row["text"], row["refusal"] = chat.read(found)
            if body.get("top_logprobs"):
                row["likely"] = chat.likely(found)

        return await self._once("chat", request, attempt, call)

    async def generate(self, request: drawing.Request, attempt: int = 0) -> Answer:
        """Pictures from words. Raises CallFailure."""
        return await self._draw("generate", request, attempt)

    async def edit(self, request: drawing.Request, attempt: int = 0) -> Answer:
        """Pictures from pictures and words. Raises CallFailure."""
        return await self._draw("edit", request, attempt)

    async def models(self) -> dict[str, list[str] | None]:
        """Model names by address; None where an endpoint does not list them. Raises CallFailure."""
        found: dict[str, list[str] | None] = {}
        for transport in self._transports:
            url = transport.endpoint.url
            try:
                listed = await transport.get("/models")
                found[url] = [str(each["id"]) for each in listed["data"]]
            except CallFailure as error:
                if error.kind != "request" or error.status in (401, 403):
                    raise
                found[url] = None
            except (KeyError, TypeError):
                found[url] = None
        return found

    async def close(self) -> None:
        """Ends all connections."""
        for transport in self._transports:
            await transport.close()

    async def _draw(self, kind: str, request: drawing.Request, attempt: int) -> Answer:
        async def call(transport: Transport, row: dict[str, Any]) -> None:
            path, body = drawing.wire(kind, transport.endpoint, request)
            sent = Sent(len(request.prompt.encode()), len(request.pictures), 0)
            found = await self._paid(transport, path, body, sent, request.count, row)
            row["pictures"] = drawing.read(found, request)

        return await self._once(kind, request.content(), attempt, call)

    async def _once(
        self,
        kind: str,
        request: Mapping[str, Any],
        attempt: int,
        call: Callable[[Transport, dict[str, Any]], Awaitable[None]],
    ) -> Answer:
        """The answer that the journal holds, that is on its way, or that is asked for now."""
        order = self._order(kind, request)
        first = self.endpoints[order[0]]
        key = content_key(kind, first.model, first.extra, request, attempt)
        row = self.journal.get(key) if self.journal else None
        if row is not None:
            self.bill.add(Bill(cached=1))
            return await self._answer(row, cached=True)
        if key in self._flying:
            return await asyncio.shield(self._flying[key])
        self._flying[key] = mine = asyncio.get_running_loop().create_future()
        try:
            answer = await self._asked(key, kind, order, call)
            mine.set_result(answer)
            return answer
        except BaseException as error:
            given_up = CallFailure("connection", "the same call was given up", again=True)
            mine.set_exception(error if isinstance(error, CallFailure) else given_up)
            mine.exception()  # nobody else may have waited
            raise
        finally:
            del self._flying[key], mine  # which holds the error that holds this frame

    async def _asked(self, key: str, kind: str, order: Sequence[int], call: Any) -> Answer:
        """Asks one endpoint after the other. Raises the CallFailure of the last."""
        for number in order:
            endpoint = self.endpoints[number]
            row = {"key": key, "role": self.name, "kind": kind}
            row |= {"model": endpoint.model, "endpoint": endpoint.url}
            try:
                await call(self._transports[number], row)
                break
            except CallFailure as error:
                if "cost" in row:  # it was answered and paid, though with nothing of use
                    row["fault"] = str(error)
                    break
                if error.kind in ("connection", "timeout"):
                    self._away[number] = time.monotonic() + _AWAY
                if not error.again or number == order[-1]:
                    raise
        made = row.pop("pictures", ())
        if self.journal:
            if made:
                row["images"] = [await self.journal.keep(picture) for picture in made]
            await self.journal.add(row)
        return await self._answer(row, made)

    async def _answer(
        self, row: Mapping[str, Any], made: Sequence[bytes] = (), cached: bool = False
    ) -> Answer:
        """The answer of a row. Raises CallFailure where it is a refusal or of no use."""
        if row.get("refusal"):
            raise CallFailure("refusal", row["refusal"], row["cost"])
        if row.get("fault"):
            raise CallFailure("server", row["fault"], row["cost"])
        if cached:
            made = [await self.journal.picture(name) for name in row.get("images", ())]
        who = {name: row[name] for name in ("key", "model", "endpoint", "cost")}
        text, likely = row.get("text", ""), row.get("likely", {})
        return Answer(text=text, likely=likely, pictures=tuple(made), cached=cached, **who)

    async def _paid(
        self,
        transport: Transport,
        path: str,
        body: Callable[[], Any],
        sent: Sent,
        images: int,
        row: dict[str, Any],
    ) -> Any:
        """One call within the budget, on the bill whatever comes of it; `row` gets what it cost."""
        endpoint, tries, bill = transport.endpoint, Tries(), Bill(calls=1)
        read, written = sent.usual_read, min(_EXPECTED, sent.most_written)
        held = cost_of(endpoint, read, written, images), read + written
        self.budget.hold(*held)
        try:
            found = await transport.post(path, body, tries)
            usage = found.get("usage") if isinstance(found, dict) else None
            bill.read, bill.written = tokens(usage, sent, _answered(found))
            bill.images = images
            row["cost"] = cost_of(endpoint, bill.read, bill.written, images)
            row |= {"read": bill.read, "written": bill.written}
            return found
        except CallFailure:
            bill.failures = 1
            raise
        finally:
            # an answer that could not be read was answered all the same
            bill.cost = row.get("cost", 0.0) + tries.spoiled * held[0]
            bill.read += tries.spoiled * held[1]
            bill.retries = tries.retries
            self.budget.settle(held, bill.cost, bill.read + bill.written)
            self.bill.add(bill)

    def _order(self, kind: str, request: Mapping[str, Any]) -> list[int]:
        """Endpoints in the order in which they are asked about this content."""
        if len(self.endpoints) == 1:
            return [0]
        content = content_key(kind, request)

        def draw(number: int) -> float:
            name = f"{content} {self.endpoints[number].url} {self.endpoints[number].model}"
            word = hashlib.blake2b(name.encode(), digest_size=8).digest()
            share = (int.from_bytes(word, "big") + 1) / (2**64 + 1)
            return -math.log(share) / self.endpoints[number].concurrency

        order = sorted(range(len(self.endpoints)), key=draw)
        models = {endpoint.model for endpoint in self.endpoints}
        if len(models) == 1:  # only then may who answers depend on who is there
            order.sort(key=lambda number: self._away[number] > time.monotonic())
        return order


def cost_of(endpoint: Endpoint, read: int, written: int, images: int = 0) -> float:
    """What an endpoint asks for so many tokens and pictures."""
    per_read, per_written = endpoint.prices
    return (read * per_read + written * per_written) / 1e6 + images * endpoint.price_image


def _with(endpoint: Endpoint, request: Mapping[str, Any]) -> dict[str, Any]:
    """A chat body with the endpoint's model, extra fields and way of asking for a shape."""
    body = {"model": endpoint.model, **request, **endpoint.extra}
    if "response_format" in body and endpoint.structured != "json_schema":
        del body["response_format"]
        if endpoint.structured == "json_object":
            body["response_format"] = {"type": "json_object"}
    return body


def _answered(found: Any) -> int:
    """Bytes of the text in an answer, 0 where it is not to be found."""
    try:
        content = found["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError):
        return 0
    return len(content.encode()) if isinstance(content, str) else len(str(content))
