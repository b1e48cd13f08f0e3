"""Money and tokens: what is counted, by whom it was spent, and where spending stops.

An endpoint's `usage` is believed only within what can be true: a token is at least a byte and at
most `_LONGEST` bytes of what was sent and received, pictures aside. So neither a missing, negative
or endless count nor a small one moves a budget far.
"""

import dataclasses
import math
from typing import Any

from unireason_jax.endpoints.failures import CallFailure

_USUAL, _LONGEST = 4, 16  # bytes of text in a token
_PICTURE, _LARGEST_PICTURE = 1_000, 32_000  # tokens of a picture
_OVERHEAD = 1_000  # tokens that a server adds around a conversation


@dataclasses.dataclass
class Bill:
    """What a role has spent; amounts in the currency of the prices."""

    calls: int = 0
    cached: int = 0
    retries: int = 0
    failures: int = 0
    read: int = 0
    written: int = 0
    images: int = 0
    cost: float = 0.0

    def add(self, other: "Bill") -> None:
        """Adds another bill to this one."""
        for name, its in vars(other).items():
            setattr(self, name, getattr(self, name) + its)


@dataclasses.dataclass(frozen=True)
class Sent:
    """What a request weighs: bytes of its texts, its pictures, and the most it may answer."""

    text: int = 0
    pictures: int = 0
    most_written: int = 1 << 20

    @property
    def usual_read(self) -> int:
        """Tokens that are read of it where nobody says how many."""
        return math.ceil(self.text / _USUAL) + self.pictures * _PICTURE


def tokens(usage: Any, sent: Sent, answered: int) -> tuple[int, int]:
    """Tokens read and written: as `usage` says where that can be true, else the nearest that can.

    Args:
      usage: the field of an answer, whatever it holds.
      sent: the request.
      answered: bytes of the text that came back.
    """
    said = usage if isinstance(usage, dict) else {}
    read = _within(
        said.get("prompt_tokens"),
        math.ceil(sent.text / _LONGEST),
        sent.usual_read,
        sent.text + sent.pictures * _LARGEST_PICTURE + _OVERHEAD,
    )
    written = _within(
        said.get("completion_tokens"),
        math.ceil(answered / _LONGEST),
        math.ceil(answered / _USUAL),
        max(sent.most_written, answered),
    )
    return read, written


def _within(said: Any, least: int, usual: int, most: int) -> int:
    """A count that was said, held within bounds; the usual one where none was said."""
    if isinstance(said, bool) or not isinstance(said, (int, float)) or said != said or said < 0:
        return min(max(usual, least), most)
    return int(min(max(said, least), most))


class Budget:
    """Spending that stops at a limit; calls in flight count with what they are expected to cost.

    Args:
      money: 0 for no limit.
      tokens: read and written together, 0 for no limit.
      name: of the role, for messages.
    """

    def __init__(self, money: float = 0.0, tokens: int = 0, name: str = ""):
        self.money, self.tokens, self.name = money, tokens, name
        self.spent, self.used = 0.0, 0
        self._held = self._held_tokens = 0.0

    def hold(self, cost: float, count: int) -> None:
        """Sets aside what a call will cost. Raises CallFailure where nothing is left."""
        if self.money and self.spent + self._held >= self.money:
            raise CallFailure(
                "budget", f"{self._of()}{self.spent + self._held:.4g} of {self.money:.4g} are spent"
            )
        if self.tokens and self.used + self._held_tokens >= self.tokens:
            raise CallFailure(
                "budget", f"{self._of()}{self.used} of {self.tokens} tokens are spent"
            )
        self._held += cost
        self._held_tokens += count

    def settle(self, held: tuple[float, int], cost: float, count: int) -> None:
        """Replaces what was set aside by what was spent."""
        self._held = max(self._held - held[0], 0.0)
        self._held_tokens = max(self._held_tokens - held[1], 0)
        self.spent += cost
        self.used += count

    def _of(self) -> str:
        return f"{self.name}: " if self.name else ""
