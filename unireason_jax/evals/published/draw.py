"""Images for a benchmark's prompts, in the layout its official scripts expect.

Beside the layout lies what a refinement went through: `edits/N/` holds in the same layout what is
shown after at most N edits, 0 for the draft, and `fresh/N/` further drafts of the same prompts.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from unireason_jax.data import images
from unireason_jax.data.records import Record
from unireason_jax.evals.published.base import Item, Suite
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.trace import Trace
from unireason_jax.storage import atomic
from unireason_jax.storage.background import Background

BATCH = 32
IMAGES, EDITS, FRESH = "images", "edits", "fresh"
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

    A batch is saved while the next one is drawn.

    Args:
      suite: decides places and how many images an item has.
      items: of one prompt file.
      reasoner: the model; its settings decide how it is sampled.
      folder: of the run; the layout's root is `images` in it.
      preset: what is walked.
      rounds: most rounds of refinement; None for the preset's.
      batch: items drawn together.
      progress: called with the number of items just finished.

    Raises:
      ValueError: the preset edits where the suite draws, or the other way round.
    """
    whole = folder / IMAGES
    todo = [i for i in items if not all((whole / p).is_file() for p in suite.places(i))]
    progress(len(items) - len(todo))
    with Background(waiting=2) as background:
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            asked = [_request(item, preset, rounds, reasoner) for item in part]
            requests = [one if one.grow or one.following else one.record for one in asked]
            count = _pictures(suite, part[0])
            traces = reasoner.run(requests, samples=count)
            background.do(_save_all, suite, part, traces, folder)
            background.do(progress, len(part))


def draw_fresh(
    suite: Suite,
    items: Sequence[Item],
    reasoner: Reasoner,
    folder: Path,
    *,
    preset: str,
    batch: int = BATCH,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Draws as many further drafts of every item as its refinement drew edits; resumes as `draw`.

    What they are worth is what the same images buy without reflection (best of n). Arguments and
    errors are those of `draw`, which must have drawn the items.
    """
    todo = [(item, _missing_drafts(suite, item, folder)) for item in items]
    todo = [(item, numbers) for item, numbers in todo if numbers]
    progress(len(items) - len(todo))
    with Background(waiting=2) as background:
        for start in range(0, len(todo), batch):
            part = todo[start : start + batch]
            wanted = [(item, number) for item, numbers in part for number in numbers]
            records = [_draft_of(_request(i, preset, None, reasoner), n) for i, n in wanted]
            traces = reasoner.run(records, samples=_pictures(suite, part[0][0]))
            background.do(_save_fresh, suite, wanted, traces, folder)
            background.do(progress, len(part))


def edits_of(folder: Path, place: str) -> int:
    """Edits that led to a picture: 0 where it was not refined, or drawn before they were kept."""
    number = 0
    while (folder / EDITS / str(number + 1) / place).is_file():
        number += 1
    return number


def _missing_drafts(suite: Suite, item: Item, folder: Path) -> list[int]:
    """Numbers of the further drafts, from 1, that a picture of the item lacks."""
    wanted = {place: range(1, edits_of(folder, place) + 1) for place in suite.places(item)}
    lacking = {
        number
        for place, numbers in wanted.items()
        for number in numbers
        if not (folder / FRESH / str(number) / place).is_file()
    }
    return sorted(lacking)


def _draft_of(request: Request, number: int) -> Record:
    """The record up to its first picture, under another name: its draws are independent."""
    record = request.record
    last = next(n for n in record.holes if record.segments[n].kind == "image")
    segments = record.segments[: last + 1]
    return dataclasses.replace(record, id=f"{record.id} / fresh {number}", segments=segments)


def _pictures(suite: Suite, item: Item) -> int:
    """Conversations of an item."""
    return max(suite.grid**2, len(suite.places(item)))


def preset_of(mode: str, items: Sequence[Item]) -> str:
    """The preset of a mode for a suite's items."""
    return MODES[mode][any(item.sources for item in items)]


def refines(item: Item, preset: str, rounds: int | None, reasoner: Reasoner) -> bool:
    """Whether a preset draws anew from its draft."""
    request = _request(item, preset, rounds, reasoner)
    return bool(request.following) or "refined" in [s.role for s in request.record.segments]


def _request(item: Item, preset: str, rounds: int | None, reasoner: Reasoner) -> Request:
    """The conversation of an item."""
    options = {"name": item.id, "rounds": rounds, "style": reasoner.style}
    image = [images.load(path) for path in item.sources] or None
    try:
        return catalog.find(preset).request(item.prompt, image=image, **options)
    except ValueError as error:
        raise ValueError(f"item '{item.id}', --preset {preset}: {error}") from None


def _save_all(suite: Suite, items: Sequence[Item], traces: Sequence[Trace], folder: Path) -> None:
    """Saves a batch of items, all traces of an item together."""
    count = len(traces) // len(items)
    for number, item in enumerate(items):
        _save(suite, item, traces[number * count : (number + 1) * count], folder)


def _save(suite: Suite, item: Item, traces: Sequence[Trace], folder: Path) -> None:
    """Writes images, plans beside them, and further files; each file appears whole."""
    images_folder = folder / IMAGES
    for name, text in suite.files(item).items():
        atomic.write_text(images_folder / name, text + "\n")
    for name, source in suite.copies(item).items():
        _write(images_folder / name, images.load(source))
    for place, group in _by_file(suite, item, traces):
        for number, shown in enumerate(_after_edits(group)):
            _write(folder / EDITS / str(number) / place, _joined(suite, shown))
        if plan := group[0].text_of("plan"):
            atomic.write_text((images_folder / place).with_suffix(".txt"), plan)
        _write(images_folder / place, _joined(suite, [trace.image for trace in group]))


def _save_fresh(
    suite: Suite, wanted: Sequence[tuple[Item, int]], traces: Sequence[Trace], folder: Path
) -> None:
    """Writes further drafts, of items and their numbers."""
    count = len(traces) // len(wanted)
    for start, (item, number) in enumerate(wanted):
        made = traces[start * count : (start + 1) * count]
        for name, group in _by_file(suite, item, made):
            if number <= edits_of(folder, name):
                drafts = _joined(suite, [trace.image for trace in group])
                _write(folder / FRESH / str(number) / name, drafts)


def _by_file(
    suite: Suite, item: Item, traces: Sequence[Trace]
) -> Iterable[tuple[str, Sequence[Trace]]]:
    """The conversations whose pictures share a file: all of a grid, else one."""
    places = suite.places(item)
    return [(places[0], traces)] if suite.grid > 1 else zip(places, [[t] for t in traces])


def _after_edits(traces: Sequence[Trace]) -> Iterator[list[np.ndarray]]:
    """What the conversations show after no edit, after at most one, and so on to the last.

    Nothing where none of them refines: a sketch is a step of a drawing, not a draft.
    """
    made = [[s for s in t.steps if s.kind == "image" and not s.given] for t in traces]
    roles = {step.role for steps in made for step in steps}
    if "sketch" in roles or not roles & {"draft", "refined"}:
        return
    for number in range(max(map(len, made))):
        yield [steps[min(number, len(steps) - 1)].image for steps in made]


def _joined(suite: Suite, pictures: Sequence[np.ndarray]) -> np.ndarray:
    """The picture of a file, uint8 [H, W, 3]."""
    starts = range(0, len(pictures), suite.grid)
    return np.vstack([np.hstack(pictures[i : i + suite.grid]) for i in starts])


def _write(path: Path, picture: np.ndarray) -> None:
    with atomic.replacing(path) as part:
        Image.fromarray(picture).save(part, format="PNG")
