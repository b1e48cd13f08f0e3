"""The tokens that a release of Qwen2's tokenizer adds to its vocabulary, read from its files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NEWER, _OLDER = "tokenizer_config.json", "added_tokens.json"


def added_tokens(folder: Path) -> dict[int, dict[str, Any]]:
    """Added tokens by id: of tokenizer_config.json, or of added_tokens.json in older releases.

    Raises:
      ValueError: a file is damaged; the message has its name.
    """
    newer, older = folder / _NEWER, folder / _OLDER
    found = readable(lambda: _newer(newer), _NEWER) if newer.is_file() else {}
    if found or not older.is_file():
        return found
    return readable(lambda: {int(i): {"content": str(t)} for t, i in _table(older).items()}, _OLDER)


def readable(read: Callable[[], Any], name: str) -> Any:
    """What `read` gives; whatever it raises as ValueError that names the file."""
    try:
        return read()
    except Exception as error:  # the tokenizers library raises plain ones
        raise ValueError(f"{name} cannot be read ({error})") from None


def _newer(path: Path) -> dict[int, dict[str, Any]]:
    """The added tokens of tokenizer_config.json."""
    found = _table(path).get("added_tokens_decoder", {})
    return {int(number): _token(value) for number, value in found.items()}


def _table(path: Path) -> dict[str, Any]:
    """The JSON object of a file."""
    values = json.loads(path.read_text("utf-8"))
    if not isinstance(values, dict):
        raise ValueError("no JSON object")
    return values


def _token(value: Any) -> dict[str, Any]:
    """The entry of an added token."""
    whole = isinstance(value, dict) and isinstance(value.get("content"), str) and value["content"]
    if not whole or not isinstance(value.get("special", True), bool):
        raise ValueError("an added token is no object with its content")
    return value
