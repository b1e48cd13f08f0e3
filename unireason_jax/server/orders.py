"""What a request asks for: from a body of OpenAI's protocol to jobs of the model."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from unireason_jax.data import images
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.trace import Step
from unireason_jax.server import fields
from unireason_jax.server.errors import Refusal, wrong
from unireason_jax.server.model_names import NAME, Models
from unireason_jax.server.scheduler import Job

CHAT = ("model", "messages", "modalities", "stream", "stream_options", "n", "seed", "max_tokens")
CHAT += (
    "max_completion_tokens",
    "user",
    "metadata",
    "store",
    "safety_identifier",
    "steps",
    "previews",
)
_NOT_IN_CHAT: dict[str, tuple] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "response_format": ({"type": "text"},),
    "stop": ([], ""),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "audio": (),
}
DRAW = ("model", "prompt", "n", "seed", "response_format", "output_format", "stream", "user")
DRAW += ("partial_images", "quality", "style", "moderation", "output_compression")
_NOT_IN_DRAW: dict[str, tuple] = {"background": ("auto", "opaque"), "mask": ()}
FORMATS = ("png", "jpeg", "webp")


@dataclasses.dataclass(frozen=True)
class Order:
    """What is to be done and how it is answered.

    Attributes:
      model: its name, as asked for.
      jobs: one for each of `n`.
      stream: whether it is answered as it is made.
      usage: whether a stream ends with what it cost.
      format: of images, one of FORMATS.
      url: images are data URIs.
      partial: whether earlier images are sent, too.
    """

    model: str
    jobs: Sequence[Job]
    stream: bool = False
    usage: bool = False
    format: str = "png"
    url: bool = False
    partial: bool = False


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
      images: most of one request (`n`).
      pixels: most of one picture, given or drawn.
    """

    images: int = fields.MOST_IMAGES
    pixels: int = 4096 * 4096


def chat(given: Mapping[str, Any], models: Models, limits: Limits) -> Order:
    """A conversation: its last message is answered, about its pictures or the last one before.

    Raises:
      Refusal: a field is wrong, or the model cannot do it.
    """
    fields.check(given, (*CHAT, *_NOT_IN_CHAT, *fields.OURS))
    fields.neutral(given, _NOT_IN_CHAT)
    model = fields.text(given, "model") if given.get("model") is not None else NAME
    parts = _parts(given.get("messages"), limits)
    prompt, pictures = _last(parts)
    draws = _draws(given.get("modalities"))
    verb = "ask" if not draws else "edit" if pictures else "generate"
    name = models.preset(model, verb)
    preset = catalog.find(name or models.reasoner.presets[verb])
    if not draws and "answer" not in preset.template and preset.template != "vqa":
        raise wrong(f"the model '{model}' draws; 'modalities' must hold \"image\".", "modalities")
    image: dict[str, Any] = {}
    if preset.in_parts:
        image = {"parts": [part for message in parts for part in message["parts"]]}
    elif any(message["role"] in ("system", "developer") for message in parts):
        told = "this model has a system prompt of its own; leave 'system' messages out."
        raise wrong(told, "messages", "unsupported_role")
    elif preset.needs_image and pictures:
        image = {"image": pictures if len(pictures) > 1 else pictures[0]}
    elif any("image" in part for part in parts[-1]["parts"]):
        image = {"image": pictures}  # which the preset refuses in its own words
    options = fields.options(given) | image
    most = given.get("max_completion_tokens", given.get("max_tokens"))
    if most is not None:
        most = fields.number({"max_tokens": most}, "max_tokens", 0, 1, 1 << 20)
        own = preset.settings(models.reasoner.settings).max_text
        options.setdefault("max_text", min(most, own))
    options["told"] = _steps(given.get("steps"), limits)
    streams = given.get("stream_options") or {}
    if not isinstance(streams, dict):
        raise wrong("'stream_options' is not an object.", "stream_options")
    previews = fields.number(given, "previews", 0, 0, 1000)
    jobs = _jobs(models, verb, name, prompt, options, _count(given, limits), limits, previews)
    usage = bool(streams.get("include_usage"))
    return Order(model, jobs, fields.flag(given, "stream"), usage)


def draw(
    given: Mapping[str, Any], pictures: Sequence[bytes], models: Models, limits: Limits
) -> Order:
    """A picture of a prompt or, with pictures, an edit of them.

    Raises:
      Refusal: as `chat`.
    """
    fields.check(given, (*DRAW, *_NOT_IN_DRAW, *fields.OURS))
    fields.neutral(given, _NOT_IN_DRAW)
    model = fields.text(given, "model") if given.get("model") is not None else NAME
    verb = "edit" if pictures else "generate"
    options = fields.options(given)
    if pictures:
        options["image"] = list(pictures) if len(pictures) > 1 else pictures[0]
    form = given.get("output_format") or "png"
    if form not in FORMATS:
        raise wrong(f"'output_format' must be one of {', '.join(FORMATS)}.", "output_format")
    answer = given.get("response_format") or "b64_json"
    if answer not in ("b64_json", "url"):
        raise wrong("'response_format' must be b64_json or url.", "response_format")
    partial = fields.number(given, "partial_images", 0, 0, 100) > 0
    name = models.preset(model, verb)
    prompt = fields.text(given, "prompt")
    jobs = _jobs(models, verb, name, prompt, options, _count(given, limits), limits)
    stream = fields.flag(given, "stream")
    return Order(model, jobs, stream, format=form, url=answer == "url", partial=partial)


def _jobs(
    models: Models,
    verb: str,
    preset: str | None,
    prompt: str,
    options: Mapping[str, Any],
    count: int,
    limits: Limits,
    previews: int = 0,
) -> list[Job]:
    height, width = options.get("size", (1, 1))
    if height * width > limits.pixels:
        raise wrong(f"'size': at most {limits.pixels:,} pixels are drawn here.", "size")
    prepare = functools.partial(models.reasoner.prepare, verb, prompt, preset=preset, **options)
    try:
        return [(*prepare(sample=number), previews) for number in range(count)]
    except ValueError as error:
        raise _by_field(error) from None


def _by_field(error: ValueError) -> Refusal:
    """A fault of the request, with its field where the message begins with one."""
    first = str(error).split(" ", 1)[0].strip("':")
    param = first if first in (*fields.OURS, "prompt") else None
    long = "shorten" in str(error)
    return wrong(str(error), param, "context_length_exceeded" if long else None)


def _count(given: Mapping[str, Any], limits: Limits) -> int:
    return fields.number(given, "n", 1, 1, limits.images)


def _draws(modalities: Any) -> bool:
    """Whether an image is wanted: by default, yes."""
    if modalities is None:
        return True
    if not isinstance(modalities, list) or not set(map(str, modalities)) <= {"text", "image"}:
        raise wrong('\'modalities\' must be a list of "text" and "image".', "modalities")
    return "image" in modalities


def _parts(messages: Any, limits: Limits) -> list[dict[str, Any]]:
    """Messages as {role, parts}, parts as {text} or {image}."""
    if not isinstance(messages, list) or not messages:
        raise wrong("'messages' must be a list that is not empty.", "messages")
    return [_message(message, f"messages[{n}]", limits) for n, message in enumerate(messages)]


def _message(message: Any, where: str, limits: Limits) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise wrong(f"'{where}' is not an object.", where)
    role = message.get("role")
    if role not in ("system", "developer", "user", "assistant"):
        raise wrong(f"'{where}.role' must be user, assistant, system or developer.", where)
    content = message.get("content")
    if content is None and role == "assistant":
        content = ""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise wrong(f"'{where}.content' must be a text or a list of parts.", where)
    shown = message.get("images") or []
    if not isinstance(shown, list):
        raise wrong(f"'{where}.images' is not a list.", where)
    found = [_part(part, f"{where}.content", limits) for part in [*content, *shown]]
    return {"role": role, "parts": found}


def _part(part: Any, where: str, limits: Limits) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    if kind == "image_url":
        address = part.get("image_url")
        url = address.get("url") if isinstance(address, dict) else address
        return {"image": fields.picture(url, f"{where}.image_url", limits.pixels)}
    raise wrong(
        f"'{where}': a part is {{type: text, text}} or {{type: image_url, image_url}}.", where
    )


def _last(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[bytes]]:
    """Words of the last message, and its pictures or the last one before it."""
    if messages[-1]["role"] != "user":
        raise wrong("the last of 'messages' must be the user's.", "messages")
    words = "\n".join(part["text"] for part in messages[-1]["parts"] if "text" in part)
    shown = [[part["image"] for part in m["parts"] if "image" in part] for m in messages]
    before = [image for found in shown[:-1] for image in found]
    return words, shown[-1] or before[-1:]


def _steps(steps: Any, limits: Limits) -> list[Step]:
    """Texts and images that are taken as they are."""
    if steps is None:
        return []
    if not isinstance(steps, list):
        raise wrong("'steps' is not a list.", "steps")
    return [_step(step, f"steps[{number}]", limits) for number, step in enumerate(steps)]


def _step(step: Any, where: str, limits: Limits) -> Step:
    role = step.get("role") if isinstance(step, dict) else None
    if not isinstance(role, str):
        raise wrong(f"'{where}' must be an object with a role, and a text or an image.", "steps")
    if isinstance(step.get("text"), str):
        content = step.get("content")
        if content is not None and not isinstance(content, str):
            raise wrong(f"'{where}.content' is not a text.", "steps")
        return Step("text", role, text=step["text"], content=content)
    data = fields.picture(step.get("image"), f"{where}.image", limits.pixels)
    return Step("image", role, image=images.load(data))
