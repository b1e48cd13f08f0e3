"""The kinds of segments that templates are made of, and how they read a raw example."""

from collections.abc import Mapping
from typing import Any

from unireason_jax.data.records import Next, Record, RecordError, Segment, cut, names, untag
from unireason_jax.data.templates.style import Style

Example = Mapping[str, Any]


def record(example: Example, name: str, segments: list[Segment], style: Style) -> Record:
    """A record of template `name` from its segments, system prompt first.

    Raises:
      RecordError: the segments contradict the rules of `unireason_jax.data.records`.
    """
    system = style.system.get(name) if isinstance(style.system, Mapping) else style.system
    if system is not None:
        segments = [given("system", system), *segments]
    kept = ("task", "tag", "op", "domain")
    licence = example.get("licence") or ""
    if not isinstance(licence, str):
        raise RecordError(str(example.get("id", "?")), None, f"field 'licence' is {cut(licence)}")
    return Record(
        id=str(example.get("id", "")),
        segments=tuple(segments),
        source=name,
        licence=licence,
        metadata={key: example[key] for key in kept if key in example},
    )


def given(role: str, text: str | None) -> Segment:
    """A text that is read, not learned: system prompt, prompt, instruction, question."""
    return Segment("text", role, text=text, drop=True)


def unsupervised(role: str, text: str | None, tag: str | None) -> Segment:
    """A reasoning text that only conditions what follows."""
    return Segment("text", role, text=_inside(text, tag), tag=tag, drop=True)


def supervised(
    role: str,
    text: str | None,
    tag: str | None,
    *,
    then: Next,
    style: Style,
    drop: bool | None = None,
) -> Segment:
    """A text that is learned; `then` is what its end marker is taught to hand over to.

    `drop` overrides the style's rule on condition dropout.
    """
    return Segment(
        "text",
        role,
        text=(text.strip() if text is not None else None)
        if style.reference
        else _inside(text, tag),
        loss="text",
        next=then,
        drop=style.reference if drop is None else drop,
        tag=tag,
    )


def shown(role: str, image: Any, then: Next = "none") -> Segment:
    """An image as context: clean latents, then ViT patches."""
    return Segment("image", role, image=image, gen=True, und=True, next=then, drop=True)


def target(role: str, image: Any) -> Segment:
    """An image that is learned and not looked at again."""
    return Segment("image", role, image=image, loss="flow")


def target_and_shown(role: str, image: Any, then: Next = "none") -> Segment:
    """An image that is learned, then shown to what follows."""
    return Segment(
        "image", role, image=image, loss="flow", gen=True, und=True, next=then, drop=True
    )


def required(example: Example, key: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field that no template can do without.

    Raises:
      RecordError: the field is absent, None, of another type, or an empty string.
    """
    value = example.get(key)
    name = str(example.get("id", "?"))
    if value is None:
        fault = "null" if key in example else f"missing; it has {names(example)}"
        raise RecordError(name, None, f"field '{key}' is {fault}")
    if not isinstance(value, kind):
        raise RecordError(
            name, None, f"field '{key}' is {type(value).__name__}, not {_names(kind)}"
        )
    if isinstance(value, str) and not value.strip():
        raise RecordError(name, None, f"field '{key}' is empty; leave the record out")
    return value


def optional(example: Example, key: str) -> str | None:
    """A text field that may be absent: None is a hole, as is an absent key.

    Raises:
      RecordError: the field is not a string.
    """
    return None if example.get(key) is None else _text(example, key)


def _text(example: Example, key: str) -> str:
    value = example[key]
    if not isinstance(value, str):
        raise RecordError(
            str(example.get("id", "?")),
            None,
            f"field '{key}' is {type(value).__name__}, not a string",
        )
    return value


def _inside(text: str | None, tag: str | None) -> str | None:
    """Without tags of its own, so that a text that brings them is not wrapped twice."""
    return None if text is None else untag(text, tag)


def _names(kind: type | tuple[type, ...]) -> str:
    return " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
