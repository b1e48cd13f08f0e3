"""Seeds: the rows that items are made of, checked, without doubles and without benchmarks."""

import dataclasses
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unireason_jax.endpoints.calls import content_key
from unireason_jax.evals.published.base import read_rows
from unireason_jax.storage import texts
from unireason_jax.synthesis import graphs, tars, vqa
from unireason_jax.synthesis.configuration import Configuration
from unireason_jax.synthesis.neighbours import Texts
from unireason_jax.synthesis.recipe import Recipe

DUPLICATE, OVERLAP = "near-duplicate of an earlier seed", "prompt of a benchmark"
_LONGEST = 40  # characters of an id
_SHOWN = 200  # characters of a path in a message
_STEP = ("ins", "des", "image")
_PROMPTS = (".json", ".jsonl", ".txt")  # files of a benchmark


@dataclasses.dataclass(frozen=True)
class Seed:
    """One item to be worked on.

    Attributes:
      id: unique, stable, fit for a file name.
      values: inputs of the recipe; pictures are paths.
    """

    id: str
    values: Mapping[str, Any]


@dataclasses.dataclass
class Seeds:
    """Items of this share, and why the other rows are none of them."""

    items: list[Seed]
    rows: int
    dropped: Counter
    elsewhere: int = 0
    beyond: int = 0


def read(
    configuration: Configuration, base: Path, recipe: Recipe, share: tuple[int, int] = (1, 1)
) -> Seeds:
    """The seeds of a configuration whose file lies in `base`.

    Args:
      configuration: names files, fields and samples.
      base: folder that files are relative to.
      recipe: whose inputs are read.
      share: (i, n): the i-th of n parts, from 1 on; by hash of the id, so parts never overlap.

    Raises:
      ValueError, FileNotFoundError: a file or a field that cannot be; names file, row and remedy.
    """
    path = base / configuration.seeds
    rows = (
        vqa.joined(path, base / configuration.answers, configuration.picture)
        if (configuration.answers)
        else _rows(path)
    )
    for name in configuration.fields:
        if name not in recipe.inputs:
            have = ", ".join(recipe.inputs)
            raise ValueError(f"fields: '{name}' is no input of '{recipe.name}'; it has {have}.")
    taken = Texts(text for name in configuration.benchmarks for text in _prompts(base / name))
    met, ids = Texts(), set()
    items, dropped, elsewhere = [], Counter(), 0
    for number, row in enumerate(rows, 1):
        values = _inputs(path, number, row, configuration, recipe)
        _sendable(values, f"{path}, row {number}")
        text = str(values[recipe.unique])
        if taken.seen(text, remember=False):
            dropped[OVERLAP] += 1
            continue
        pictures = [values[name] for name, kind in recipe.inputs.items() if kind == "picture"]
        if met.seen(text if not pictures else f"{text} {content_key(*map(str, pictures))}"):
            dropped[DUPLICATE] += 1
            continue
        name = _id(row, values)
        if name in ids:
            raise ValueError(f"{path}, row {number}: id '{name}' is there twice; make it unique.")
        ids.add(name)
        if zlib.crc32(name.encode()) % share[1] != share[0] - 1:
            elsewhere += 1
            continue
        many = configuration.samples > 1
        for sample in range(configuration.samples):
            items.append(Seed(f"{name}-{sample}" if many else name, values))
    return Seeds(items, len(rows), dropped, elsewhere)


def _rows(path: Path) -> list[Mapping[str, Any]]:
    if path.suffix == ".txt":
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file of seeds.")
        lines = [line.strip() for line in texts.read(path).split("\n")]
        rows = [{"prompt": line} for line in lines if line]
        if not rows:
            raise ValueError(f"{path}: no seeds; write one prompt a line.")
        if rows[0]["prompt"].startswith(('{"', "[{")):
            raise ValueError(f"{path}: the first line is JSON, no prompt; name the file .jsonl.")
        return rows
    if packed := tars.files(path):
        return [row for file in packed for row in tars.rows(file)]
    return read_rows(path)


def _inputs(
    path: Path, number: int, row: Mapping[str, Any], configuration: Configuration, recipe: Recipe
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    row = vqa.asked(row)
    told = (
        f"{row[tars.TAR]}, sample {row[tars.KEY]}" if tars.KEY in row else f"{path}, row {number}"
    )
    for name, kind in recipe.inputs.items():
        source = configuration.fields.get(name, name)
        value = row.get(source)
        if kind in ("text", "text?"):
            if value is None and kind == "text?":
                values[name] = ""
                continue
            if not isinstance(value, str) or not (value.strip() or kind == "text?"):
                have = ", ".join(map(str, row))
                raise ValueError(
                    f"{told}: field '{source}' is {str(value)[:80]!r}; give a text "
                    f"(the row has {have})."
                )
            values[name] = value.strip()
        elif kind == "picture":
            value = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(value, str) and tars.told(row) and tars.is_place(value):
                values[name] = value
                continue
            place = path.parent / str(value)
            if not isinstance(value, str) or not _is_file(place):
                shown = str(place)[:_SHOWN]
                raise ValueError(f"{told}: field '{source}' names no picture ({shown}).")
            values[name] = str(place)
        elif kind == "steps":
            values[name] = _steps(path.parent, f"{told}: field '{source}'", value)
        else:
            values[name] = _graph(f"{told}: field '{source}'", value)
    return values


def _sendable(values: Mapping[str, Any], place: str) -> None:
    """Raises ValueError where a text has half a character, which no request can carry."""
    for name, value in values.items():
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{place}: '{name}' has half a character (a lone surrogate); mend the text."
            ) from None


def _graph(place: str, value: Any) -> Any:
    """A scene graph as it is written, None where there is none. Raises ValueError."""
    if value is not None:
        try:
            graphs.checked(value)
        except ValueError as error:
            raise ValueError(f"{place}: {error}.") from None
    return value


def _steps(folder: Path, place: str, value: Any) -> list[dict[str, str]]:
    """Steps that were drawn, their pictures as paths beneath a folder. Raises ValueError."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{place} is no list of steps, each with 'ins', 'des' and 'image'.")
    found = []
    for step, each in enumerate(value, 1):
        texts = {key: each.get(key) if isinstance(each, Mapping) else None for key in _STEP}
        if not all(isinstance(text, str) and text for text in texts.values()):
            raise ValueError(f"{place}, step {step}: give texts 'ins', 'des' and 'image'.")
        picture = folder / texts["image"]
        if not _is_file(picture):
            shown = str(picture)[:_SHOWN]
            raise ValueError(f"{place}, step {step}: 'image' names no picture ({shown}).")
        found.append({**texts, "image": str(picture)})
    return found


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _id(row: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A row's own id where it is fit for a file name, else one of its content."""
    own = row.get("id")
    name = str(own) if isinstance(own, str | int) and not isinstance(own, bool) else ""
    if (
        name
        and len(name) <= _LONGEST
        and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    ):
        return name
    return content_key(name, dict(values))[:16]


def _prompts(path: Path) -> Iterator[str]:
    """Texts of a benchmark's prompt file, or of those of a folder, whatever it calls them.

    Raises:
      FileNotFoundError, ValueError: no such file, or no prompts in it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such prompt file of a benchmark.")
    found = [path]
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix in _PROMPTS)
    none = True
    for file in found:
        for text in _lines(file) if file.suffix == ".txt" else _texts(read_rows(file)):
            none = False
            yield text
    if none:
        raise ValueError(
            f"{path}: no prompts of a benchmark; name a {', '.join(_PROMPTS)} file that has them."
        )


def _lines(file: Path) -> list[str]:
    return [line for line in texts.read(file).split("\n") if line.strip()]


def _texts(value: Any) -> Iterator[str]:
    """All texts of more than two words in a row."""
    if isinstance(value, str):
        if len(value.split()) > 2:
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)


def told(seed: Seed) -> str:
    """A seed in one line of a message."""
    return json.dumps(dict(seed.values), ensure_ascii=False)[:200]
