"""Requests as users write them: lines of a file, and words that a model may not know."""

import codecs
import difflib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from unireason_jax.data.tokenizer import Tokenizer
from unireason_jax.world import vocabulary


class Asked(NamedTuple):
    """One request.

    Attributes:
      name: its id, which keys its randomness.
      prompt: prompt, instruction or question; may be empty, which `Preset.request` refuses.
      image: the picture it is about, or None.
      where: file and line it comes from.
    """

    name: str
    prompt: str
    image: Path | None = None
    where: str = "--prompt"


class Refused(NamedTuple):
    """A request that cannot be generated, as a line of refused.jsonl says it.

    Attributes:
      id: of the request; None where its line could not be read.
      where: file and line it comes from.
      reason: what is wrong with it.
      line: what could not be read; None where it could.
    """

    id: str | None
    where: str
    reason: str
    line: str | None = None


def read_file(path: Path) -> tuple[list[Asked], list[Refused]]:
    """Requests of a text file (one prompt a line) or of JSON lines; blank lines are passed over.

    A JSON line has `prompt`, and may have `id` and `image` (a path, relative to the file's folder).

    Returns:
      The requests, and the lines that are none: not UTF-8, not JSON though they begin like it, or
      with a field that is missing or of the wrong type.

    Raises:
      FileNotFoundError: no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--prompts {path}: no such file.")
    asked, refused = [], []
    for number, line in enumerate(path.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        try:
            if line.strip():
                asked.append(_read(line.decode("utf-8"), path, number))
        except ValueError as error:
            shown = line.decode("utf-8", errors="replace")
            refused.append(Refused(None, f"{path}:{number}", f"{path}:{number}: {error}", shown))
    return asked, refused


def check_words(prompt: str, tokenizer: Tokenizer) -> None:
    """Raises ValueError naming the words that become the unknown token, and near known ones.

    Marks alone, as the "?" after a question, pass.
    """
    words = re.findall(r"[^\s,.]*\w[^\s,.]*", prompt)
    unknown = [w for w in words if "<unk>" in tokenizer.decode(tokenizer.encode(w))]
    if unknown:
        near = [difflib.get_close_matches(w.lower(), vocabulary.WORDS, n=1) for w in unknown]
        hints = sorted({match[0] for match in near if match})
        hint = f" Near: {', '.join(hints)}." if hints else ""
        raise ValueError(
            f"prompt {prompt!r}: this model does not know the word(s) {', '.join(unknown)}; the "
            f"embedded world speaks of coloured shapes in lower case.{hint}"
        )


def _read(line: str, path: Path, number: int) -> Asked:
    """One line of a file of requests. Raises ValueError saying what is wrong with it."""
    where = f"{path}:{number}"
    if not line.lstrip().startswith("{"):
        return Asked(line.strip(), line.strip(), where=where)
    try:
        values: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error}).") from None
    prompt, image = values.get("prompt"), values.get("image")
    if not isinstance(prompt, str):
        raise ValueError("field 'prompt' is missing or not a text.")
    if image is not None and not isinstance(image, str):
        raise ValueError("field 'image' is not a path.")
    name = str(values.get("id", prompt))
    return Asked(name, prompt, path.parent / image if image else None, where)
