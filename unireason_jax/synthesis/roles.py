"""The four roles of synthesis, small enough for an exact program and for a large model alike.

UniReason (paper, 4.2): a generator drafts, a verifier says what is wrong, a teacher repairs, and a
judge keeps a record only where the repair is better. Process-driven generation (3.6) finds that
drafts sampled from the model itself teach more than invented faults.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np


class Unusable(ValueError):
    """A draft from which nothing can be learned; the message is the reason that is counted."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What a picture is asked for.

    Attributes:
      id: unique and stable, the key of the journal.
      prompt: the words.
      details: what only some roles understand, e.g. the exact requirement.
    """

    id: str
    prompt: str
    details: Any = None


@dataclasses.dataclass(frozen=True)
class Draft:
    """What a generator made of a request.

    Attributes:
      image: the picture, uint8 [H, W, 3].
      plan: the plan it was drawn from, None where there was none.
    """

    image: np.ndarray
    plan: str | None = None


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a verifier says about a picture.

    Attributes:
      passed: nothing is wrong.
      faults: what is, in words.
    """

    passed: bool
    faults: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Round:
    """One correction: what the reflection should say, and the picture after it."""

    reflection: str
    image: np.ndarray


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What a teacher makes of a draft.

    Attributes:
      plan: what should have been planned.
      rounds: corrections in order; none for a right draft.
      final_reflection: said when nothing is left to do.
    """

    plan: str
    rounds: tuple[Round, ...]
    final_reflection: str


class Generator(Protocol):
    """Drafts a picture for every request."""

    def __call__(self, requests: Sequence[Request]) -> list[Draft]:
        """Drafts in the order of the requests; the same for the same request."""


class Verifier(Protocol):
    """Compares a picture with its request."""

    def __call__(self, request: Request, image: np.ndarray) -> Finding:
        """What is wrong. Raises Unusable when it cannot tell."""


class Teacher(Protocol):
    """Repairs a draft step by step."""

    def __call__(self, request: Request, draft: np.ndarray, finding: Finding) -> Lesson:
        """The lesson. Raises Unusable when the draft cannot be repaired."""


class Judge(Protocol):
    """Decides whether a repaired picture is better than its draft."""

    def __call__(self, request: Request, draft: np.ndarray, refined: np.ndarray) -> bool:
        """Whether the record is worth keeping."""


@dataclasses.dataclass(frozen=True)
class Roles:
    """Who plays what."""

    generator: Generator
    verifier: Verifier
    teacher: Teacher
    judge: Judge
