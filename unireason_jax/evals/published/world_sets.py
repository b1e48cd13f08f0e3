"""The world's prompt sets, written once by seed, in the formats of the public benchmarks.

All texts are held out from training. Every item carries the truth under `world`, which the program
judge reads and nobody else. `VERSION` names the contents: the same version and seed give the same
texts and pixels everywhere, and the manifest's key says so.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.evals.world.exam import Example, requests
from unireason_jax.storage import atomic, lock
from unireason_jax.world import instructions, knowledge, prompts, questions
from unireason_jax.world.language import noun, phrase, plan_text
from unireason_jax.world.requirements import Want, geneval_record
from unireason_jax.world.scenes import SIDE
from unireason_jax.world.tasks import PROCESS_TAGS

VERSION = 3
COUNTS = {
    "geneval": 60,
    "wise": 40,
    "edits": 20,
    "refinement": 120,
    "process": 20,
    "vqa": 15,
    "tiif": 20,
    "dpg": 40,
}
KRIS_TYPES = {
    "add": "count_change",
    "remove": "count_change",
    "recolour": "color_change",
    "reshape": "part_completion",
    "resize": "size_adjustment",
    "move": "position_movement",
    "swap": "multi-instruction_execution",
    "fall": "physics",
    "mirror": "rule-based_reasoning",
}


class _Writer:
    """A folder of texts and pictures with a key of their contents."""

    def __init__(self, folder: Path):
        self.folder, self.digests = folder, {}
        self._pixels = hashlib.sha256()

    def text(self, name: str, text: str) -> None:
        """Writes a text file and notes its hash."""
        atomic.write_text(self.folder / name, text)
        self.digests[name] = hashlib.sha256(text.encode()).hexdigest()

    def picture(self, name: str, image: np.ndarray) -> str:
        """Writes a picture under images/ and returns its path."""
        with atomic.replacing(self.folder / "images" / f"{name}.png", durable=False) as part:
            Image.fromarray(image).save(part)
        self._pixels.update(image.tobytes())
        return f"images/{name}.png"

    def lines(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes JSON lines."""
        self.text(name, "".join(json.dumps(row) + "\n" for row in rows))

    def close(self, **facts: Any) -> None:
        """Writes manifest.json."""
        digests = self.digests | {"pixels": self._pixels.hexdigest()}
        key = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()[:16]
        manifest = {"version": VERSION, **facts, "key": key, "sha256": digests}
        text = json.dumps(manifest, indent=1) + "\n"
        atomic.write_text(self.folder / "manifest.json", text)


@lock.alone("unireason benchmark --write_world", folder="folder")
def write(folder: Path, seed: int = 1, *, counts: Mapping[str, int] = COUNTS) -> None:
    """Writes all sets, pictures and manifest.json into a folder.

    Files: geneval.jsonl, wise.json, kris.json, uniredit.json, gedit.jsonl, imgedit.json, tiif.jsonl
    and dpg.csv; refinement.jsonl, process.jsonl and vqa.jsonl are raw examples, pictures as paths.

    Args:
      folder: where to.
      seed: of the requests.
      counts: items per group (tag, domain, operation, kind), or in all.
    """
    to = _Writer(folder)
    explicit, _ = requests(
        seed, SIDE, "t2i", prompts.TAGS, counts["geneval"], held_out=True, render=False
    )
    to.lines("geneval.jsonl", map(_geneval, explicit))
    implicit, _ = requests(
        seed, SIDE, "knowledge", knowledge.DOMAINS, counts["wise"], held_out=True, render=False
    )
    to.text("wise.json", _json([_wise(e, number + 1) for number, e in enumerate(implicit)]))
    _edits(to, seed, counts["edits"])
    to.lines("tiif.jsonl", map(_tiif, explicit[:: max(len(explicit) // counts["tiif"], 1)]))
    to.text("dpg.csv", _dpg(explicit[:: max(len(explicit) // counts["dpg"], 1)]))
    _raw(to, "refinement", seed, [None], counts["refinement"], task="refine_t2i")
    _raw(to, "process", seed, tuple(dict.fromkeys(PROCESS_TAGS)), counts["process"])
    _raw(to, "vqa", seed, questions.KINDS, counts["vqa"])
    to.close(seed=seed, counts=dict(counts))


def _json(rows: Any) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _asked_for(example: Example) -> dict[str, Any]:
    return {"requirement": example["requirement"].to_dict()}


def _geneval(example: Example) -> dict[str, Any]:
    record = geneval_record(example["tag"], example["prompt"], example["requirement"])
    return record | {"world": _asked_for(example)}


def _wise(example: Example, number: int) -> dict[str, Any]:
    return {
        "Prompt": example["prompt"],
        "Explanation": example["explanation"],
        "Category": example["domain"],
        "Subcategory": example["subcategory"],
        "prompt_id": number,
        "Hint": example["hint"],
        "world": _asked_for(example),
    }


def _edits(to: _Writer, seed: int, count: int) -> None:
    """The same edits in the schemas of four benchmarks."""
    kris, uniredit, gedit, imgedit = [], [], [], {}
    examples, _ = requests(seed, SIDE, "edit", instructions.OPS, count, held_out=True)
    for number, e in enumerate(examples):
        name, effect = f"edit_{number:04d}", f"the picture shows {plan_text(e['scene'].objects)}"
        before = to.picture(f"{name}_before", e["input_image"])
        after = to.picture(f"{name}_after", e["output_image"])
        scenes = {"source": e["source"].to_dict(), "target": e["scene"].to_dict()}
        world, words = _asked_for(e) | scenes, e["instruction"]
        kris.append(
            {
                "id": f"{number:04d}",
                "type": KRIS_TYPES[e["op"]],
                "ori_img": before,
                "ins_en": words,
                "explain_en": effect,
                "gt_img": after,
                "world": world,
            }
        )
        uniredit.append(
            {
                "original_image_path": before,
                "reference_image_path": after,
                "instruction": words,
                "name": e["op"],
                "idx": number,
                "reference_effect": effect,
                "world": world,
            }
        )
        gedit.append(
            {
                "task_type": e["op"],
                "key": name,
                "instruction": words,
                "instruction_language": "en",
                "input_image": before,
                "Intersection_exist": True,
                "world": world,
            }
        )
        imgedit[name] = {"id": before, "prompt": words, "edit_type": e["op"], "world": world}
    to.text("kris.json", _json(kris))
    to.text("uniredit.json", _json(uniredit))
    to.lines("gedit.jsonl", gedit)
    to.text("imgedit.json", _json(imgedit))


def _wants(example: Example) -> list[Want]:
    """What a prompt names, and something that it does not name and that should not be there."""
    return [*example["requirement"].wants, _absent(example)]


def _absent(example: Example) -> Want:
    """A shape that no want of the requirement leaves room for."""
    named = {want.shape for want in example["requirement"].wants}
    return Want(next(shape for shape in ("cross", "circle", "square") if shape not in named))


def _tiif(example: Example) -> dict[str, Any]:
    wants = _wants(example)
    return {
        "type": example["tag"],
        "short_description": example["prompt"],
        "long_description": example["prompt"],
        "yn_question_list": [f"is there {phrase(want)}" for want in wants],
        "yn_answer_list": ["yes"] * (len(wants) - 1) + ["no"],
        "world": {**_asked_for(example), "wants": [_plain(want) for want in wants]},
    }


def _plain(want: Want) -> dict[str, Any]:
    return {name: value for name, value in want._asdict().items() if value is not None}


def _dpg(examples: Iterable[Example]) -> str:
    """Questions by prompt: first the shape, then, depending on it, the object with all it has."""
    names = ("item_id", "text", "keywords", "proposition_id", "dependency", "category_broad")
    names += ("category_detailed", "tuple", "question_natural_language", "world")
    buffer = io.StringIO()
    rows = csv.DictWriter(buffer, names, lineterminator="\n")
    rows.writeheader()
    for e in examples:
        number = 0
        for want in e["requirement"].wants:
            for category, asked, parent in (
                ("entity", Want(want.shape), 0),
                ("attribute", want, number + 1),
            ):
                number += 1
                rows.writerow(
                    {
                        "item_id": e["id"],
                        "text": e["prompt"],
                        "proposition_id": number,
                        "dependency": parent,
                        "category_broad": category,
                        "category_detailed": category,
                        "tuple": f"{category} ({noun(asked)})",
                        "question_natural_language": f"is there {phrase(asked)}",
                        "world": json.dumps(_plain(asked)),
                    }
                )
    return buffer.getvalue()


def _raw(
    to: _Writer, name: str, seed: int, groups: Any, count: int, task: str | None = None
) -> None:
    """Raw examples with pictures as paths and truth as plain values."""
    examples, _ = requests(seed, SIDE, task or name, groups, count, held_out=True)
    to.lines(f"{name}.jsonl", [_stored(to, e, f"{name}_{n:04d}") for n, e in enumerate(examples)])


def _stored(to: _Writer, value: Any, name: str) -> Any:
    """A value as JSON can hold it; pictures are written and become paths."""
    if isinstance(value, np.ndarray):
        return to.picture(name, value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, dict):
        return {key: _stored(to, each, f"{name}_{key}") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_stored(to, each, f"{name}_{number}") for number, each in enumerate(value)]
    return value
