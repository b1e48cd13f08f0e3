"""Walks one item through the stages of a recipe."""

import asyncio
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from unireason_jax.endpoints import chat, drawing
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.endpoints.pictures import opened
from unireason_jax.endpoints.role import Answer, Role
from unireason_jax.evals.published.base import Malformed
from unireason_jax.synthesis import tars
from unireason_jax.synthesis.programs import PROGRAMS, Rejected
from unireason_jax.synthesis.recipe import Condition, Recipe, Stage
from unireason_jax.synthesis.seeds import Seed
from unireason_jax.synthesis.shapes import Shape
from unireason_jax.synthesis.wording import fill, look_up

_AGAIN = "That cannot be used: {error}. Answer again, with JSON of the shape asked for and no more."
_SHAPE = "Answer with one JSON object of this shape and nothing else:\n{{\n{shape}\n}}"
_FIRST, _SECOND, _TIE = "first", "second", "tie"
_WINNER = {"winner": f"{_FIRST} | {_SECOND} | {_TIE}", "reason": "text?"}


class Kept(str):
    """The name of a picture in the journal of calls."""


@dataclasses.dataclass
class Item:
    """What is known of an item so far.

    Attributes:
      seed: what it began with.
      values: results of stages by name; a picture is its name in the journal.
      parts: who made what: part, role, model, endpoint, prompt (a hash), call, cost.
      lost: paid for answers of no use.
    """

    seed: Seed
    values: dict[str, Any]
    parts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    lost: float = 0.0

    @property
    def cost(self) -> float:
        """What it cost; a call that made several parts was paid once."""
        return self.lost + sum({part["call"]: part["cost"] for part in self.parts}.values())


class Dropped(Exception):
    """The end of an item that gives no record: stage, reason, and what it cost all the same."""

    def __init__(self, stage: str, reason: str, cost: float):
        super().__init__(f"{stage}: {reason}")
        self.stage, self.reason, self.cost = stage, reason, cost


class _Left(Exception):
    pass


class Player:
    """Plays a recipe with a cast.

    Args:
      recipe: the stages.
      cast: roles by name.
      journal: where pictures lie.
      seed: of everything drawn by lot.
      size: (width, height) of pictures; None for any.
    """

    def __init__(
        self,
        recipe: Recipe,
        cast: Mapping[str, Role],
        journal: CallJournal,
        *,
        seed: int = 0,
        size: tuple[int, int] | None = None,
    ):
        self.recipe, self.cast, self.journal = recipe, cast, journal
        self.seed, self.size = seed, size
        self._shapes = {
            stage.name: Shape(stage.name, stage.answer or _WINNER)
            for stage in recipe.stages()
            if stage.answer or stage.kind == "compare"
        }

    async def play(self, seed: Seed) -> Item:
        """The item at its end.

        Raises:
          Dropped: it gives no record.
          CallFailure: an endpoint failed; the item can be tried again later.
        """
        item = Item(seed, {**seed.values, "id": seed.id})
        for name, kind in self.recipe.inputs.items():
            value = seed.values[name]
            if kind == "picture":
                item.values[name] = await self._kept(value)
            elif kind == "steps":
                item.values[name] = [
                    {**step, "image": await self._kept(step["image"])} for step in value
                ]
        await self._walk(self.recipe.stage, item, "")
        return item

    async def _kept(self, path: str) -> Kept:
        """A picture of the seeds, laid beside those that come back."""
        try:
            data = await asyncio.to_thread(tars.read, path)
            opened(data)
        except (OSError, CallFailure):
            raise Dropped("seeds", "a picture that cannot be read", 0.0) from None
        return Kept(await self.journal.keep(data))

    async def _walk(self, stages: Sequence[Stage], item: Item, prefix: str) -> None:
        for stage in stages:
            if stage.only and unmet(stage.only, item.values):
                item.values[stage.name] = None
                continue
            try:
                found = await self._stage(stage, item, prefix + stage.name)
            except Rejected as error:
                raise Dropped(stage.name, str(error), item.cost) from None
            except KeyError as error:
                raise Dropped(stage.name, f"no value {error}", item.cost) from None
            except CallFailure as error:
                item.lost += error.cost
                if error.kind == "refusal" or (error.kind == "server" and not error.again):
                    kind = "refused" if error.kind == "refusal" else "an answer of no use"
                    raise Dropped(stage.name, kind, item.cost) from None
                error.add_note(stage.name)
                raise
            if found is not None:
                item.values[stage.name] = found

    async def _stage(self, stage: Stage, item: Item, part: str) -> Any:
        if stage.kind == "ask":
            return await self._ask(stage, item, part)
        if stage.kind in ("draw", "edit"):
            return await self._draw(stage, item, part)
        if stage.kind == "compare":
            return await self._compare(stage, item, part)
        if stage.kind == "rounds":
            return await self._rounds(stage, item, part)
        if stage.kind == "program":
            given = [look_up(item.values, path) for path in stage.values]
            return PROGRAMS[stage.run].call(*given)
        short = unmet(stage.when, item.values)
        if stage.kind == "leave" and not short:
            raise _Left
        if stage.kind == "gate" and short:
            raise Rejected(short)
        return None

    async def _rounds(self, stage: Stage, item: Item, part: str) -> list[dict[str, Any]]:
        """Plays the body again and again; the list of what whole rounds have made."""
        values, made = item.values, []
        turns = look_up(values, stage.over) if stage.over else range(stage.most + 1)
        values |= {
            name: look_up(values, path) if path else None for name, path in stage.start.items()
        }
        names = [each.name for each in stage.body]
        leaves = [n for n, each in enumerate(stage.body, 1) if each.kind == "leave"]
        for number, turn in enumerate(turns):
            last = not stage.over and number == stage.most
            if stage.over:
                values["item"] = turn
            try:
                # after the last round only whether it is done is asked
                await self._walk(
                    stage.body[: leaves[-1] if last else None], item, f"{part}.{number}."
                )
            except _Left:
                return made
            if last:
                raise Rejected(f"not done after {stage.most} rounds")
            made.append({name: values[name] for name in [*names, *stage.start] if name in values})
            if stage.over:
                made[-1]["item"] = turn
            values |= {name: look_up(values, path) for name, path in stage.next.items()}
        return made

    async def _ask(self, stage: Stage, item: Item, part: str) -> Any:
        if stage.given and (found := look_up(item.values, stage.given)) is not None:
            return found
        words = fill(stage.prompt, item.values)
        shape = self._shapes.get(stage.name)
        names = [name for path in stage.images for name in _names(look_up(item.values, path))]
        return await self._answer(stage, item, part, words, names, shape)

    async def _compare(self, stage: Stage, item: Item, part: str) -> dict[str, str]:
        """Asks in both orders; whoever does not win both has not won."""
        words = fill(stage.prompt, item.values)
        before, after = (look_up(item.values, path) for path in (stage.before, stage.after))
        shown = [name for path in stage.images for name in _names(look_up(item.values, path))]
        shape, said = self._shapes[stage.name], []
        for order, names in enumerate(((before, after), (after, before))):
            pictures = [*shown, *names]
            found = await self._answer(stage, item, f"{part}.{order}", words, pictures, shape)
            said.append(found["winner"])
        if said == [_FIRST, _SECOND]:
            return {"winner": "before"}
        if said == [_SECOND, _FIRST]:
            return {"winner": "after"}
        return {"winner": "tie" if said == [_TIE, _TIE] else "split"}

    async def _answer(
        self,
        stage: Stage,
        item: Item,
        part: str,
        words: str,
        names: Sequence[str],
        shape: Shape | None,
    ) -> Any:
        """A readable answer, asked for again with what was wrong with the last one."""
        pictures = [await self.journal.picture(name) for name in names]
        if shape:
            words = f"{words}\n\n" + _SHAPE.format(shape=shape.words())
        messages = chat.messages(words, pictures)
        request: dict[str, Any] = {"messages": messages, "max_tokens": stage.max_tokens}
        request |= {"temperature": stage.temperature}
        if stage.temperature:
            request["seed"] = self._lot(item, part)
        if shape:
            request["response_format"] = shape.response_format()
        for attempt in range(stage.attempts):
            try:
                answer = await self.cast[stage.role].chat(request, attempt)
            except CallFailure as error:
                if error.kind != "server" or error.again:
                    raise
                item.lost += error.cost
                continue  # no message, or one of another form
            self._note(stage, item, part, words, answer)
            if shape is None:
                return answer.text.strip()
            try:
                return shape.read(answer.text)
            except Malformed as error:
                wrong = str(error)
                again = [
                    {"role": "assistant", "content": answer.text},
                    {"role": "user", "content": _AGAIN.format(error=wrong)},
                ]
                request = {**request, "messages": [*request["messages"], *again]}
        raise Rejected("malformed answer")

    async def _draw(self, stage: Stage, item: Item, part: str) -> Kept:
        words = fill(stage.prompt, item.values)
        names = [name for path in stage.images for name in _names(look_up(item.values, path))]
        pictures = [await self.journal.picture(name) for name in names]
        for attempt in range(stage.attempts):
            lot = self._lot(item, f"{part} {attempt}" if attempt else part)
            request = drawing.Request(words, tuple(pictures), self.size, lot)
            role = self.cast[stage.role]
            call = role.edit if pictures else role.generate
            try:
                answer = await call(request, attempt)
            except CallFailure as error:
                if error.kind != "server" or error.again:
                    raise
                item.lost += error.cost
                continue  # no picture, or one of another size
            self._note(stage, item, part, words, answer)
            return Kept(await self.journal.keep(answer.pictures[0]))
        raise Rejected("no picture of the right size")

    def _note(self, stage: Stage, item: Item, part: str, words: str, answer: Answer) -> None:
        item.parts.append(
            {
                "part": part,
                "role": stage.role,
                "model": answer.model,
                "endpoint": answer.endpoint,
                "prompt": hashlib.sha256(words.encode()).hexdigest()[:16],
                "call": answer.key[:16],
                "cost": round(answer.cost, 9),
            }
        )

    def _lot(self, item: Item, part: str) -> int:
        """A seed for a call, the same whatever else is going on."""
        name = f"{self.seed} {item.seed.id} {part}"
        word = hashlib.blake2b(name.encode(), digest_size=4).digest()
        return int.from_bytes(word, "big") >> 1


def _names(value: Any) -> list[str]:
    """Pictures that a value names: one, none yet, or those of all steps."""
    if isinstance(value, list):
        return [step["image"] for step in value]
    return [] if value is None else [value]


def unmet(when: Condition, values: Mapping[str, Any]) -> str:
    """The first condition that does not hold, in words; "" where all do."""
    for path, wanted in when.items():
        found = look_up(values, path)
        if isinstance(wanted, bool):
            good, words = found is wanted, f"{path} is {str(found).lower()}"
        elif isinstance(wanted, int | float):
            good, words = found >= wanted, f"{path} is {found}, not at least {wanted:g}"
        else:
            good = found in (wanted if isinstance(wanted, list) else [wanted])
            words = f"{path} is {found}"
        if not good:
            return words
    return ""
