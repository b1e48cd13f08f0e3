"""Images for a benchmark's prompts, in the layout its official scripts expect."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unireason_jax.data import images
from unireason_jax.evals.published.base import Item, Suite
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.trace import Trace
from unireason_jax.storage import atomic

BATCH = 32
MODES: dict[str, tuple[str, str]] = {
    "prompt": ("t2i", "edit"),
    "plan": ("think_t2i", "think_edit"),
    "refine": ("refine_t2i", "refine_edit"),
}
"""By mode, the presets of prompts and of edits: templates as the checkpoint was trained."""


def draw(
    suite: Suite,
    items: Sequence[Item],
    reasoner: Reasoner,
    folder: Path,
    *,
    preset: str,
    rounds: int | None = None,
    batch: int = BATCH,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Draws what is not there yet, a batch of items at a time; started again, it goes on.

    Args:
      suite: decides places and how many images an item has.
      items: of one prompt file.
      reasoner: the model; its settings decide how it is sampled.
      folder: root of the layout.
      preset: what is walked.
      rounds: most rounds of refinement; None for the preset's.
      batch: items drawn together.
      progress: called with the number of items just finished.

    Raises:
      ValueError: the preset edits where the suite draws, or the other way round.
    """
    todo = [i for i in items if not all((folder / p).is_file() for p in suite.places(i))]
    progress(len(items) - len(todo))
    for start in range(0, len(todo), batch):
        part = todo[start : start + batch]
        asked = [_request(item, preset, rounds, reasoner) for item in part]
        requests = [one if one.grow or one.following else one.record for one in asked]
        count = max(suite.grid**2, len(suite.places(part[0])))
        traces = reasoner.run(requests, samples=count)
        for number, item in enumerate(part):
            _save(suite, item, traces[number * count : (number + 1) * count], folder)
        progress(len(part))


def preset_of(mode: str, items: Sequence[Item]) -> str:
    """The preset of a mode for a suite's items."""
    return MODES[mode][any(item.sources for item in items)]


def _request(item: Item, preset: str, rounds: int | None, reasoner: Reasoner) -> Request:
    """The conversation of an item."""
    options = {"name": item.id, "rounds": rounds, "style": reasoner.style}
    image = [images.load(path) for path in item.sources] or None
    try:
        return catalog.find(preset).request(item.prompt, image=image, **options)
    except ValueError as error:
        raise ValueError(f"item '{item.id}', --preset {preset}: {error}") from None


def _save(suite: Suite, item: Item, traces: Sequence[Trace], folder: Path) -> None:
    """Writes images, plans beside them, and further files; each file appears whole."""
    places = suite.places(item)
    pictures = [trace.image for trace in traces]
    if suite.grid > 1:
        starts = range(0, len(pictures), suite.grid)
        pictures = [np.vstack([np.hstack(pictures[i : i + suite.grid]) for i in starts])]
    for name, text in suite.files(item).items():
        atomic.write_text(folder / name, text + "\n")
    for name, source in suite.copies(item).items():
        with atomic.replacing(folder / name) as part:
            Image.fromarray(images.load(source)).save(part, format="PNG")
    for place, picture, trace in zip(places, pictures, traces):
        path = folder / place
        if plan := trace.text_of("plan"):
            atomic.write_text(path.with_suffix(".txt"), plan)
        with atomic.replacing(path) as part:
            Image.fromarray(picture).save(part, format="PNG")
