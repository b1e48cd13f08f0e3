"""Many items at a time through a recipe; each fate is on the disk before the next item begins.

    out/calls.jsonl      every finished call by its content, so that none is paid for twice
    out/pictures/        every picture that came back, by its content
    out/fates.ID.jsonl   what became of every item, for one state of recipe and models

Endpoints that fail leave an item open: started again, the command takes it up where it stopped.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from unireason_jax.endpoints.billing import Bill
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.endpoints.failures import CallFailure
from unireason_jax.storage.indexed import IndexedJournal
from unireason_jax.synthesis import assembly
from unireason_jax.synthesis.assembly import Fates
from unireason_jax.synthesis.configuration import Configuration, roles
from unireason_jax.synthesis.player import Dropped, Player
from unireason_jax.synthesis.recipe import Recipe
from unireason_jax.synthesis.seeds import Seed

KEPT, DROPPED = "kept", "dropped"
_HOPELESS = 30  # failures in a row after which nobody expects the next call to succeed
_FATAL = (401, 403, 404)


@dataclasses.dataclass
class Work:
    """How a run went.

    Attributes:
      fates: rows {key, fate, stage, reason, cost, records, parts} of finished items, by `get`.
      failed: items left open, by stage and kind of failure.
      stopped: why the run ended early, "" where it did not.
      bills: of this run by role.
    """

    fates: Fates
    failed: Counter = dataclasses.field(default_factory=Counter)
    stopped: str = ""
    bills: Mapping[str, Bill] = dataclasses.field(default_factory=dict)


def fates_file(out: Path, digest: str) -> Path:
    """The journal of fates for one state of recipe and models (`Configuration.digest`)."""
    return out / f"fates.{digest}.jsonl"


async def work(
    recipe: Recipe,
    configuration: Configuration,
    items: list[Seed],
    out: Path,
    progress: Callable[[int], None] = lambda count: None,
) -> Work:
    """Takes all items through the recipe.

    Raises:
      ValueError: a key's variable is not set, or a file of the folder is no journal.
    """
    journal = CallJournal(out)
    cast = roles(configuration, journal)
    for name, bill in bills(journal).items():
        if name in cast:  # a budget is that of all starts together
            cast[name].budget.settle((0.0, 0), bill.cost, bill.read + bill.written)
    digest = configuration.digest(recipe)
    found = Work(IndexedJournal(fates_file(out, digest), {"synthesis": digest}))
    player = Player(recipe, cast, journal, seed=configuration.seed, size=configuration.size)
    left = [item for item in items if item.id not in found.fates]
    progress(len(items) - len(left))
    try:
        await _all(player, iter(left), found, configuration.workers(), progress)
    finally:
        await asyncio.gather(*(role.close() for role in cast.values()))
    found.bills = {name: role.bill for name, role in cast.items()}
    return found


async def _all(
    player: Player,
    left: Iterator[Seed],
    found: Work,
    workers: int,
    progress: Callable[[int], None],
) -> None:
    """Workers that take the next item each; so many items are in memory and no more."""
    state = {"in a row": 0}

    async def worker() -> None:
        for seed in left:
            if found.stopped:
                return
            try:
                row = await _fate(player, seed)
            except CallFailure as error:
                stage = (getattr(error, "__notes__", None) or [""])[0]
                found.failed[f"{stage}: {error.kind}"] += 1
                state["in a row"] += 1
                if error.kind == "budget" or error.status in _FATAL:
                    found.stopped = found.stopped or f"stage '{stage}': {error}"
                elif state["in a row"] >= _HOPELESS:
                    found.stopped = found.stopped or (
                        f"{_HOPELESS} items in a row failed, the last at '{stage}': {error}"
                    )
                continue
            state["in a row"] = 0
            await asyncio.to_thread(found.fates.add, [row])
            progress(1)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(worker())
    except ExceptionGroup as errors:  # a full disk ends all workers; the first says why
        raise errors.exceptions[0] from None


async def _fate(player: Player, seed: Seed) -> dict[str, Any]:
    """The row of an item. Raises CallFailure where an endpoint failed."""
    try:
        item = await player.play(seed)
    except Dropped as end:
        return {
            "key": seed.id,
            "fate": DROPPED,
            "stage": end.stage,
            "reason": end.reason,
            "cost": end.cost,
        }
    records = assembly.records_of(player.recipe, item)
    if not records:
        reason = "no kind of record fits"
        return {
            "key": seed.id,
            "fate": DROPPED,
            "stage": "record",
            "reason": reason,
            "cost": item.cost,
        }
    look = await asyncio.to_thread(assembly.look_of, records, player.journal.folder)
    return {
        "key": seed.id,
        "fate": KEPT,
        "cost": item.cost,
        "records": records,
        "kinds": assembly.kinds_of(player.recipe, item),
        "look": look,
        "parts": item.parts,
    }


def bills(journal: CallJournal) -> dict[str, Bill]:
    """What all starts have paid, by role."""
    found: dict[str, Bill] = {}
    for row in journal.rows():
        bill = found.setdefault(row["role"], Bill())
        images = len(row.get("images", ()))
        bill.add(Bill(1, 0, 0, 0, row["read"], row["written"], images, row["cost"]))
    return found
