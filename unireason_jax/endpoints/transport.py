"""One endpoint's wire: calls in flight, pace, retries, and limits of time and size."""

import asyncio
import dataclasses
import email.utils
import json
import random
import re
import time
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import aiolimiter

from unireason_jax.endpoints.failures import CallFailure, scrub, shown
from unireason_jax.endpoints.settings import Endpoint

RETRIED = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0
_CHUNK = 1 << 16
_JSON = {"Content-Type": "application/json"}
_SECRET = 8  # characters from which on a key is no word that an answer may well hold
_READABLE = 1 << 16  # bytes of a failed answer that are looked at
Body = Callable[[], Any]


@dataclasses.dataclass
class Tries:
    """How a call went: tries after the first, and answers that came but could not be read."""

    retries: int = 0
    spoiled: int = 0


class Transport:
    """Speaks to one endpoint from within one event loop.

    The key goes to this endpoint alone: redirects are not followed, and what comes back is given on
    without it.

    Args:
      endpoint: the address and its limits.
      secret: sent as a bearer token; "" for none.
    """

    def __init__(self, endpoint: Endpoint, secret: str = ""):
        self.endpoint, self._secret = endpoint, secret
        self._secrets = (secret, quote(secret, safe=""))
        self._headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        self._session: aiohttp.ClientSession | None = None
        self._turns = asyncio.Semaphore(endpoint.concurrency)
        rate = endpoint.per_minute
        self._pace = aiolimiter.AsyncLimiter(1, 60 / rate) if rate else None
        self._not_before = 0.0
        self._proxy = proxy_of(endpoint.url)

    async def get(self, path: str) -> Any:
        """The JSON at a path. Raises CallFailure."""
        return await self._retrying("GET", path, None, Tries())

    async def post(self, path: str, body: Body, tries: Tries | None = None) -> Any:
        """The JSON that a POST of `body()` brings, keys scrubbed. Raises CallFailure.

        `body` is called for every try, because a form can be sent only once; it makes bytes of JSON
        or a form. `tries` is counted up.
        """
        return await self._retrying("POST", path, body, tries or Tries())

    async def close(self) -> None:
        """Ends all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _retrying(self, method: str, path: str, body: Body | None, tries: Tries) -> Any:
        while True:
            try:
                return await self._once(method, path, body, tries)
            except CallFailure as failure:
                if not failure.again or tries.retries >= self.endpoint.retries:
                    raise
                pause = self._pause(tries.retries, failure)
            await asyncio.sleep(pause)
            tries.retries += 1

    def _pause(self, retries: int, failure: CallFailure) -> float:
        """Seconds after so many retries: doubling, with jitter, at least what is asked for."""
        pause = self.endpoint.wait * 2 ** min(retries, 16)
        pause = min(pause * random.uniform(0.75, 1.25), LONGEST_WAIT)
        if failure.pause:
            self._not_before = max(self._not_before, time.monotonic() + failure.pause)
        return max(pause, failure.pause)

    async def _once(self, method: str, path: str, body: Body | None, tries: Tries) -> Any:
        """One try. Raises CallFailure for everything that can go wrong with it."""
        if self._pace:
            await self._pace.acquire()
        async with self._turns:
            # who asks for patience asks it of all calls, not only of the one that was turned away
            if (left := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(left)
            try:
                async with asyncio.timeout(self.endpoint.timeout):
                    data = await self._answer(method, path, body)
            except TimeoutError:
                message = f"no answer within {self.endpoint.timeout:g} s"
                raise CallFailure("timeout", message, again=True) from None
            except (aiohttp.ClientError, OSError) as error:
                what = self._shown(error) or type(error).__name__
                raise CallFailure("connection", what, again=True) from None
        try:
            found = json.loads(data)
            return scrub(found, self._secrets) if len(self._secret) >= _SECRET else found
        except (ValueError, RecursionError):
            tries.spoiled += 1
            what = f"no JSON in {self._shown(data[:_READABLE].decode('utf-8', 'replace'))!r}"
            raise CallFailure("server", what, again=True) from None

    async def _answer(self, method: str, path: str, body: Body | None) -> bytes:
        """The body that answers a request. Raises CallFailure for any status but 200."""
        if self._session is None:
            # a packed answer could unpack to any size; the semaphore limits connections
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
                headers={"Accept-Encoding": "identity", "User-Agent": "unireason-jax"},
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        data = None if body is None else body()
        given = self._headers | _JSON if isinstance(data, bytes) else self._headers
        address = f"{self.endpoint.url}{path}"
        async with self._session.request(
            method, address, data=data, headers=given, proxy=self._proxy, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise await self._refused(response)
            return await self._read(response, self.endpoint.max_bytes)

    async def _refused(self, response: aiohttp.ClientResponse) -> CallFailure:
        """The failure that a status other than 200 means."""
        status, url = response.status, self.endpoint.url
        if 300 <= status < 400:
            target = self._shown(response.headers.get("Location", "another address"))
            message = f"status {status}: {url} redirects to {target}; give that address"
            return CallFailure("request", message, status=status)
        if status in RETRIED:
            kind = "rate limit" if status == 429 else "server"
            pause = seconds(response.headers.get("Retry-After", ""))
            return CallFailure(kind, f"status {status} of {url}", again=True, pause=pause)
        try:
            data = await self._read(response, _READABLE)
        except (CallFailure, aiohttp.ClientError, OSError):
            data = b""
        detail = self._shown(data.decode("utf-8", "replace"))
        return CallFailure("request", f"status {status}: {detail}", status=status)

    async def _read(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        """The whole body. Raises CallFailure where it is packed or larger than `limit` bytes."""
        packed = response.headers.get("Content-Encoding", "identity").lower()
        if packed != "identity":
            raise CallFailure("server", "a packed answer, though none was asked for")
        said = response.content_length
        if said is not None and said <= limit:  # no more than that is read
            return await response.read()
        parts, size = [], 0
        async for part in response.content.iter_chunked(_CHUNK):
            size += len(part)
            if size > limit or said is not None:
                raise CallFailure("server", f"an answer of more than {limit:,} bytes")
            parts.append(part)
        return b"".join(parts)

    def _shown(self, text: Any) -> str:
        """A stranger's words for a message, the key hidden even where JSON escapes it."""
        text = re.sub(r"\\u00([0-7][0-9a-fA-F])", lambda m: chr(int(m[1], 16)), str(text))
        return shown(text.replace("\\/", "/"), self._secrets)


def proxy_of(url: str) -> str | None:
    """The proxy that the environment names for an address, None for none."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def seconds(asked: str) -> float:
    """What a Retry-After header asks for, seconds or a date, at most a minute; 0 for nothing."""
    asked = asked.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", asked):
        return min(float(asked), LONGEST_WAIT)
    try:
        left = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return min(max(left, 0.0), LONGEST_WAIT)
