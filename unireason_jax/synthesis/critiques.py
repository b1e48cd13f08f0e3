"""Drafts -> refinement records: draw, verify, repair, judge, keep or say why not."""

import collections
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from unireason_jax.storage import atomic
from unireason_jax.storage.journal import shared
from unireason_jax.synthesis.roles import Draft, Request, Roles, Unusable

RECORDS, JOURNAL, IMAGES = "records.jsonl", "journal.jsonl", "images"
KEPT, RIGHT, UNUSABLE, WORSE = "kept", "right", "unusable", "worse"


def criticise(
    requests: Sequence[Request],
    roles: Roles,
    folder: Path,
    *,
    settings: dict[str, Any],
    batch: int = 64,
    right_share: float = 0.3,
    progress: Callable[[int], None] = lambda count: None,
    process: tuple[int, int] = (0, 1),
    meet: Callable[[], None] = lambda: None,
) -> collections.Counter:
    """Makes refinement records of drafts; started again, it goes on where it stopped.

    The folder gets `journal.jsonl` (every request with its fate and reason), `images/`, and
    `records.jsonl`: raw examples of `refine_t2i` that a config's `data.extra.path` reads.

    Args:
      requests: what to draw.
      roles: who draws, verifies, repairs and judges.
      folder: new, or of an earlier run with the same settings.
      settings: what the drafts depend on; the journal refuses others.
      batch: requests drawn together; at most so much work is repeated after a crash.
      right_share: of the records, how many may be drafts that were right at once; the first ones
        in the order of the requests are taken.
      progress: called with the number of requests just finished.
      process: number of this process and how many share the requests; each has a journal of its
        own, and the first one writes the records.
      meet: waits until all processes have come here.

    Returns:
      Counts by fate, and the number of records under "records"; of the share alone, and no records,
      in a process that is not the first.

    Raises:
      ValueError: the folder belongs to other settings, or no draft gave a record.
    """
    number, processes = process
    name = JOURNAL.removesuffix(".jsonl")
    journal = shared(folder, name, settings, number)
    meet()  # nobody opens what another one writes
    mine = requests[number::processes]
    todo = [request for request in mine if request.id not in journal]
    progress(len(mine) - len(todo))
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        drafts = roles.generator(part)
        journal.add([_fate(request, draft, roles, folder) for request, draft in zip(part, drafts)])
        progress(len(part))
    meet()
    if number:
        return collections.Counter(journal.rows[request.id]["fate"] for request in mine)
    journal = shared(folder, name, settings, number)
    rows = [journal.rows[request.id] for request in requests]
    records = _chosen(rows, right_share)
    counts = collections.Counter(row["fate"] for row in rows)
    counts["records"] = len(records)
    if not records:
        reasons = collections.Counter(row.get("reason", row["fate"]) for row in rows)
        raise ValueError(f"{folder}: no draft gave a record; fates: {dict(reasons.most_common(5))}")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    atomic.write_text(folder / RECORDS, lines)
    return counts


def _fate(request: Request, draft: Draft, roles: Roles, folder: Path) -> dict[str, Any]:
    """The journal's row of a draft; its images are saved where there is a record.

    A draft is criticised with the plan it was drawn from in view, as it will be when sampling: what
    is wrong may be the plan. Without one the record has the plan that should have been.
    """
    row, image = {"key": request.id}, draft.image
    try:
        finding = roles.verifier(request, image)
        lesson = roles.teacher(request, image, finding)
    except Unusable as error:
        return row | {"fate": UNUSABLE, "reason": str(error)}
    refined = [step.image for step in lesson.rounds]
    if refined and not roles.judge(request, image, refined[-1]):
        return row | {"fate": WORSE, "reason": "the judge does not prefer the repaired picture"}
    names = [f"{IMAGES}/{request.id}_{number}.png" for number in range(1 + len(refined))]
    for name, picture in zip(names, [image, *refined]):
        with atomic.replacing(folder / name) as part:
            Image.fromarray(picture).save(part)
    record = {
        "task": "refine_t2i",
        "id": f"own-{request.id}",
        "prompt": request.prompt,
        "explanation": lesson.plan if draft.plan is None else draft.plan,
        "draft": names[0],
        "rounds": [
            {"reflection": step.reflection, "image": name}
            for step, name in zip(lesson.rounds, names[1:])
        ],
        "final_reflection": lesson.final_reflection,
    }
    fate = RIGHT if finding.passed else KEPT
    return row | {"fate": fate, "faults": list(finding.faults), "record": record}


def _chosen(rows: Sequence[dict[str, Any]], right_share: float) -> list[dict[str, Any]]:
    """Records in the order of the requests, right drafts only up to their share."""
    repaired = sum(row["fate"] == KEPT for row in rows)
    limit = int(repaired * right_share / (1 - right_share)) if right_share < 1 else len(rows)
    records, right = [], 0
    for row in rows:
        if "record" not in row:
            continue
        right += row["fate"] == RIGHT
        if row["fate"] == KEPT or right <= limit:
            records.append(row["record"])
    return records
