"""The shape of a structured answer, as a recipe writes it, and answers read into it.

text     words, not empty          text?    words or nothing
yesno    true or false             number   any number
1..5     a number from 1 to 5      a | b    one of these words
[text]   a list of any of these    table    an object with fields of these
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic

from unireason_jax.evals.published.base import Malformed, clean, json_object

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
_LONGEST_LIST, _LONGEST_TEXT = 64, 20_000
_WORDS: dict[str, Any] = {
    "text": Annotated[
        str,
        pydantic.StringConstraints(min_length=1, max_length=_LONGEST_TEXT, strip_whitespace=True),
    ],
    "text?": Annotated[str, pydantic.StringConstraints(max_length=_LONGEST_TEXT)],
    "yesno": bool,
    "number": Annotated[float, pydantic.AllowInfNan(False)],
}


class Shape:
    """What an answer has to look like.

    Args:
      name: of the stage, sent with the schema.
      fields: as in the recipe.

    Raises:
      ValueError: a kind of field that there is not; the message names it.
    """

    def __init__(self, name: str, fields: Mapping[str, Any]):
        self.name, self.fields = name, fields
        self._model = _model(name, fields)

    def response_format(self) -> dict[str, Any]:
        """The field of a chat request that asks for this shape."""
        schema = {"name": self.name, "schema": self._model.model_json_schema()}
        return {"type": "json_schema", "json_schema": schema}

    def read(self, answer: str) -> dict[str, Any]:
        """The fields of an answer. Raises Malformed that says what is wrong, in one line."""
        try:
            return self._model.model_validate(json_object(clean(answer))).model_dump()
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "the answer"
            raise Malformed(f"{place}: {first['msg']}") from None
        except RecursionError:
            raise Malformed("nested too deep") from None

    def words(self) -> str:
        """The shape for a reader, one line a field."""
        return "\n".join(f'  "{name}": {kind}' for name, kind in self.fields.items())


def _model(name: str, fields: Mapping[str, Any]) -> type[pydantic.BaseModel]:
    made = {field: (_kind(f"{name}.{field}", kind), ...) for field, kind in fields.items()}
    config = pydantic.ConfigDict(extra="ignore")
    return pydantic.create_model(name, __config__=config, **made)


def _kind(place: str, kind: Any) -> Any:
    if isinstance(kind, Mapping) and kind:
        return _model(place.replace(".", "_"), kind)
    if isinstance(kind, list) and len(kind) == 1:
        inner = _kind(place, kind[0])
        return Annotated[list[inner], pydantic.Field(max_length=_LONGEST_LIST)]
    if isinstance(kind, str):
        if kind in _WORDS:
            return _WORDS[kind]
        found = _RANGE.fullmatch(kind)
        if found and int(found[1]) <= int(found[2]):
            return Annotated[int, pydantic.Field(ge=int(found[1]), le=int(found[2]))]
        if "|" in kind:
            return Literal[tuple(word.strip() for word in kind.split("|"))]
    known = ", ".join(_WORDS)
    raise ValueError(
        f"answer field '{place}' is {kind!r}; use one of {known}, 1..5, 'a | b', [..] or a table"
    )
