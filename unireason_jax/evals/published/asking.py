"""Asking a judge: again where it fails, then missing; never zero for a failure.

Every answer goes into a journal as soon as it is there, so a killed run repeats at most the calls
that were on their way. Missing answers are asked for again when the command is started again.
"""

import dataclasses
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol

from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Suite, Unreadable
from unireason_jax.storage.journal import Journal

MISSING_IMAGE = "no image"


@dataclasses.dataclass(frozen=True)
class Reply:
    """What a judge said and what it cost.

    Attributes:
      text: the answer.
      cost: in the currency of the prices given; 0 where nothing was paid.
      cached: taken from the cache.
    """

    text: str
    cost: float = 0.0
    cached: bool = False


class Judge(Protocol):
    """Anything that answers questions about pictures."""

    name: str

    def __call__(self, question: Question, attempt: int) -> Reply:
        """The answer; a later attempt must not come from a cache. Raises CallFailure."""


def ask_all(
    suite: Suite,
    questions: Sequence[Question],
    judge: Judge,
    journal: Journal,
    *,
    attempts: int = 3,
    workers: int = 8,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Asks what the journal does not hold yet and writes every answer, or why it is missing.

    Args:
      suite: reads the answers.
      questions: of existing images.
      judge: who is asked; it may be called from several threads at a time.
      journal: rows {key, scores or None, reason, text, cost, pictures}.
      attempts: how often an unreadable answer is asked for again; the judge itself retries calls.
      workers: calls at the same time.
      progress: called with the number of questions just answered.
    """
    todo = [q for q in questions if held(journal, q).get("scores") is None]
    progress(len(questions) - len(todo))
    paid = {key: row.get("cost", 0.0) for key, row in journal.rows.items()}
    writing = threading.Lock()

    def ask(question: Question) -> None:
        row = _answer(suite, question, judge, attempts, paid.get(question.key, 0.0))
        with writing:
            journal.add([row])  # before this thread asks anything else

    with ThreadPoolExecutor(workers) as pool:
        for call in as_completed([pool.submit(ask, question) for question in todo]):
            call.result()
            progress(1)


def held(journal: Journal, question: Question) -> dict[str, Any]:
    """The journal's row of a question about these very pictures, or one that says what it lacks."""
    row = journal.rows.get(question.key)
    if row is None:
        return {"scores": None, "reason": "not asked"}
    if row.get("pictures", "") not in ("", question.digest()):
        return {"scores": None, "reason": "not asked: the picture has changed"}
    return row


def _answer(
    suite: Suite, question: Question, judge: Judge, attempts: int, paid: float
) -> dict[str, Any]:
    """The journal's row of a question that has already cost something before."""
    row = {"key": question.key, "scores": None, "reason": "", "text": "", "cost": paid}
    row["pictures"] = question.digest()
    for attempt in range(attempts):
        try:
            reply = judge(question, attempt)
            row["text"], row["cost"] = reply.text, row["cost"] + reply.cost
            return row | {"scores": suite.read(question, reply.text), "reason": ""}
        except Malformed as error:
            row["reason"] = f"malformed: {error}"
        except Unreadable as error:
            return row | {"reason": f"unreadable image: {error}"}
        except CallFailure as error:
            row["reason"], row["cost"] = f"{error.kind}: {error}", row["cost"] + error.cost
    return row


def questions_of(
    suite: Suite, item: Item, place: str, image: Path, rubrics: Mapping[str, str], view: str = ""
) -> list[Question]:
    """What is asked about a picture.

    Args:
      suite, item, place: whose picture it is.
      image: the file.
      rubrics: words by step.
      view: name of another picture than the final one, which has answers of its own.
    """
    system = rubrics.get("system", "")
    return [
        dataclasses.replace(
            question, system=system, key=f"{view}/{question.key}" if view else question.key
        )
        for question in suite.questions(item, place, image, rubrics)
    ]


def answered(
    suite: Suite,
    item: Item,
    place: str,
    image: Path,
    journal: Journal,
    rubrics: Mapping[str, str],
    view: str = "",
) -> Scored | str:
    """The picture with all its scores, or why it lacks one; arguments as `questions_of`."""
    if not image.is_file():
        return MISSING_IMAGE
    scores, reason = {}, ""
    for question in questions_of(suite, item, place, image, rubrics, view):
        row = held(journal, question)
        if row["scores"] is None:
            reason = row["reason"]
        else:
            scores[question.step] = row["scores"]
    return reason or Scored(item, place, scores)


def collect(
    suite: Suite, items: Iterable[Item], folder: Path, journal: Journal, rubrics: Mapping[str, str]
) -> tuple[list[Scored], dict[str, str]]:
    """Images with all their scores, and by key why the others are missing."""
    scored, missing = [], {}
    for item in items:
        for place in suite.places(item):
            found = answered(suite, item, place, folder / place, journal, rubrics)
            if isinstance(found, Scored):
                scored.append(found)
            else:
                missing[place] = found
    return scored, missing
