"""What a recipe's stages know: names and kinds of values, before there are any."""

import difflib
from collections.abc import Mapping
from typing import Any


class Scope:
    """Names with the kind of their value: a word, a table of kinds, or a list of one kind."""

    def __init__(self, inputs: Mapping[str, Any]):
        self._kinds: dict[str, Any] = {**inputs, "id": "text"}

    def names(self) -> list[str]:
        """All names."""
        return list(self._kinds)

    def add(self, name: str, kind: Any) -> None:
        """Makes a name known; nothing where there is no value."""
        if kind is not None:
            self._kinds[name] = kind

    def kind(self, path: str, place: str) -> Any:
        """The kind of the value at a path. Raises ValueError that names the nearest one."""
        found: Any = self._kinds
        for depth, name in enumerate(path.split(".")):
            if found == "any":
                return "any"
            if not isinstance(found, Mapping) or name not in found:
                known = list(found) if isinstance(found, Mapping) else []
                near = difflib.get_close_matches(name, known, n=1)
                parent = ".".join(path.split(".")[:depth])
                known = [f"{parent}.{each}" if parent else each for each in near or known]
                hint = f"there are {', '.join(known)}" if known else f"'{parent}' has no fields"
                hint = f"did you mean '{known[0]}'?" if near else hint
                raise ValueError(f"{place}: unknown field '{path}'; {hint}")
            found = found[name]
        return found

    def element(self, path: str, place: str) -> Any:
        """The kind of the elements of a list. Raises ValueError where it is none."""
        kind = self.kind(path, place)
        if kind == "any":
            return "any"
        if not isinstance(kind, list):
            raise ValueError(f"{place}: '{path}' is no list")
        return kind[0]

    def rounds(self, path: str, inner: str, place: str) -> Any:
        """The kind of a value of every round of the rounds at a path. Raises ValueError."""
        kind = self.element(path, place)
        return Scope(kind).kind(inner, place) if kind != "any" else "any"
