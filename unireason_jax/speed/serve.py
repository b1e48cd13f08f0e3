"""`unireason bench serve`: requests that come whether or not the last ones are done (open loop).

At every rate, requests come as a Poisson process for a while; each streams its answer. What is
told, per rate: how many came, were answered and were refused, images a minute, and the time from
the request to its first words, its first image and its end, at the 50th and the 99th percentile.
The server is the one of an address, or a fresh one of a checkpoint in this process.
"""

import contextlib
import http.client
import json
import threading
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

PROMPTS = (
    "a red circle left of a blue square",
    "a green triangle above a yellow circle",
    "a large blue square",
    "a small red triangle right of a green circle",
)
_SECONDS = 600


class Answer(NamedTuple):
    """One request: its status (0 for a lost connection) and seconds to what came, or None."""

    status: int
    words: float | None
    image: float | None
    end: float
    images: int


def run(
    address: str,
    rates: Sequence[float],
    *,
    seconds: float,
    model: str = "unireason",
    prompts: Sequence[str] = PROMPTS,
    key: str = "",
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Loads a server at growing rates.

    Args:
      address: http://host:port.
      rates: requests a second, one run each.
      seconds: requests come for so long; all are then waited for.
      model: that is asked for.
      prompts: in turn.
      key: of the server.
      seed: of the times at which requests come, and of the first request.

    Returns:
      Plain numbers for every rate.
    """
    ask(address, {"model": model, "prompt": prompts[0], "seed": seed}, key)
    random = np.random.default_rng(seed)
    return [_rate(address, rate, seconds, model, prompts, key, random) for rate in rates]


def _rate(
    address: str,
    rate: float,
    seconds: float,
    model: str,
    prompts: Sequence[str],
    key: str,
    random: np.random.Generator,
) -> dict[str, Any]:
    times = np.cumsum(random.exponential(1 / rate, max(round(rate * seconds), 1)))
    answers: list[Answer] = []
    started = time.perf_counter()

    def one(number: int) -> None:
        about = {"model": model, "prompt": prompts[number % len(prompts)], "seed": number}
        answers.append(ask(address, about, key))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(times))]
    for thread, when in zip(threads, times):
        time.sleep(max(0.0, started + when - time.perf_counter()))
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    done = [answer for answer in answers if answer.status == 200 and answer.images]
    images = sum(answer.images for answer in done)
    found = {"bench": "serve", "rate_per_s": rate, "requests": len(answers), "answered": len(done)}
    found |= {"refused": sum(a.status in (429, 503) for a in answers)}
    found |= {"failed": len(answers) - len(done) - found["refused"], "wall_s": took}
    found |= {"images_per_min": 60 * images / took, "answers_per_min": 60 * len(done) / took}
    for name in ("words", "image", "end"):
        values = [value for answer in done if (value := getattr(answer, name)) is not None]
        for percent in (50, 99) if values else ():
            found[f"{name}_p{percent}_s"] = float(np.percentile(values, percent))
    return found


def ask(address: str, about: dict[str, Any], key: str = "") -> Answer:
    """Asks for a picture of `prompt` and hears the answer to its end."""
    body = {"model": about["model"], "seed": about["seed"], "stream": True}
    body["messages"] = [{"role": "user", "content": about["prompt"]}]
    headers = {"Content-Type": "application/json"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    where = urllib.parse.urlsplit(address)
    call = http.client.HTTPConnection(where.hostname, where.port, timeout=_SECONDS)
    started, first, images = time.perf_counter(), {}, 0
    status = 0
    with contextlib.closing(call), contextlib.suppress(OSError, http.client.HTTPException):
        call.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = call.getresponse()
        status = answer.status
        for told in _events(answer):
            if "error" in told:
                status = 500
            news = told.get("unireason", {})
            kind = news.get("kind", news.get("event"))
            images += kind == "image"
            first.setdefault(kind, time.perf_counter() - started)
    end = time.perf_counter() - started
    return Answer(status, first.get("words"), first.get("image"), end, images)


def _events(answer: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    for line in answer:
        if line.startswith(b"data: {"):
            yield json.loads(line[6:])
