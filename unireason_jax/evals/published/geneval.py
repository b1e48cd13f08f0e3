"""GenEval from detections: composition, judged by boxes and colours (Ghosh et al. 2023).

The detector is not ours: it leaves a JSON file with what it saw in every image, and this is the
rule that turns it into verdicts. Score: the mean over tags of the share of right images.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Malformed, Question, Scored, Scores, Suite

SAMPLES = 4
THRESHOLD, COUNTING_THRESHOLD, MOST = 0.3, 0.9, 16
DEAD_ZONE, DIAGONAL = 0.1, 0.5
Detection = Mapping[str, Any]


def load(path: Path) -> list[Item]:
    """Items of JSON lines {tag, include: [{class, count, color?, position?}], exclude?, prompt}."""
    items = []
    for number, row in enumerate(base.read_rows(path)):
        base.field(path, number, row, "tag")
        for clause in base.field(path, number, row, "include", list):
            base.field(path, number, clause, "class")
            base.field(path, number, clause, "count", int)
        items.append(Item(f"{number:05d}", base.field(path, number, row, "prompt"), (), row))
    return base.checked(path, items)


def places(item: Item) -> tuple[str, ...]:
    """`{index}/samples/{sample}.png`, both of five digits."""
    return tuple(f"{item.id}/samples/{sample:05d}.png" for sample in range(SAMPLES))


def metadata(item: Item) -> dict[str, str]:
    """`{index}/metadata.jsonl`, which the official scorer reads."""
    return {f"{item.id}/metadata.jsonl": json.dumps(dict(item.raw))}


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """What the detector is asked: all objects, as a JSON list."""
    return [Question(f"{place}/objects", "objects", rubrics["objects"], (image,), item)]


RUBRICS = {
    "objects": (
        "List the objects in the picture as a JSON list of "
        '{"class": "...", "color": "...", "score": 0 to 1, "box": [left, top, right, bottom]}.'
    )
}


def read(question: Question, answer: str) -> Scores:
    """The verdict on a JSON list of detections."""
    answer = base.clean(answer)
    try:
        found = json.loads(answer[answer.find("[") : answer.rfind("]") + 1])
        return {"correct": float(verdict(question.item.raw, found))}
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Malformed(f"not a list of detections ({error}): {answer[:120]!r}") from None


def verdict(row: Mapping[str, Any], detections: Sequence[Detection]) -> bool:
    """Whether an image with these objects is what the row asks for.

    Args:
      row: with `include` and perhaps `exclude`.
      detections: {class, score, box [left, top, right, bottom], color}.
    """
    limit = COUNTING_THRESHOLD if row.get("tag") == "counting" else THRESHOLD
    seen: dict[str, list[Detection]] = {}
    for found in sorted(detections, key=lambda d: -d["score"]):
        if found["score"] > limit and len(seen.get(found["class"], ())) < MOST:
            seen.setdefault(found["class"], []).append(found)
    chosen = [seen.get(clause["class"], [])[: clause["count"]] for clause in row["include"]]
    right = True
    for clause, found in zip(row["include"], chosen):
        right &= len(found) == clause["count"] and _colors(clause, found)
        if "position" in clause:
            relation, target = clause["position"]
            right &= all(
                relation in relations(one["box"], other["box"])
                for one in found
                for other in chosen[target]
            )
    for clause in row.get("exclude", ()):
        right &= len(seen.get(clause["class"], ())) < clause["count"]
    return right


def relations(box: Sequence[float], target: Sequence[float]) -> set[str]:
    """Where a box lies from another: left of, right of, above, below; two on a diagonal."""
    (one, size), (two, other) = _centre(box), _centre(target)
    offset = one - two
    beyond = np.maximum(np.abs(offset) - DEAD_ZONE * (size + other), 0) * np.sign(offset)
    if np.all(np.abs(beyond) < 1e-3):
        return set()
    across, down = beyond / np.linalg.norm(offset)
    found = {"left of": across < -DIAGONAL, "right of": across > DIAGONAL}
    found |= {"above": down < -DIAGONAL, "below": down > DIAGONAL}
    return {name for name, holds in found.items() if holds}


def read_detections(path: Path, items: Sequence[Item]) -> list[Scored]:
    """Verdicts on all images of a detector's file {relative image path: [detection, ...]}.

    Images that the file does not name are missing, not wrong.

    Raises:
      FileNotFoundError, ValueError: no such file, or an entry that is no list of detections.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of detections.")
    try:
        found, scored = json.loads(path.read_text("utf-8")), []
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}).") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path}: give an object {{image: [detection, ...]}}.")
    for item in items:
        for place in places(item):
            if place not in found:
                continue
            try:
                right = verdict(item.raw, found[place])
            except (ValueError, KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"{path}, '{place}': not a list of detections ({error})."
                ) from None
            scored.append(Scored(item, place, {"objects": {"correct": float(right)}}))
    return scored


def aggregate(scored: Sequence[Scored]) -> Scores:
    """Mean of tags, share of right images and of prompts with only right images; then the tags."""
    tags = {t: base.mean(map(_correct, each)) for t, each in base.by_group(scored, _tag).items()}
    prompts = base.by_group(scored, lambda item: item.id).values()
    return {
        "overall, mean of tags": base.mean(tags.values()),
        "right images": base.mean(map(_correct, scored)),
        "prompts with all images right": base.mean(min(map(_correct, each)) for each in prompts),
    } | tags


def _colors(clause: Mapping[str, Any], chosen: Sequence[Detection]) -> bool:
    wanted = clause.get("color")
    return wanted is None or all(found.get("color") == wanted for found in chosen)


def _centre(box: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Centre and size of a box."""
    low, high = np.asarray(box[:2], float), np.asarray(box[2:4], float)
    return (low + high) / 2, high - low


def _correct(image: Scored) -> float:
    return image.scores["objects"]["correct"]


def _tag(item: Item) -> str:
    return str(item.raw["tag"])


SUITE = Suite(
    "geneval",
    "Mask2Former + CLIP",
    load,
    places,
    questions,
    read,
    _tag,
    aggregate,
    RUBRICS,
    metadata,
    measured=read_detections,
    best=1,
)
