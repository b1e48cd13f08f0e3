"""Items at their end -> records: fields in place, shares held, near-duplicates left out."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from unireason_jax.storage import atomic
from unireason_jax.synthesis.neighbours import Pictures, picture_hash
from unireason_jax.synthesis.player import Item, Kept, unmet
from unireason_jax.synthesis.recipe import Recipe
from unireason_jax.synthesis.wording import look_up

RECORDS = "records.jsonl"
_PICTURE = re.compile(r"(share-\d+-of-\d+/)?pictures/")
ABOVE, ALIKE = "above the share of its kind", "near-duplicate picture"


class Fates(Protocol):
    """What became of items."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The row of a finished item, None for any other."""


def records_of(recipe: Recipe, item: Item) -> list[dict[str, Any]]:
    """The records of an item, with the paths of their pictures beneath the folder."""
    found = []
    for output in recipe.record:
        if output.when and unmet(output.when, item.values):
            continue
        record: dict[str, Any] = {"task": output.task}
        for name, path in output.fields.items():
            if isinstance(path, str):
                record[name] = _placed(look_up(item.values, path))
                continue
            rounds = look_up(item.values, path["each"])
            record[name] = [
                {key: _placed(look_up(each, at)) for key, at in path.items() if key != "each"}
                for each in rounds
            ]
        found.append(record)
    many = len(recipe.record) > 1
    return [
        {"id": f"{item.seed.id}-{number}" if many else item.seed.id, **record}
        for number, record in enumerate(found)
    ]


def kinds_of(recipe: Recipe, item: Item) -> list[str]:
    """Of which kind an item is, for every limit of the recipe; "" where none applies."""
    return [
        str(look_up(item.values, limit.by))
        if limit.by
        else ("empty" if not look_up(item.values, limit.empty) else "")
        for limit in recipe.limit
    ]


def _placed(value: Any) -> Any:
    if isinstance(value, Kept):
        return f"pictures/{value[:2]}/{value}"
    if isinstance(value, list):
        return [_placed(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _placed(each) for key, each in value.items()}
    return value


@dataclasses.dataclass
class Assembled:
    """What went into `records.jsonl`.

    Attributes:
      records: how many.
      items: items that gave them.
      left_out: items that gave none after all, by reason.
      tasks, domains: records by task and by domain.
      lengths: words of the texts of a record, one number a record.
      shown: ids of some records, spread over all.
    """

    records: int = 0
    items: int = 0
    left_out: Counter = dataclasses.field(default_factory=Counter)
    tasks: Counter = dataclasses.field(default_factory=Counter)
    domains: Counter = dataclasses.field(default_factory=Counter)
    lengths: list[int] = dataclasses.field(default_factory=list)
    shown: list[dict[str, Any]] = dataclasses.field(default_factory=list)


def assemble(
    recipe: Recipe,
    ids: Iterable[str],
    fates: Fates,
    out: Path,
    *,
    licence: str,
    nearness: float,
    show: int = 12,
) -> Assembled:
    """Writes `records.jsonl`, in the order of the ids whatever the order of their ending.

    Args:
      recipe: whose limits hold.
      ids: of all items.
      fates: what became of them.
      out: the folder of pictures and records.
      licence: of the records.
      nearness: share of a picture's hash that near-duplicates may differ in; negative keeps all.
      show: how many records are spread over all as examples.
    """
    found = Assembled()
    kept: list[tuple[str, list[str]]] = []
    pictures = Pictures(nearness)
    for name in ids:
        row = fates.get(name)
        if row is None or row["fate"] != "kept":
            continue
        if row["look"] and nearness >= 0 and pictures.seen(int(row["look"], 16)):
            found.left_out[ALIKE] += 1
        else:
            kept.append((name, row["kinds"]))
    chosen = [name for name, _ in _within(recipe, kept)]
    found.items = len(chosen)
    if len(kept) > len(chosen):
        found.left_out[ABOVE] = len(kept) - len(chosen)
    step = max(len(chosen) / show, 1.0)
    wanted = {chosen[int(n * step)] for n in range(show) if int(n * step) < len(chosen)}
    with atomic.replacing(out / RECORDS) as part, open(part, "w", encoding="utf-8") as file:
        for name in chosen:
            row = fates.get(name)
            for number, record in enumerate(row["records"]):
                record = {**record, "licence": licence, "provenance": row["parts"]}
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                found.records += 1
                found.tasks[record["task"]] += 1
                found.domains[str(record.get("domain") or "none")] += 1
                found.lengths.append(sum(len(text.split()) for text in _texts(record)))
                if name in wanted and number == 0:
                    found.shown.append(record)
    return found


def _within(recipe: Recipe, kept: list[tuple[str, list[str]]]) -> list[tuple[str, list[str]]]:
    """Items within every limit: of a kind with too many, the first ones."""
    for place, limit in enumerate(recipe.limit):
        while True:
            counts = Counter(kinds[place] for _, kinds in kept if kinds[place])
            if limit.by and len(counts) * limit.most < 1:
                break  # so few kinds cannot all keep below their share
            over = [kind for kind, n in counts.items() if n > limit.most * len(kept)]
            if not over:
                break
            others = len(kept) - sum(counts[kind] for kind in over)
            room = max(1 - limit.most * len(over), 1e-9)
            cap = int(limit.most * others / room)
            kept = _first(kept, place, over, cap)
            if not cap:
                break
    return kept


def _first(kept: list, place: int, over: list[str], cap: int) -> list:
    """All items but those of the kinds `over` beyond the first `cap` of each."""
    met: Counter = Counter()
    found = []
    for item in kept:
        kind = item[1][place]
        met[kind] += 1
        if kind not in over or met[kind] <= cap:
            found.append(item)
    return found


def look_of(records: list[Mapping[str, Any]], folder: Path) -> str:
    """The perceptual hash of the picture that records end in, "" where they have none."""
    found = [each for record in records for each in pictures_of(record)]
    return f"{picture_hash((folder / found[-1][1]).read_bytes()):x}" if found else ""


def moved(value: Any, folder: str) -> Any:
    """A record, or a part of one, whose pictures lie in a folder beneath its own."""
    if isinstance(value, str):
        return f"{folder}/{value}" if _PICTURE.match(value) else value
    if isinstance(value, list):
        return [moved(each, folder) for each in value]
    if isinstance(value, Mapping):
        return {key: moved(each, folder) for key, each in value.items()}
    return value


def pictures_of(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Pictures of a record in its order: (field, path beneath the folder)."""
    for name, value in record.items():
        if isinstance(value, str) and _PICTURE.match(value):
            yield prefix + name, value
        elif isinstance(value, list):
            for number, each in enumerate(value):
                if isinstance(each, Mapping):
                    yield from pictures_of(each, f"{prefix}{name} {number + 1}: ")
                elif isinstance(each, str) and _PICTURE.match(each):
                    yield f"{prefix}{name} {number + 1}", each


def _texts(value: Any, name: str = "") -> Iterator[str]:
    """Texts of a record that are trained on or read: no paths, names or provenance."""
    if isinstance(value, str):
        if name not in ("id", "task", "licence", "domain") and not _PICTURE.match(value):
            yield value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if key != "provenance":
                yield from _texts(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, name)
