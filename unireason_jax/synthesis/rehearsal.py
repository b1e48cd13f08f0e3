"""What a run would ask and cost, before anybody is paid: the dry run."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from unireason_jax.endpoints.billing import Sent, tokens
from unireason_jax.endpoints.role import cost_of
from unireason_jax.synthesis.configuration import Configuration
from unireason_jax.synthesis.recipe import Recipe, Stage
from unireason_jax.synthesis.seeds import Seed
from unireason_jax.synthesis.wording import fields_of, fill, look_up

_WRITTEN = 300  # tokens of an answer, as a guess
_CALL_SECONDS = {"draw": 12.0, "edit": 15.0}  # of a 1024 x 1024 picture on one H100
_CHAT_SECONDS = 6.0


class Line(NamedTuple):
    """Calls of a stage for one item, at most; tokens, cost and seconds are those of one call."""

    stage: str
    role: str
    calls: int
    read: int
    written: int
    cost: float
    seconds: float


def estimate(recipe: Recipe, configuration: Configuration, words: Mapping[str, str]) -> list[Line]:
    """Lines of all stages that call, if no item is dropped on the way and all rounds are played."""
    return [
        _line(stage, times, configuration, words.get(stage.name, ""))
        for stage, times in _calling(recipe.stage, 1)
    ]


def _calling(stages: Sequence[Stage], times: int) -> Iterator[tuple[Stage, int]]:
    for stage in stages:
        if stage.kind == "rounds":
            inside = times * (4 if stage.over else stage.most)
            yield from _calling(stage.body, inside)
        elif stage.role:
            yield stage, times * (2 if stage.kind == "compare" else 1)


def _line(stage: Stage, calls: int, configuration: Configuration, words: str) -> Line:
    endpoint = configuration.roles[stage.role].endpoints[0]
    pictures = len(stage.images) or 2 * (stage.kind == "compare")
    read, _ = tokens(None, Sent(len(words.encode()), pictures), 0)
    drawn = stage.kind in ("draw", "edit")
    written = 0 if drawn else _WRITTEN
    cost = cost_of(endpoint, read, written, int(drawn))
    seconds = _CALL_SECONDS.get(stage.kind, _CHAT_SECONDS)
    return Line(stage.name, stage.role, calls, read, written, cost, seconds)


def first_prompts(recipe: Recipe, seed: Seed) -> dict[str, str]:
    """The words of every stage for one seed; what only answers will say stands as <name>."""
    found = {}
    for stage in recipe.stages():
        if stage.prompt:
            values: dict[str, Any] = {}
            for path in fields_of(stage.prompt):
                try:
                    value = look_up({**seed.values, "id": seed.id}, path)
                except KeyError:
                    value = f"<{path}>"
                _put(values, path, value)
            found[stage.name] = fill(stage.prompt, values)
    return found


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        inner = values.get(name)
        values[name] = values = inner if isinstance(inner, dict) else {}
    values[last] = value


def told(recipe: Recipe, configuration: Configuration, items: Sequence[Seed]) -> str:
    """The dry run's text: first prompts, then calls, tokens, cost and hours."""
    words = first_prompts(recipe, items[0])
    lines = []
    for stage in recipe.stages():
        if stage.name in words:
            pictures = ", ".join(stage.images or [p for p in (stage.before, stage.after) if p])
            lines += [f"--- {stage.name} ({stage.kind}, role {stage.role})"]
            lines += [words[stage.name], *([f"[pictures: {pictures}]"] if pictures else []), ""]
    count, total, by_role = len(items), 0.0, {}
    lines += ["stage            role         calls       tokens      cost"]
    for line in estimate(recipe, configuration, words):
        calls, each = line.calls * count, line.read + line.written
        total += line.cost * calls
        seconds, many = by_role.get(line.role, (0.0, 0))
        by_role[line.role] = seconds + calls * line.seconds, many + calls
        lines.append(
            f"{line.stage:16} {line.role:12} {calls:9,} {calls * each:12,} {line.cost * calls:9.2f}"
        )
    lines += [f"{count:,} items, at most {total:,.2f} if none is dropped and all rounds are played"]
    lines += [f"hours by role: {_hours(configuration, by_role)}"]
    return "\n".join(lines)


def _hours(configuration: Configuration, by_role: Mapping[str, tuple[float, int]]) -> str:
    """Hours of every role at its concurrency and pace, with guessed seconds of a call."""
    told = []
    for name, (seconds, calls) in by_role.items():
        endpoints = configuration.roles[name].endpoints
        hours = seconds / sum(e.concurrency for e in endpoints) / 3600
        paces = [endpoint.per_minute for endpoint in endpoints]
        if all(paces):
            hours = max(hours, calls / sum(paces) / 60)
        told.append(f"{name} {hours:.1f}")
    return ", ".join(told)
