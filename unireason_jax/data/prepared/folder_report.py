"""What a prepared folder holds, in a few lines: counts, advice for a row, what was set aside."""

from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.packing.budget_advice import advise_budgets
from unireason_jax.data.prepared import shards
from unireason_jax.data.prepared.record_conversion import LYING
from unireason_jax.data.quarantine import brief
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.storage import arrays

_LOUD = 0.2  # part of the records in quarantine from which on that line is loud
_NAMED = 3  # long records that are named


def account(folder: Path, manifest: dict[str, Any], tokens: int) -> str:
    """What a prepared folder holds, and the budgets that a row of `tokens` tokens should have."""
    table = arrays.read(folder / shards.LENGTHS)
    totals = manifest["tokens"]
    kinds = ", ".join(
        f"{n} {name.split()[1]}" for name, n in manifest["counts"].items() if "template" in name
    )
    numbers = ", ".join(f"{count:,} {name}" for name, count in totals.items())
    und, gen = totals["text"] + totals["vit"], totals["latent"]
    return "\n".join(
        [
            f"{len(table)} records ({kinds}) in {len(manifest['shards'])} shards of {folder}, "
            f"{manifest['bytes'] / 2**20:.1f} MiB",
            f"{numbers} tokens at the sizes of '{manifest['sizes']}', "
            f"und:gen {und / gen if gen else float('inf'):.3f}",
            *_advice(folder, table, tokens),
            *_lying(manifest["counts"].get(LYING, 0)),
            _set_aside(folder, manifest),
        ]
    )


def _advice(folder: Path, table: np.ndarray, tokens: int) -> list[str]:
    """The advised budgets, and by name the records that are too long for them or stretch them."""
    advice, source = advise_budgets(table, tokens), ArrayRecordSource(folder)
    lines = [f"advice: {advice}"]

    def told(record: int) -> str:
        sizes = ", ".join(f"{n:,} {stream}" for n, stream in zip(table[record], shards.STREAMS))
        return f"'{brief(source[record].id)}' ({sizes} tokens)"

    if len(advice.left_out):
        names = ", ".join(map(told, advice.left_out[:_NAMED].tolist()))
        more = len(advice.left_out) - _NAMED
        lines.append(
            f"longer than that row and set aside by training: {names}"
            + (f" and {more} more" if more > 0 else "")
        )
    if advice.longest is not None:
        lines.append(
            f"the row is so long for record {told(advice.longest)}, where the median record has "
            f"{np.sort(table.sum(1))[(len(table) - 1) // 2]:,}; leave it out for shorter rows"
        )
    return lines


def _lying(count: int) -> list[str]:
    """A line about photographs whose EXIF turns them."""
    return [f"{count} records have pictures that EXIF turns; --upright keeps them turned"][:count]


def _set_aside(folder: Path, manifest: dict[str, Any]) -> str:
    bad = manifest["quarantined"]
    if not bad:
        return "no record quarantined"
    share = bad / (bad + manifest["records"])
    loud = f"WARNING: {share:.0%} of the input cannot be used: " if share > _LOUD else ""
    return (
        f"{loud}{bad} records quarantined: {manifest['reasons']}; every reason is in "
        f"{folder / shards.QUARANTINE}"
    )
