"""A judge behind an OpenAI-compatible chat endpoint: retries, a rate limit, a cache, a bill."""

import base64
import hashlib
import http.client
import io
import json
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from unireason_jax.evals.published.asking import JudgeFailure, Reply
from unireason_jax.evals.published.base import Picture, Question, pixels
from unireason_jax.storage import atomic

_RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0


class EndpointJudge:
    """Asks `{url}/chat/completions` with text and pictures.

    Only `model`, `messages`, `temperature` and `max_tokens` are sent; what else an endpoint needs
    comes through `extra`. Answers are cached by everything that was sent.

    Args:
      url: base address, up to and with `/v1`.
      model: name at the endpoint.
      key: sent as a bearer token; empty for none.
      cache: folder for answers; None keeps none.
      timeout: seconds of one call.
      retries: further calls after a timeout, a lost connection, 429 or a server's fault.
      per_minute: most calls a minute, 0 for no limit.
      prices: per million tokens read and written.
      budget: stop asking when the bill reaches it; 0 for no limit.
      temperature, max_tokens, extra: of the request.
      wait: seconds before the first retry; doubles every time.
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
        self.url, self.model, self.name = url.rstrip("/"), model, model
        self.cache, self.timeout, self.retries, self.wait = cache, timeout, retries, wait
        self.prices, self.budget, self.spent, self.calls = prices, budget, 0.0, 0
        self._key, self._pause = key, 60.0 / per_minute if per_minute else 0.0
        self._body = {"temperature": temperature, "max_tokens": max_tokens, **(extra or {})}
        self._lock, self._next_start = threading.Lock(), 0.0

    def __call__(self, question: Question, attempt: int) -> Reply:
        """The answer to a question. Raises JudgeFailure when all retries have failed."""
        content: list[dict] = [{"type": "text", "text": question.words}]
        for number, picture in enumerate(question.pictures):
            if question.labels:
                content.append({"type": "text", "text": question.labels[number]})
            content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
        messages: list[dict] = [{"role": "user", "content": content}]
        if question.system:
            messages.insert(0, {"role": "system", "content": question.system})
        body = {"model": self.model, "messages": messages, **self._body}
        data = json.dumps(body, sort_keys=True).encode()
        path = self._cache_path(data)
        if path and attempt == 0 and path.exists():
            return Reply(json.loads(path.read_text("utf-8"))["text"], cached=True)
        reply = self._retried(data)
        if path:
            atomic.write_text(path, json.dumps({"text": reply.text}), shared=True)
        return reply

    def _cache_path(self, data: bytes) -> Path | None:
        name = hashlib.sha256(self.url.encode() + data).hexdigest()
        return self.cache / name[:2] / f"{name}.json" if self.cache else None

    def _retried(self, data: bytes) -> Reply:
        """Calls until there is an answer, or a fault that trying again does not mend."""
        pause = self.wait
        for trial in range(self.retries + 1):
            self._take_turn()
            try:
                return self._call(data)
            except urllib.error.HTTPError as error:
                kind = "rate limit" if error.code == 429 else "server"
                failure = JudgeFailure(kind, f"status {error.code} of {self.url}")
                if error.code not in _RETRIED:
                    detail = error.read()[:200].decode("utf-8", "replace")
                    raise JudgeFailure("request", f"status {error.code}: {detail}") from None
                asked = error.headers.get("Retry-After", "")
                pause = max(pause, float(asked)) if asked.replace(".", "", 1).isdigit() else pause
            except TimeoutError:
                failure = JudgeFailure("timeout", f"no answer within {self.timeout:g} s")
            except (http.client.HTTPException, OSError, ValueError) as error:
                slow = isinstance(getattr(error, "reason", None), TimeoutError)
                failure = JudgeFailure("timeout" if slow else "connection", str(error))
            if trial < self.retries:
                time.sleep(min(pause, _LONGEST_WAIT) * random.uniform(0.8, 1.2))
                pause *= 2
        raise failure

    def _call(self, data: bytes) -> Reply:
        """One call. Raises JudgeFailure for a refusal or an answer of another shape."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        address = f"{self.url}/chat/completions"
        request = urllib.request.Request(address, data, headers, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            found = json.loads(response.read())
        try:
            choice = found["choices"][0]
            text, refusal = choice["message"].get("content"), choice["message"].get("refusal")
        except (KeyError, IndexError, TypeError):
            raise JudgeFailure("server", f"no choices in {str(found)[:200]}") from None
        usage = found.get("usage") or {}
        tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        cost = sum(n * price for n, price in zip(tokens, self.prices)) / 1e6
        with self._lock:
            self.spent += cost
        if refusal or choice.get("finish_reason") == "content_filter" or not text:
            raise JudgeFailure("refusal", refusal or "an empty or filtered answer", cost)
        return Reply(text, cost)

    def _take_turn(self) -> None:
        """Waits for the rate limit. Raises JudgeFailure when the budget is spent."""
        with self._lock:
            if self.budget and self.spent >= self.budget:
                raise JudgeFailure("budget", f"{self.spent:.4g} of {self.budget:.4g} are spent")
            self.calls += 1
            start = max(time.monotonic(), self._next_start)
            self._next_start = start + self._pause
        time.sleep(max(start - time.monotonic(), 0.0))


def data_url(picture: Picture) -> str:
    """A picture as a data address: a file with its own bytes, an array as PNG."""
    if not isinstance(picture, Path):
        buffer = io.BytesIO()
        Image.fromarray(pixels(picture)).save(buffer, format="PNG")
        kind, data = "png", buffer.getvalue()
    else:
        kind, data = picture.suffix.lstrip(".").lower().replace("jpg", "jpeg"), picture.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
