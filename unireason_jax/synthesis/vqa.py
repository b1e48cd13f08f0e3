"""Layouts of questions about pictures: LLaVA's conversations, VQAv2's questions and annotations."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unireason_jax.storage import texts


def asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of LLaVA's layout with its first question and answer as fields; any other as it is."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or "question" in row:
        return row
    said = [str(turn.get("value", "")) for turn in turns[:2] if isinstance(turn, Mapping)]
    if len(said) < 2:
        return row
    return {**row, "question": said[0].replace("<image>", "").strip(), "answer": said[1].strip()}


def joined(questions: Path, annotations: Path, picture: str) -> list[dict[str, Any]]:
    """Rows of question, answer and image from VQAv2's two files, joined by `question_id`.

    Args:
      questions: {"questions": [{question_id, image_id, question}]}.
      annotations: {"annotations": [{question_id, multiple_choice_answer}]}.
      picture: a path with fields of a question, such as "val2014/{image_id:012}.jpg".

    Raises:
      ValueError: a file of another form, or a path with a field that no question has.
    """
    answers = {
        each.get("question_id"): each.get("multiple_choice_answer")
        for each in _list(annotations, "annotations")
    }
    rows = []
    for number, each in enumerate(_list(questions, "questions"), 1):
        name = each.get("question_id")
        if name not in answers:
            raise ValueError(f"{annotations}: no answer to question {name!r} of {questions}.")
        try:
            path = picture.format(**each)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ValueError(
                f"picture = {picture!r} does not fit question {number} of {questions} ({error!r})."
            ) from None
        rows.append({"id": name, "question": each.get("question"), "answer": answers[name]})
        rows[-1]["image"] = path
    return rows


def _list(path: Path, field: str) -> list[Mapping[str, Any]]:
    """The list of objects under a field of a JSON file. Raises ValueError."""
    try:
        found = json.loads(texts.read(path))[field]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: no JSON object with a list '{field}' ({error!r}).") from None
    if not isinstance(found, list) or not all(isinstance(each, Mapping) for each in found):
        raise ValueError(f"{path}: '{field}' is no list of objects.")
    return found
