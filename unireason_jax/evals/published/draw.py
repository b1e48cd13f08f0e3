"""Images for a benchmark's prompts, in the layout its official scripts expect."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.data import images
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals.published.base import Item, Suite
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Trace
from unireason_jax.storage import atomic

BATCH = 32
MODES = {
    "prompt": ("t2i", "edit"),
    "plan": ("think_t2i", "think_edit"),
    "refine": ("refine_t2i", "refine_edit"),
}


def draw(
    suite: Suite,
    items: Sequence[Item],
    reasoner: Reasoner,
    folder: Path,
    *,
    mode: str,
    rounds: int = 3,
    batch: int = BATCH,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Draws what is not there yet, a batch of items at a time; started again, it goes on.

    Args:
      suite: decides places and how many images an item has.
      items: of one prompt file.
      reasoner: the model.
      folder: root of the layout.
      mode: "prompt", "plan" or "refine".
      rounds: most rounds of refinement.
      batch: items drawn together.
      progress: called with the number of items just finished.
    """
    todo = [i for i in items if not all((folder / p).is_file() for p in suite.places(i))]
    progress(len(items) - len(todo))
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        templates = [TEMPLATES[MODES[mode][bool(item.sources)]] for item in part]
        records = [
            template(_request(item, rounds), reasoner.style)
            for template, item in zip(templates, part)
        ]
        count = max(suite.grid**2, len(suite.places(part[0])))
        traces = reasoner.run(records, samples=count)
        for number, item in enumerate(part):
            _save(suite, item, traces[number * count : (number + 1) * count], folder)
        progress(len(part))


def _request(item: Item, rounds: int) -> dict[str, Any]:
    """What the templates of all modes read."""
    request = {"id": item.id, "prompt": item.prompt, "instruction": item.prompt, "rounds": rounds}
    if item.sources:
        request["input_image"] = [images.load(path) for path in item.sources]
    return request


def _save(suite: Suite, item: Item, traces: Sequence[Trace], folder: Path) -> None:
    """Writes images, plans beside them, and further files; each file appears whole."""
    places = suite.places(item)
    pictures = [trace.image for trace in traces]
    if suite.grid > 1:
        starts = range(0, len(pictures), suite.grid)
        pictures = [np.vstack([np.hstack(pictures[i : i + suite.grid]) for i in starts])]
    for name, text in suite.files(item).items():
        atomic.write_text(folder / name, text + "\n")
    for place, picture, trace in zip(places, pictures, traces):
        path = folder / place
        if plan := trace.text_of("plan"):
            atomic.write_text(path.with_suffix(".txt"), plan)
        with atomic.replacing(path) as part:
            Image.fromarray(picture).save(part, format="PNG")
