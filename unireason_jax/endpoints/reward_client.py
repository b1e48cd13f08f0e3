"""Reward services: pictures and their prompt in, numbers out.

    POST {url}/compute {"prompt": TEXT, "image": [BASE64 PNG, ...], "metadata": {...}}
    -> {"rewards": {NAME: NUMBER or one a picture}} or {"rewards": NUMBER or one a picture}

The form of Flow-Factory's service (JSON; the pickle of older services is never read: whoever
answers could run code).
"""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unireason_jax.endpoints.background import Background
from unireason_jax.endpoints.failures import CallFailure, shown
from unireason_jax.endpoints.pictures import png
from unireason_jax.endpoints.settings import Endpoint, secret_of
from unireason_jax.endpoints.transport import Transport

UNNAMED = "reward"


class RewardService:
    """Scores pictures at an endpoint, for one event loop.

    Args:
      endpoint: the address (up to and without `/compute`) and its limits.

    Raises:
      ValueError: the variable of the key is not set.
    """

    def __init__(self, endpoint: Endpoint):
        self._transport = Transport(endpoint, secret_of(endpoint))

    async def scores(
        self, prompt: str, images: Sequence[np.ndarray], metadata: Mapping[str, Any] | None = None
    ) -> dict[str, list[float]]:
        """Rewards by name, one a picture; finite numbers all.

        Args:
          prompt: what the pictures were asked to show.
          images: each uint8 [H, W, 3].
          metadata: what the service needs beside it, JSON-able.

        Raises:
          CallFailure: no answer, or one of another shape.
        """
        body = {
            "prompt": prompt,
            "image": [base64.b64encode(png(image)).decode() for image in images],
            "metadata": dict(metadata or {}),
        }
        data = json.dumps(body).encode()
        return read(await self._transport.post("/compute", lambda: data), len(images))

    async def close(self) -> None:
        """Ends all connections."""
        await self._transport.close()


class RewardClient:
    """`RewardService` for callers that are not asynchronous; any number of threads may ask.

    Args:
      endpoint: the address and its limits.

    Raises:
      ValueError: the variable of the key is not set.
    """

    def __init__(self, endpoint: Endpoint):
        self._service, self._background = RewardService(endpoint), Background()

    def __call__(
        self, prompt: str, images: Sequence[np.ndarray], metadata: Mapping[str, Any] | None = None
    ) -> dict[str, list[float]]:
        """As `RewardService.scores`; waits for it."""
        return self._background.run(self._service.scores(prompt, images, metadata))

    def close(self) -> None:
        """Ends all connections."""
        self._background.close(self._service.close())


def read(found: Any, count: int) -> dict[str, list[float]]:
    """Rewards of an answer about `count` pictures. Raises CallFailure."""
    rewards = found.get("rewards") if isinstance(found, Mapping) else None
    named = rewards if isinstance(rewards, Mapping) else {UNNAMED: rewards}
    return {str(name): _numbers(name, value, count, found) for name, value in named.items()}


def _numbers(name: Any, value: Any, count: int, found: Any) -> list[float]:
    values = value if isinstance(value, list) else [value]
    if len(values) != count or not all(_is_finite(each) for each in values):
        raise CallFailure(
            "server", f"'{shown(name)}' is not {count} finite numbers in {shown(found)}"
        )
    return [float(each) for each in values]


def _is_finite(value: Any) -> bool:
    try:
        return not isinstance(value, bool | str) and math.isfinite(value)
    except (TypeError, OverflowError):
        return False
