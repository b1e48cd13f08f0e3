"""News of conversations as OpenAI's protocol tells them, whole or as they come."""

import base64
import io
import json
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.inference.continuous_batching import News
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.server.orders import Order

BETWEEN = "\n\n"
"""What stands between two texts of one answer."""
DONE = b"data: [DONE]\n\n"


def event(value: dict[str, Any], name: str = "") -> bytes:
    """A server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


def encoded(image: np.ndarray, form: str = "png") -> str:
    """uint8 [H, W, 3] as a file in base64."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, form.upper())
    return base64.b64encode(file.getvalue()).decode()


def address(image: np.ndarray, form: str = "png") -> str:
    """uint8 [H, W, 3] as a data URI."""
    return f"data:image/{form};base64,{encoded(image, form)}"


def usage(traces: Sequence[Trace]) -> dict[str, int]:
    """What conversations have read and written; images count the passes of their drawing."""
    read = sum(len(s.read.split()) for t in traces for s in t.steps if s.given and s.text)
    wrote = sum(trace.tokens for trace in traces)
    return {"prompt_tokens": read, "completion_tokens": wrote, "total_tokens": read + wrote}


def cut(trace: Trace) -> str:
    """Why a conversation ended, in the words of the protocol."""
    return "length" if any(step.cut for step in trace.steps) else "stop"


class Chat:
    """A completion of a chat, whole or in chunks."""

    def __init__(self, order: Order):
        """Nothing said yet."""
        self.order, self.id = order, f"chatcmpl-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.texts, self.images = [0] * len(order.jobs), [0] * len(order.jobs)
        self.spoke = [False] * len(order.jobs)

    def whole(self, traces: Sequence[Trace]) -> dict[str, Any]:
        """The completion."""
        choices = [
            {
                "index": number,
                "message": {
                    "role": "assistant",
                    "content": BETWEEN.join(trace.texts),
                    "images": [_image(image, n) for n, image in enumerate(trace.images)],
                    "steps": [_about(step) for step in trace.steps if not step.given],
                },
                "finish_reason": cut(trace),
                "ended": trace.ended,
            }
            for number, trace in enumerate(traces)
        ]
        return self._head("chat.completion") | {"choices": choices, "usage": usage(traces)}

    def first(self) -> list[bytes]:
        """What a stream begins with."""
        numbers = range(len(self.order.jobs))
        return [self._chunk(number, {"role": "assistant", "content": ""}) for number in numbers]

    def chunks(self, number: int, news: News) -> list[bytes]:
        """News of a conversation."""
        if news.kind == "words":
            begins = not self.spoke[number]
            self.spoke[number] = True
            between = BETWEEN if begins and self.texts[number] else ""
            about = {"event": "words", "role": news.role}
            return [self._chunk(number, {"content": between + news.text}, about=about)]
        if news.kind == "preview":
            about = {"event": "preview", "role": news.role, "share": round(news.share, 3)}
            return [self._chunk(number, {}, about=about | {"image": address(news.image)})]
        if news.kind == "end":
            about = {"event": "end", "ended": news.trace.ended, "forwards": news.trace.forwards}
            about["seconds"] = news.trace.seconds
            return [self._chunk(number, {}, finish=cut(news.trace), about=about)]
        step, delta = news.step, {}
        if step.kind == "image":
            delta = {"images": [_image(step.image, self.images[number])]}
            self.images[number] += 1
        else:
            self.texts[number] += self.spoke[number]
            self.spoke[number] = False
        return [self._chunk(number, delta, about={"event": "step"} | _about(step))]

    def last(self, traces: Sequence[Trace]) -> list[bytes]:
        """What a stream ends with."""
        if not self.order.usage:
            return [DONE]
        told = self._head("chat.completion.chunk") | {"choices": [], "usage": usage(traces)}
        return [event(told), DONE]

    def _chunk(
        self, number: int, delta: dict[str, Any], *, finish: str | None = None, about: Any = None
    ) -> bytes:
        choice = {"index": number, "delta": delta, "finish_reason": finish}
        told = self._head("chat.completion.chunk") | {"choices": [choice]}
        return event(told | ({"unireason": about} if about else {}))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.order.model}


class Drawing:
    """Images of a prompt, whole or as events."""

    def __init__(self, order: Order, kind: str):
        """`kind` of the events: "image_generation" or "image_edit"."""
        self.order, self.kind, self.created = order, kind, int(time.time())
        self.partial = [0] * len(order.jobs)

    def whole(self, traces: Sequence[Trace]) -> dict[str, Any]:
        """The answer."""
        data = [self._image(trace) for trace in traces]
        told = {"created": self.created, "data": data, "output_format": self.order.format}
        return told | {"usage": _tokens(traces)}

    def first(self) -> list[bytes]:
        """What a stream begins with."""
        return []

    def chunks(self, number: int, news: News) -> list[bytes]:
        """News of a conversation."""
        if news.kind == "end":
            value = {"b64_json": encoded(news.trace.image, self.order.format)}
            value |= {"usage": _tokens([news.trace]), "output_format": self.order.format}
            return [self._event("completed", value)]
        image = news.image if news.kind == "preview" else None
        if news.kind == "step" and news.step.kind == "image":
            image = news.step.image
        if image is None or not self.order.partial:
            return []
        value = {"b64_json": encoded(image, self.order.format)}
        value |= {"partial_image_index": self.partial[number]}
        self.partial[number] += 1
        return [self._event("partial_image", value)]

    def last(self, traces: Sequence[Trace]) -> list[bytes]:
        """What a stream ends with."""
        return [DONE]

    def _event(self, name: str, value: dict[str, Any]) -> bytes:
        kind = f"{self.kind}.{name}"
        return event({"type": kind, "created_at": int(time.time())} | value, kind)

    def _image(self, trace: Trace) -> dict[str, Any]:
        form = self.order.format
        told = {"revised_prompt": trace.text_of("plan") or trace.request}
        if self.order.url:
            return {"url": address(trace.image, form)} | told
        return {"b64_json": encoded(trace.image, form)} | told


def _tokens(traces: Sequence[Trace]) -> dict[str, int]:
    found = usage(traces)
    names = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
    return {names.get(name, name): count for name, count in found.items()}


def _image(image: np.ndarray, number: int) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address(image)}, "index": number}


def _about(step: Step) -> dict[str, Any]:
    """A step without its image."""
    told = {"kind": step.kind, "role": step.role, "seed": step.seed, "forwards": step.forwards}
    if step.kind == "text":
        told |= {
            "text": step.text,
            "content": step.content,
            "handover": step.handover,
            "cut": step.cut,
        }
    return told
