"""What the public benchmarks share: items, questions to a judge, scores, and reading answers.

A benchmark is data and a few pure functions (`Suite`), so that layouts, parsers and formulas can be
tested without a model, a judge or a network. Rubrics are our own short words; official ones can be
given as a file, because most are not licensed for redistribution.
"""

import dataclasses
import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from unireason_jax.storage import texts


class Crop(NamedTuple):
    """One picture of a file that holds a grid of them; read when it is looked at.

    Attributes:
      file: the whole image.
      grid: pictures in a row, and rows.
      number: which one, row by row.
    """

    file: Path
    grid: int
    number: int


class Fitted(NamedTuple):
    """A picture that a judge sees in the size of another; read when it is looked at."""

    file: Path
    like: Path


Picture = Path | np.ndarray | Crop | Fitted
Scores = dict[str, float]


class Unreadable(ValueError):
    """A picture that cannot be opened; the message names its file."""


class Malformed(ValueError):
    """An answer of a judge that does not hold the scores asked for."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One prompt or edit of a benchmark.

    Attributes:
      id: unique within the file.
      prompt: what the model under test is asked.
      sources: pictures to edit, in order; empty for text to image.
      raw: the row as it stands in the file; `world` in it lets the program judge answer.
    """

    id: str
    prompt: str
    sources: tuple[Path, ...]
    raw: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Question:
    """One call of a judge.

    Attributes:
      key: unique within a suite's results.
      step: which scores are asked for.
      words: the rubric with the item's texts.
      pictures: files or parts of them, in the order the rubric names them.
      item: what is judged.
      labels: words before each picture; none where the rubric names them well enough.
      system: the judge's system message; empty for none.
      soft: the judge is asked for the probabilities of its first token, and answers with a JSON
        object {token: probability}; in words where it has none.
    """

    key: str
    step: str
    words: str
    pictures: tuple[Picture, ...]
    item: Item
    labels: tuple[str, ...] = ()
    system: str = ""
    soft: bool = False

    def digest(self) -> str:
        """Of the bytes of all pictures: a picture made anew is another question."""
        found = hashlib.blake2b(digest_size=8)
        for picture in self.pictures:
            if isinstance(picture, np.ndarray):
                data = picture.tobytes()
            else:
                data = (picture if isinstance(picture, os.PathLike) else picture.file).read_bytes()
            found.update(str(len(data)).encode() + data)
        return found.hexdigest()


@dataclasses.dataclass(frozen=True)
class Scored:
    """An image with all its scores, by step."""

    item: Item
    place: str
    scores: Mapping[str, Scores]

    def all(self) -> Scores:
        """Scores of all steps by name."""
        return {name: value for scores in self.scores.values() for name, value in scores.items()}


@dataclasses.dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
      name: for the command line.
      official_judge: for the report; never called by name.
      load: prompt file -> items; raises ValueError naming file, item, field and remedy.
      places: relative paths of an item's images as the official scripts expect them.
      questions: (item, relative path, image, rubrics) -> what to ask.
      read: (question, answer) -> scores; raises Malformed.
      group: what intervals are stratified by.
      aggregate: images with all their scores -> numbers by name, the headline first.
      rubrics: our words by step; `{prompt}` and other names in braces are filled in. "system" is
        the judge's system message.
      files: further files of an item's folder by relative path, e.g. GenEval's metadata.
      copies: pictures that lie beside the drawn ones, relative path -> file, e.g. GEdit's sources.
      grid: a place holds a grid of so many pictures a side; then an item has one place.
      measured: (file or folder, items) -> images with scores that other programs found, for
        `--detections`; None where there is no such thing.
      about: what the report must say beside the numbers; empty for nothing.
      best: the headline of pictures that get every point.
    """

    name: str
    official_judge: str
    load: Callable[[Path], list[Item]]
    places: Callable[[Item], tuple[str, ...]]
    questions: Callable[[Item, str, Path, Mapping[str, str]], list[Question]]
    read: Callable[[Question, str], Scores]
    group: Callable[[Item], str]
    aggregate: Callable[[Sequence[Scored]], Scores]
    rubrics: Mapping[str, str]
    files: Callable[[Item], dict[str, str]] = lambda item: {}
    copies: Callable[[Item], dict[str, Path]] = lambda item: {}
    grid: int = 1
    measured: Callable[[Path, list[Item]], list[Scored]] | None = None
    about: str = ""
    best: float = 100.0


def read_all(path: Path, leave_out: str = "") -> list[Mapping[str, Any]]:
    """Objects of a file, or of all JSON files of a folder but those whose names have a part.

    Raises:
      FileNotFoundError, ValueError: as `read_rows`; or the folder has no JSON file.
    """
    if not path.is_dir():
        return read_rows(path)
    files = [
        file for file in sorted(path.glob("*.json*")) if not leave_out or leave_out not in file.stem
    ]
    if not files:
        raise FileNotFoundError(f"{path}: no prompt files (*.json, *.jsonl) in this folder.")
    return [row for file in files for row in read_rows(file)]


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """Objects of a JSON array, a JSON object of objects (the key becomes "key"), or JSON lines.

    Raises:
      FileNotFoundError, ValueError: no such file, or neither of these.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such prompt file.")
    text = texts.read(path)
    if path.suffix == ".jsonl":  # U+2028 and its like are no ends of lines in JSON
        lines = enumerate(text.split("\n"), 1)
        rows = [_parsed(line, f"{path}, line {number}") for number, line in lines if line.strip()]
    else:
        rows = _parsed(text, f"{path}")
    if isinstance(rows, dict):
        rows = [{"key": key, **row} for key, row in rows.items() if isinstance(row, dict)]
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path}: give a list of objects with at least one in it.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{path}, row {number}: {str(row)[:80]!r} is no JSON object.")
    return rows


def _parsed(text: str, place: str) -> Any:
    """The JSON of a text. Raises ValueError that names its place."""
    try:
        return json.loads(text)
    except ValueError as error:
        why = str(error).partition(";")[0]
    except RecursionError:
        why = "nested too deep"
    raise ValueError(f"{place}: not JSON ({why}); give JSON lines (.jsonl) or a list of objects.")


def field(path: Path, number: int, row: Mapping[str, Any], name: str, kind: Any = str) -> Any:
    """A field of a row. Raises ValueError naming file, row, field and what it should be."""
    value = row.get(name)
    if not isinstance(value, kind) or (isinstance(value, str) and not value.strip()):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        wanted = " or ".join(k.__name__ for k in kinds)
        article = "an" if wanted[0] in "aeiou" else "a"
        raise ValueError(
            f"{path}, item {number}: field '{name}' is {value!r}; give {article} {wanted}."
        )
    return value


def sources(path: Path, number: int, row: Mapping[str, Any], name: str) -> tuple[Path, ...]:
    """Source pictures of an edit, relative to the prompt file; they must exist."""
    value = field(path, number, row, name, (str, list))
    found = tuple(path.parent / each for each in ([value] if isinstance(value, str) else value))
    for picture in found:
        if not picture.is_file():
            raise ValueError(f"{path}, item {number}: picture {picture} of '{name}' is missing.")
    return found


def checked(path: Path, items: Iterable[Item]) -> list[Item]:
    """The items. Raises ValueError where two share an id, and so would share an image."""
    items, seen = list(items), set()
    for item in items:
        if item.id in seen:
            raise ValueError(f"{path}: item '{item.id}' is there twice; ids must be unique.")
        seen.add(item.id)
    return items


def one_png(item: Item) -> tuple[str, ...]:
    """`{id}.png`: the place of an item's only picture."""
    return (f"{item.id}.png",)


def pixels(picture: Picture) -> np.ndarray:
    """A picture as uint8 [H, W, 3]. Raises Unreadable for a file that holds none."""
    if isinstance(picture, np.ndarray):
        return picture
    if isinstance(picture, os.PathLike):
        return _opened(picture)
    if isinstance(picture, Fitted):
        with picture.like.open("rb") as file, Image.open(file) as other:
            size = other.size
        fitted = Image.fromarray(_opened(picture.file)).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(fitted)
    row, column = divmod(picture.number, picture.grid)
    grid = _grid(picture.file, picture.file.stat().st_mtime_ns)
    strip = np.array_split(grid, picture.grid, axis=0)[row]
    return np.array_split(strip, picture.grid, axis=1)[column]


@functools.lru_cache(maxsize=8)  # every picture of a grid has many questions
def _grid(file: Path, written: int) -> np.ndarray:
    return _opened(file)


def _opened(file: Path) -> np.ndarray:
    try:
        with file.open("rb") as data, Image.open(data) as found:
            return np.asarray(found.convert("RGB"))
    except UnidentifiedImageError:
        raise Unreadable(f"{file}: not a picture") from None
    except (OSError, SyntaxError, ValueError) as error:  # Pillow has no error of its own
        raise Unreadable(f"{file}: {' '.join(str(error).split())}") from None


def fill(rubric: str, **texts: Any) -> str:
    """The rubric with `{name}` replaced; other braces stay as they are."""
    for name, text in texts.items():
        rubric = rubric.replace(f"{{{name}}}", str(text))
    return rubric


def clean(answer: str) -> str:
    """An answer without a reasoning model's thoughts and without code fences."""
    answer = re.sub(r"<think>.*?</think>", "", answer, flags=re.DOTALL)
    return re.sub(r"```(?:json)?", "", answer).replace("**", "").strip()


def number_after(answer: str, label: str, low: float, high: float) -> float:
    """The number behind `label:`. Raises Malformed when it is absent or out of range."""
    found = re.findall(rf"{re.escape(label)}\s*[:=]\s*(-?\d+(?:\.\d+)?)", answer, re.IGNORECASE)
    if not found or not low <= float(found[-1]) <= high:
        raise Malformed(f"no '{label}: {low:g} to {high:g}' in {answer[:120]!r}")
    return float(found[-1])


def json_object(answer: str) -> dict[str, Any]:
    """The outermost JSON object of an answer. Raises Malformed when there is none."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(re.sub(r",\s*([}\]])", r"\1", answer[start : end + 1]))
    except json.JSONDecodeError:
        raise Malformed(f"no JSON object in {answer[:120]!r}") from None
    if not isinstance(found, dict):
        raise Malformed(f"no JSON object in {answer[:120]!r}")
    return found


def in_range(value: Any, low: float, high: float) -> float:
    """The value as a number. Raises Malformed when it is none, or out of range."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise Malformed(f"{value!r} is not a number") from None
    if isinstance(value, bool) or not low <= number <= high:
        raise Malformed(f"{value!r} is not between {low:g} and {high:g}")
    return number


def smaller_score(answer: str, most: float) -> float:
    """The smaller number of `{"score": [a, b]}`, both 0 to `most`. Raises Malformed otherwise."""
    score = json_object(clean(answer)).get("score")
    if not isinstance(score, list) or len(score) != 2:
        raise Malformed(f"'score' is {score!r}, not two numbers")
    return min(in_range(value, 0, most) for value in score)


def mean(values: Iterable[float]) -> float:
    """Mean, nan of nothing."""
    values = list(values)
    return sum(values) / len(values) if values else float("nan")


def by_group(scored: Iterable[Scored], group: Callable[[Item], str]) -> dict[str, list[Scored]]:
    """Images by group, in order of first appearance."""
    found: dict[str, list[Scored]] = {}
    for image in scored:
        found.setdefault(group(image.item), []).append(image)
    return found
