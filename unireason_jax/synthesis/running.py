"""A recipe from its name to its records: what `unireason synthesize --recipe` does."""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from unireason_jax.endpoints.background import finish
from unireason_jax.endpoints.billing import Bill
from unireason_jax.endpoints.calls import CALLS, PICTURES, CallJournal
from unireason_jax.evals.progress import Progress
from unireason_jax.storage import lock, paths
from unireason_jax.synthesis import account, assembly, engine, rehearsal
from unireason_jax.synthesis import configuration as configurations
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis import seeds as seeding
from unireason_jax.synthesis.configuration import Configuration
from unireason_jax.synthesis.recipe import Recipe
from unireason_jax.synthesis.seeds import Seeds


def prepared(
    name: str, config: Path, share: tuple[int, int], limit: int
) -> tuple[Recipe, Configuration, Seeds]:
    """Recipe, configuration and seeds; everything that can be wrong with them is found here.

    Raises:
      ValueError, FileNotFoundError: one line that names file, field and remedy.
    """
    recipe = recipes.load(recipes.folder_of(name))
    configuration = configurations.load(config, recipe)
    seeds = seeding.read(configuration, config.parent, recipe, share)
    if limit:
        seeds.beyond = max(len(seeds.items) - limit, 0)
        del seeds.items[limit:]
    if not seeds.items:
        why = ", ".join(f"{why} ({n})" for why, n in seeds.dropped.items()) or f"share {share}"
        raise ValueError(f"{config.parent / configuration.seeds}: no seed is left ({why}).")
    return recipe, configuration, seeds


def rehearse(recipe: Recipe, configuration: Configuration, seeds: Seeds, out: Path) -> str:
    """The dry run: asks every endpoint for its models, and nobody for anything that costs.

    Raises:
      ValueError, OSError: an endpoint, a model or the folder of which nothing can come.
    """
    _writable(out)
    silent = _models(configuration)
    lines = [rehearsal.told(recipe, configuration, seeds.items)]
    lines += [f"{url} lists no models; whether it has yours is not known" for url in silent]
    return "\n".join(lines)


@lock.alone("unireason synthesize", folder="out")
def run(recipe: Recipe, configuration: Configuration, seeds: Seeds, out: Path) -> Path:
    """Makes the records in a folder, going on where an earlier start stopped; returns the folder.

    Raises:
      ValueError, OSError: as `rehearse`; or the run had to stop, after the report was written.
    """
    _writable(out)
    _models(configuration)
    progress = Progress("synthesize", len(seeds.items), "items")
    work = finish(engine.work(recipe, configuration, seeds.items, out, progress))
    written(recipe, configuration, seeds, work, engine.bills(CallJournal(out)), out)
    if work.stopped:
        raise ValueError(f"stopped early: {work.stopped}; started again, it goes on from there.")
    if work.failed:
        print(f"{sum(work.failed.values())} items are left open; started again, they are tried.")
    return out


def written(
    recipe: Recipe,
    configuration: Configuration,
    seeds: Seeds,
    work: engine.Work,
    paid: Mapping[str, Bill],
    out: Path,
) -> Path:
    """Writes and tells records and report of items that were worked on; returns the folder."""
    made = assembly.assemble(
        recipe,
        [seed.id for seed in seeds.items],
        work.fates,
        out,
        licence=configuration.licence,
        nearness=configuration.nearness,
    )
    checked = len(configuration.benchmarks)
    print(account.write(recipe, seeds, work, made, paid, out, configuration.licence, checked))
    print(f"{made.records} records: {out / assembly.RECORDS}")
    return out


def copy(name: str, folder: Path) -> None:
    """Copies a shipped recipe to be changed. Raises ValueError where the folder is not new."""
    source = recipes.folder_of(name)
    if folder.exists():
        raise ValueError(f"{folder} is there already; name a new folder for the copy.")
    paths.copy_tree(source, folder)


def _models(configuration: Configuration) -> list[str]:
    """Checks endpoints and models. Raises ValueError. Returns addresses that list none."""

    async def check() -> list[str]:
        cast = configurations.roles(configuration, None)
        try:
            return await configurations.check_models(cast)
        finally:
            await asyncio.gather(*(role.close() for role in cast.values()))

    return finish(check())


def _writable(out: Path) -> None:
    """Raises OSError that names the folder where something of a run cannot be written into it."""
    if not paths.is_local(out):
        return  # a bucket tells with the first object
    place = out
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(20, "it is a file")
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise OSError(
            f"--out {out}: nothing can be written there ({os.strerror(error.errno)})"
        ) from None
    for name in (CALLS, assembly.RECORDS, account.REPORT, account.EXAMPLES):
        if (out / name).is_dir():
            raise OSError(f"--out {out}: '{name}' is a folder there; remove it, or name another")
    if (out / PICTURES).exists() and not (out / PICTURES).is_dir():
        raise OSError(f"--out {out}: '{PICTURES}' is no folder there; remove it, or name another")
