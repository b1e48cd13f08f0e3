"""The report of a synthesis: what became of every seed, what it cost, and how it looks."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.endpoints.billing import Bill
from unireason_jax.pictures.strips import Note, Panel, contact_sheet, strip
from unireason_jax.storage import atomic
from unireason_jax.synthesis.assembly import Assembled, pictures_of
from unireason_jax.synthesis.engine import KEPT, Work
from unireason_jax.synthesis.recipe import Recipe
from unireason_jax.synthesis.seeds import Seeds

REPORT, EXAMPLES = "report.md", "examples.png"


def fates_of(ids: Iterable[str], work: Work) -> tuple[Counter, Counter, float]:
    """Items by fate, dropped items by (stage, reason), and what all of them cost."""
    fates: Counter = Counter()
    reasons: Counter = Counter()
    cost = 0.0
    for name in ids:
        row = work.fates.get(name)
        fates[row["fate"] if row else "open"] += 1
        if row:
            cost += row["cost"]
            if row["fate"] != KEPT:
                reasons[row["stage"], row["reason"]] += 1
    return fates, reasons, cost


def write(
    recipe: Recipe,
    seeds: Seeds,
    work: Work,
    made: Assembled,
    paid: Mapping[str, Bill],
    out: Path,
    licence: str,
    checked: int,
) -> str:
    """Writes `report.md` and `examples.png`; returns the report's text."""
    ids = [seed.id for seed in seeds.items]
    fates, reasons, cost = fates_of(ids, work)
    lines = [f"# {recipe.name}", "", recipe.about, ""]
    lines += [f"{made.records} records of {made.items} items; licence: {licence}.", ""]
    if work.stopped:
        lines += [f"**Stopped early:** {work.stopped}. Started again, it goes on from here.", ""]
    if not checked:
        lines += ["No prompts of benchmarks were given, so overlap with them was **not** checked."]
        lines += [""]
    lines += ["## Fates", "", "| what | count |", "|---|---|", f"| rows of seeds | {seeds.rows} |"]
    lines += [f"| row left out: {why} | {n} |" for why, n in sorted(seeds.dropped.items())]
    lines += [f"| rows of other shares | {seeds.elsewhere} |"] if seeds.elsewhere else []
    lines += [f"| items beyond the limit | {seeds.beyond} |"] if seeds.beyond else []
    lines += [f"| **items** | {len(ids)} |"]
    lines += [
        f"| dropped at `{stage}`: {reason} | {n} |"
        for (stage, reason), n in sorted(reasons.items(), key=lambda each: -each[1])
    ]
    if fates["open"]:
        lines += [f"| left open: an endpoint failed, or not begun | {fates['open']} |"]
    lines += [f"| left out: {why} | {n} |" for why, n in sorted(made.left_out.items())]
    lines += [f"| **items in the records** | {made.items} |", ""]
    if work.failed:
        kinds = ", ".join(f"{kind} ({n})" for kind, n in work.failed.most_common())
        lines += [f"Failures of endpoints in this start: {kinds}.", ""]
    lines += _bill(paid, work, cost, made)
    lines += _table("Records", made.tasks, made.records)
    if set(made.domains) != {"none"}:
        lines += _table("Domains", made.domains, made.records)
    if made.lengths:
        low, middle, high = np.percentile(made.lengths, (5, 50, 95))
        lines += [
            f"Words of a record's texts: mean {statistics.fmean(made.lengths):.0f}; of all, 5 % "
            f"have at most {low:.0f}, half {middle:.0f}, 95 % {high:.0f}.",
            "",
        ]
    if made.shown:
        _draw(made.shown, out)
        lines += [f"![{len(made.shown)} records]({EXAMPLES})", ""]
    text = "\n".join(lines)
    atomic.write_text(out / REPORT, text)
    return text


def _bill(paid: Mapping[str, Bill], work: Work, cost: float, made: Assembled) -> list[str]:
    lines = ["## Bill", "", "Of all starts; retries, failures and cached calls of this one.", ""]
    lines += [
        "| role | calls | tokens read | written | pictures | cost | retries | failed | cached |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for name in {**work.bills, **paid}:
        bill, now = paid.get(name, Bill()), work.bills.get(name, Bill())
        lines.append(
            f"| {name} | {bill.calls} | {bill.read} | {bill.written} | {bill.images} | "
            f"{bill.cost:.4f} | {now.retries} | {now.failures} | {now.cached} |"
        )
    total = sum(bill.cost for bill in paid.values())
    each = f", {total / made.records:.5f} a record" if made.records else ""
    return [*lines, "", f"Paid: {total:.4f}{each}; for items that are finished: {cost:.4f}.", ""]


def _table(title: str, counts: Counter, total: int) -> list[str]:
    rows = [f"| {name} | {n} | {n / total:.1%} |" for name, n in counts.most_common()]
    return [f"## {title}", "", f"| {title.lower()} | count | share |", "|---|---|---|", *rows, ""]


def _draw(records: list[dict[str, Any]], out: Path) -> None:
    """Draws some records, picture by picture, into examples.png."""
    strips = []
    for record in records:
        panels = []
        for name, path in pictures_of(record):
            with Image.open(out / path) as found:
                pixels = np.asarray(found.convert("RGB"))
            panels.append(Panel(name, pixels, tuple(_notes(record, name))))
        title = str(record.get("prompt") or record.get("instruction") or record["id"])
        plan = str(record.get("explanation") or record.get("think") or "")
        strips.append(strip(title[:200], panels, subtitle=plan[:300]))
    with atomic.replacing(out / EXAMPLES) as part:
        contact_sheet(strips, columns=2).save(part)


def _notes(record: Mapping[str, Any], name: str) -> Iterable[Note]:
    """What is said at a picture: texts of the same round, else the record's last words."""
    field, _, inner = name.partition(" ")
    if not inner:
        return
    round_ = record[field][int(inner.split(":")[0]) - 1]
    if isinstance(round_, Mapping):
        for key, text in round_.items():
            if isinstance(text, str) and not text.startswith("pictures/"):
                yield Note("reflection", f"{key}: {text}"[:300])
