"""Shares of a recipe's items -> one set of records: what `--finish` does.

    out/share-i-of-n/     made by `--share i/n`, each with its own journals and pictures
    out/records.jsonl     of all shares; pictures are named where they lie, in the shares' folders
    out/report.md         of all shares

Limits and near-duplicates hold over all items in the order of the seeds, so that the records are
those of one run, whatever the number of shares.
"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unireason_jax.endpoints.billing import Bill
from unireason_jax.endpoints.calls import CallJournal
from unireason_jax.storage import lines, lock
from unireason_jax.storage.indexed import IndexedJournal
from unireason_jax.synthesis import assembly, engine, running
from unireason_jax.synthesis.configuration import Configuration
from unireason_jax.synthesis.recipe import Recipe
from unireason_jax.synthesis.seeds import Seeds

_FOLDER = re.compile(r"share-(\d+)-of-(\d+)")
_NAMED = 8


def folder_of(out: Path, number: int, total: int) -> Path:
    """Where a share is made; of one share in all, the folder itself."""
    return out / f"share-{number}-of-{total}" if total > 1 else out


@lock.alone("unireason synthesize --finish", folder="out")
def finish(recipe: Recipe, configuration: Configuration, seeds: Seeds, out: Path) -> Path:
    """Writes the records and the report of all shares of a folder; returns the folder.

    Args:
      recipe, configuration: those that the shares were made with.
      seeds: of all shares.
      out: the folder of the shares.

    Raises:
      ValueError: there are no shares, one is missing, or one was made with other settings.
      FolderBusy: a share is still being made.
    """
    folders = _shares(out)
    digest = configuration.digest(recipe)
    for folder in folders:
        if not lines.parts(engine.fates_file(folder, digest)):
            raise ValueError(
                f"{folder} was made with another recipe, other models or another seed, size or "
                "licence; give what it was made with, or make the share again."
            )
    with contextlib.ExitStack() as held:
        for folder in folders:
            held.enter_context(lock.hold(folder, "unireason synthesize --finish"))
        work = engine.Work(_Fates(folders, digest))
        return running.written(recipe, configuration, seeds, work, _paid(folders), out)


def _shares(out: Path) -> list[Path]:
    """Folders of all shares. Raises ValueError where one is missing."""
    found = {
        (int(name[1]), int(name[2])): folder
        for folder in (out.iterdir() if out.exists() else ())
        if (name := _FOLDER.fullmatch(folder.name))
    }
    totals = sorted({total for _, total in found})
    if not totals:
        raise ValueError(f"{out}: no shares are there; make them with --share i/n first.")
    if len(totals) > 1:
        raise ValueError(
            f"{out}: there are shares of {' and of '.join(map(str, totals))}; keep those of one "
            "number, and move the others away."
        )
    total = totals[0]
    missing = [f"{n}/{total}" for n in range(1, total + 1) if (n, total) not in found]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise ValueError(
            f"{out}: the shares {', '.join(missing[:_NAMED])}{more} are missing; make them with "
            "--share, then --finish."
        )
    return [found[share] for share in sorted(found)]


def _paid(folders: list[Path]) -> dict[str, Bill]:
    """What all shares have paid, by role."""
    found: dict[str, Bill] = {}
    for folder in folders:
        for name, bill in engine.bills(CallJournal(folder)).items():
            found.setdefault(name, Bill()).add(bill)
    return found


class _Fates:
    """Rows of finished items of all shares, their pictures named from the folder above."""

    def __init__(self, folders: list[Path], digest: str):
        settings = {"synthesis": digest}
        self._shares = [
            (folder.name, IndexedJournal(engine.fates_file(folder, digest), settings))
            for folder in folders
        ]

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The row of an item, None where no share has finished it."""
        for name, share in self._shares:
            if (row := share.get(key)) is not None:
                records = [assembly.moved(each, name) for each in row.get("records", ())]
                return {**row, "records": records}
        return None
