"""Janus-Pro's prompts: the string of a conversation, and the ids that stand for its pictures."""

from collections.abc import Sequence

USER, ASSISTANT = "<|User|>", "<|Assistant|>"
_NAMES = ("begin▁of▁sentence", "end▁of▁sentence", "▁pad▁")
BOS, EOS, PAD = (f"<\uff5c{name}\uff5c>" for name in _NAMES)  # full-width bars
BEGIN, END, PLACE = "<begin_of_image>", "<end_of_image>", "<image_placeholder>"
SPECIAL = (BOS, EOS, PAD, BEGIN, END, PLACE, USER, ASSISTANT)
BETWEEN = "\n\n"
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
FORMATS = ("deepseek", "deepseek_old", "plain")

Message = tuple[str, str]


def conversation(
    messages: Sequence[Message], system: str = "", *, style: str = "deepseek", end: str = EOS
) -> str:
    """The prompt of a conversation, as the official processor writes it.

    A message without words is a role and a colon, for the model to go on. What follows a message
    depends on its number, not its role; `checked` refuses conversations where that matters.

    Args:
      messages: (role, words); words are stripped.
      system: put in front, with an empty line between; "" for none, as for drawing.
      style: "deepseek" (and "deepseek_old", which differs by its roles), or "plain": the words and
        nothing else.
      end: what follows every second message.

    Raises:
      ValueError: unknown style.
    """
    if style not in FORMATS:
        raise ValueError(f"sft_format {style!r} is not one of {', '.join(FORMATS)}.")
    words = [(role, content.strip()) for role, content in messages]
    if style == "plain":
        return "".join(content for _, content in words).strip()
    text = system + BETWEEN if system else ""
    for i, (role, content) in enumerate(words):
        text += f"{role}: {content}{(BETWEEN, end)[i % 2]}" if content else f"{role}:"
    return text.strip()


def checked(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages. Raises ValueError unless user and assistant alternate, the user first."""
    for i, (role, _) in enumerate(messages):
        if role != (USER, ASSISTANT)[i % 2]:
            raise ValueError(
                f"message {i + 1} is from {role}: user and assistant must alternate, user first."
            )
    return messages


def expanded(ids: Sequence[int], *, place: int, begin: int, end: int, tokens: int) -> list[int]:
    """Ids with every picture's mark replaced by begin, `tokens` marks and end."""
    out: list[int] = []
    for token in ids:
        out += [begin, *[place] * tokens, end] if token == place else [token]
    return out


def unconditional(ids: Sequence[int], pad: int) -> list[int]:
    """The prompt that guidance turns away from: all but the first and last id are `pad`.

    It is as long as the prompt, and its pads are attended, as in training.
    """
    return [ids[0], *[pad] * (len(ids) - 2), ids[-1]]
