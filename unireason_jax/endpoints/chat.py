"""Chat completions of the OpenAI form: text and pictures in, text out."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pydantic

from unireason_jax.endpoints.billing import Sent
from unireason_jax.endpoints.failures import CallFailure, shown
from unireason_jax.endpoints.pictures import data_url

PATH = "/chat/completions"
LIKELY = {"logprobs": True, "top_logprobs": 20}  # fields of a request that asks for `likely`


class _Message(pydantic.BaseModel):
    content: str | list[Any] | None = None
    refusal: Any = None


class _Choice(pydantic.BaseModel):
    message: _Message
    finish_reason: Any = None


class _Completion(pydantic.BaseModel):
    choices: list[_Choice] = pydantic.Field(min_length=1)


def messages(
    words: str,
    pictures: Sequence[bytes] = (),
    *,
    labels: Sequence[str] = (),
    system: str = "",
) -> list[dict[str, Any]]:
    """A conversation of one question: its words, then the pictures, each after its label.

    Args:
      words: the question.
      pictures: encoded PNG, JPEG or WebP files.
      labels: words before each picture; none where the question names them well enough.
      system: the system message; "" for none.
    """
    content: list[dict[str, Any]] = [{"type": "text", "text": words}]
    for number, picture in enumerate(pictures):
        if labels:
            content.append({"type": "text", "text": labels[number]})
        content.append({"type": "image_url", "image_url": {"url": data_url(picture)}})
    found: list[dict[str, Any]] = [{"role": "user", "content": content}]
    if system:
        found.insert(0, {"role": "system", "content": system})
    return found


def weight(body: Mapping[str, Any]) -> Sent:
    """What a request weighs."""
    text = pictures = 0
    for message in body["messages"]:
        parts = message["content"]
        for part in [{"text": parts}] if isinstance(parts, str) else parts:
            text += len(part.get("text", "").encode())
            pictures += "image_url" in part
    text += len(json.dumps(body.get("response_format", "")))
    most = body.get("max_tokens") or body.get("max_completion_tokens") or 1 << 17
    return Sent(text, pictures, most)


def read(found: Any) -> tuple[str, str]:
    """The text of an answer and why it is refused; one of them is "".

    Raises:
      CallFailure: it has another shape.
    """
    try:
        choice = _Completion.model_validate(found).choices[0]
    except pydantic.ValidationError:
        raise CallFailure("server", f"no choices in {shown(found)}") from None
    text = _text(choice.message.content)
    if choice.message.refusal:
        return "", shown(choice.message.refusal)
    if choice.finish_reason == "content_filter" or not text.strip():
        return "", "an empty or filtered answer"
    return text, ""


def likely(found: Any) -> dict[str, float]:
    """Probabilities of the first token of an answer that `read` could read; empty where absent."""
    try:
        first = found["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
        return {str(each["token"]): min(math.exp(each["logprob"]), 1.0) for each in first}
    except (KeyError, IndexError, TypeError, OverflowError):
        return {}


def _text(content: str | list[Any] | None) -> str:
    """The text of a content, which may be a list of parts."""
    if not isinstance(content, list):
        return content or ""
    texts = [part if isinstance(part, str) else _part(part) for part in content]
    return "".join(texts)


def _part(part: Any) -> str:
    text = part.get("text") if isinstance(part, Mapping) else None
    return text if isinstance(text, str) else ""
