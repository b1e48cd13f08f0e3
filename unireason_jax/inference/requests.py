"""Requests as users write them: items of a file, and words that a model may not know."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unireason_jax.data.text.tokenizer import Tokenizer
from unireason_jax.inference import request_files
from unireason_jax.inference.settings import OPTIONS
from unireason_jax.inference.values import whole
from unireason_jax.run import option_names

_MARKS = frozenset(",.;:?!")
_NAMED = 10  # unknown words in a message

FIELDS = ("prompt", "id", "image", "seed")
CALL = ("preset", "rounds", "sample", "seed", "name", "parts", *OPTIONS)
"""What a call from Python takes beside its prompt and its image."""

_FLAGS = ("preset", "rounds", "samples", *OPTIONS)
_HALF = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


class Asked(NamedTuple):
    """One request.

    Attributes:
      name: its id, which keys its randomness.
      prompt: prompt, instruction or question; may be empty, which `Preset.request` refuses.
      image: the picture it is about, or several; None for none.
      where: file and line it comes from.
      seed: gives other draws under the same id; None for those of --seed.
    """

    name: str
    prompt: str
    image: Path | list[Path] | None = None
    where: str = "--prompt"
    seed: int | None = None


class Refused(NamedTuple):
    """A request that cannot be generated, as a line of refused.jsonl says it.

    Attributes:
      id: of the request; None where its line could not be read.
      where: file and line it comes from.
      reason: what is wrong with it.
      line: what could not be read, its beginning; None where it could.
    """

    id: str | None
    where: str
    reason: str
    line: str | None = None

    @property
    def told(self) -> str:
        """The reason, and where it is from."""
        from_flag = self.where == "--prompt"
        return self.reason if from_flag else f"{self.where}: {self.reason}"


def read_file(path: Path) -> tuple[list[Asked], list[Refused]]:
    """Requests of a file: text (one prompt a line), JSON lines, a JSON array, or a table.

    An object or a row has `prompt`, and may have `id` (text or whole number), `image` (a path or a
    list of them, relative to the file's folder) and `seed`.

    Returns:
      The requests, and the items that are none.

    Raises:
      FileNotFoundError, ValueError: as `request_files.read`.
    """
    asked, refused = [], []
    for item in request_files.read(path, lambda columns: check_names(columns, FIELDS)):
        where = f"{path}:{item.line}"
        try:
            if item.fault:
                raise ValueError(item.fault)
            asked.append(_asked(item.value, path, where))
        except ValueError as error:
            shown = item.text if len(item.text) <= 200 else f"{item.text[:200]} ..."
            refused.append(Refused(None, where, str(error), shown))
    return asked, refused


def check_names(names: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError for names that are not known, and says which ones may be meant."""
    wrong = [_unknown(name, known) for name in names if name not in known]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}. Known are {', '.join(known)}.")


def _unknown(name: str, known: Sequence[str]) -> str:
    """What is to be said of an unknown field."""
    if refused := option_names.refusal(name):
        return refused
    told = f"unknown field {request_files.named(name)}"
    if near := option_names.meant(name, known):
        return f"{told}, did you mean '{near}'?"
    if (meant := option_names.OURS.get(name, name)) in _FLAGS:
        return f"{told}, which is said for all requests at once: --{meant}"
    return told


def check_text(name: str, value: Any) -> None:
    """Raises ValueError unless a field is a text of whole characters."""
    if not isinstance(value, str):
        raise ValueError(f"field '{name}' is not a text but {_kind(value)}.")
    if half := _HALF.search(value):
        raise ValueError(
            f"field '{name}' holds {ascii(half[0])[1:-1]}, half of a character; write it whole."
        )
    if control := _CONTROL.search(value):
        raise ValueError(f"field '{name}' holds the control character {ascii(control[0])[1:-1]}.")


def check_words(prompt: str, tokenizer: Tokenizer) -> None:
    """Raises ValueError naming the words that become the unknown token, and near known ones.

    Marks alone, as the "?" after a question, pass.
    """
    unknown = [word for word in tokenizer.unknown(prompt) if word not in _MARKS]
    if not unknown:
        return
    named = list(dict.fromkeys(unknown))
    known = getattr(tokenizer, "words", [])
    near = [difflib.get_close_matches(w.lower(), known, n=1) for w in named[:_NAMED]]
    hints = sorted({match[0] for match in near if match})
    hint = f" Near: {', '.join(hints)}." if hints else ""
    shown = ", ".join(_shown(word) for word in named[:_NAMED])
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    holds = f"the {len(known):,} words of its training texts" if known else "no such characters"
    raise ValueError(
        f"prompt {_shown(prompt, 200)!r}: this model does not know the word(s) {shown}{more}; its "
        f"vocabulary has {holds}.{hint}"
    )


def _shown(text: str, letters: int = 40) -> str:
    """A text in a message, cut where it is long."""
    return text if len(text) <= letters else f"{text[:letters]}..."


def _asked(value: str | dict[str, Any], path: Path, where: str) -> Asked:
    """An item as a request. Raises ValueError saying what is wrong with it."""
    if isinstance(value, str):
        check_text("prompt", value)
        return Asked(value, value, where=where)
    check_names(list(value), FIELDS)
    if "prompt" not in value:
        raise ValueError("field 'prompt' is missing.")
    prompt = value["prompt"]
    check_text("prompt", prompt)
    return Asked(
        _id(value["id"]) if "id" in value else prompt,
        prompt,
        _images(value["image"], path.parent) if "image" in value else None,
        where,
        _seed(value["seed"]) if "seed" in value else None,
    )


def _id(value: Any) -> str:
    """An id as a text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(
            f"field 'id' is {_kind(value)}; give a text or a whole number, or leave it out."
        )
    check_text("id", value)
    if not value.strip():
        raise ValueError("field 'id' is empty; give a text, or leave it out.")
    return value


def _images(value: Any, folder: Path) -> Path | list[Path]:
    """A path, or several."""
    if isinstance(value, list):
        if not value:
            raise ValueError("field 'image' is an empty list; give paths, or leave it out.")
        return [_images(_path(one), folder) for one in value]
    return folder / _path(value)


def _path(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"field 'image' is not a path but {_kind(value)}.")
    check_text("image", value)
    if not value.strip():
        raise ValueError("field 'image' is empty; give a path, or leave it out.")
    return value


def _seed(value: Any) -> int:
    """A seed; a table's cells are text."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,20}", value):
        value = int(value)
    return check_seed(value)


def check_seed(value: Any) -> int:
    """A seed as a plain int. Raises ValueError unless it is a whole number of 64 bits."""
    return whole("seed", value, least=0, most=2**64 - 1)


def _kind(value: Any) -> str:
    """How to speak of a value that is of a wrong type."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    kinds = {int: "a number", float: "a number", list: "a list", dict: "an object", str: "a text"}
    return kinds.get(type(value), f"a {type(value).__name__}")
