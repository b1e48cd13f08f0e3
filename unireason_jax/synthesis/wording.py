"""Prompts with fields: `{request}`, `{verify.directives}`; `{{` and `}}` are braces."""

import json
import re
from collections.abc import Mapping
from typing import Any

_FIELD = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_.]*)\}|[{}]")


def fields_of(template: str) -> list[str]:
    """The fields of a template in order.

    Raises:
      ValueError: a brace that belongs to no field; the message shows what stands around it.
    """
    found = []
    for match in _FIELD.finditer(template):
        if match[1]:
            found.append(match[1])
        elif len(match[0]) == 1:
            around = template[max(match.start() - 15, 0) : match.start() + 15]
            raise ValueError(f"a lone brace near {around!r}; write {{{{ or }}}} for a brace")
    return found


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with its fields replaced.

    A list becomes lines that begin with `- `, an object JSON, None nothing.

    Raises:
      KeyError: a field that is not there.
    """

    def text(match: re.Match[str]) -> str:
        return _text(look_up(values, match[1])) if match[1] else match[0][0]

    return _FIELD.sub(text, template)


def look_up(values: Mapping[str, Any], path: str) -> Any:
    """The value at a path of names joined by dots. Raises KeyError where there is none."""
    found: Any = values
    for name in path.split("."):
        if not isinstance(found, Mapping):
            raise KeyError(path)
        found = found[name]
    return found


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(f"- {_text(each)}" for each in value)
    if isinstance(value, Mapping):
        return json.dumps({k: v for k, v in value.items() if k != "image"}, ensure_ascii=False)
    return str(value)
