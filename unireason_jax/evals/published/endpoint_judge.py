"""A judge behind an OpenAI-compatible chat endpoint, with a cache of its answers."""

import hashlib
import json
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from unireason_jax.endpoints import chat
from unireason_jax.endpoints.background import Background
from unireason_jax.endpoints.billing import Budget
from unireason_jax.endpoints.pictures import png
from unireason_jax.endpoints.role import Role
from unireason_jax.endpoints.settings import Endpoint, checked_secret, faults
from unireason_jax.evals.published.asking import Reply
from unireason_jax.evals.published.base import Picture, Question, pixels
from unireason_jax.storage import atomic

_MOST_CALLS = 1024  # at a time; whoever asks has a limit of their own


class EndpointJudge:
    """Asks `{url}/chat/completions` with text and pictures, from any number of threads.

    Only `model`, `messages`, `temperature` and `max_tokens` are sent; what else an endpoint needs
    comes through `extra`. Answers are cached by everything that was sent.

    Args:
      url: base address, up to and with `/v1`.
      model: name at the endpoint.
      key: sent as a bearer token to this address alone; empty for none.
      cache: folder for answers; None keeps none.
      timeout: seconds of one call, to the last byte of its answer.
      retries: further calls after a timeout, a lost connection, 429 or a server's fault.
      per_minute: most calls a minute, 0 for no limit.
      prices: per million tokens read and written.
      budget: stop asking when the bill reaches it; 0 for no limit.
      temperature, max_tokens, extra: of the request.
      wait: seconds before the first retry; doubles every time.

    Raises:
      ValueError: an address, key or limit that cannot be; the message names it.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key: str = "",
        cache: Path | None = None,
        timeout: float = 120.0,
        retries: int = 5,
        per_minute: float = 0.0,
        prices: tuple[float, float] = (0.0, 0.0),
        budget: float = 0.0,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        extra: Mapping[str, Any] | None = None,
        wait: float = 1.0,
    ):
        try:
            endpoint = Endpoint(
                url=url,
                model=model,
                concurrency=_MOST_CALLS,
                per_minute=per_minute,
                timeout=timeout,
                retries=retries,
                wait=wait,
                prices=prices,
            )
        except pydantic.ValidationError as error:
            raise ValueError(f"the judge's endpoint: {faults(error)}.") from None
        self.url, self.name, self.cache = endpoint.url, model, cache
        self._body = {"temperature": temperature, "max_tokens": max_tokens, **(extra or {})}
        secret = checked_secret(key.strip(), "the key of the judge")
        self._budget = Budget(budget)
        self._background = Background()
        self._role = Role("judge", [endpoint], budget=self._budget, secrets=[secret])
        weakref.finalize(self, _close, self._background, self._role)

    @property
    def spent(self) -> float:
        """The bill so far; what earlier starts have paid can be set."""
        return self._budget.spent

    @spent.setter
    def spent(self, spent: float) -> None:
        self._budget.spent = spent

    @property
    def budget(self) -> float:
        """Where asking stops, 0 for never."""
        return self._budget.money

    @budget.setter
    def budget(self, budget: float) -> None:
        self._budget.money = budget

    def __call__(self, question: Question, attempt: int) -> Reply:
        """The answer to a question. Raises CallFailure when all retries have failed."""
        messages = chat.messages(
            question.words,
            [_encoded(picture) for picture in question.pictures],
            labels=question.labels,
            system=question.system,
        )
        body = {"messages": messages, **self._body, **(chat.LIKELY if question.soft else {})}
        path = self._cache_path({"model": self.name, **body})
        if path and attempt == 0 and path.exists():
            return Reply(json.loads(path.read_text("utf-8"))["text"], cached=True)
        answer = self._background.run(self._role.chat(body, attempt))
        soft = question.soft and answer.likely
        text = json.dumps(answer.likely) if soft else answer.text
        if path:
            atomic.write_text(path, json.dumps({"text": text}), shared=True)
        return Reply(text, answer.cost)

    def _cache_path(self, body: Mapping[str, Any]) -> Path | None:
        data = json.dumps(body, sort_keys=True).encode()
        name = hashlib.sha256(self.url.encode() + data).hexdigest()
        return self.cache / name[:2] / f"{name}.json" if self.cache else None


def _close(background: Background, role: Role) -> None:
    background.close(role.close())


def _encoded(picture: Picture) -> bytes:
    """A file with its own bytes, anything else as PNG. Raises Unreadable before it costs a call."""
    shown = pixels(picture)
    return picture.read_bytes() if isinstance(picture, Path) else png(shown)
