"""What refinement was worth in a benchmark: its drafts and edits are judged as its pictures are.

Reads the steps and the fresh drafts that `draw` left beside the layout.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals import reflection
from unireason_jax.evals.published import asking, draw, scoring
from unireason_jax.evals.published.base import Item, Question, Scored, Suite
from unireason_jax.evals.rates import Rate, wilson
from unireason_jax.evals.reflection import allowed
from unireason_jax.evals.world.report import Section
from unireason_jax.storage.journal import Journal

COLUMNS = ("score", "better than the draft", "worse than the draft", "score, best of as many")


@dataclasses.dataclass(frozen=True)
class Walk:
    """The judged pictures of one place.

    Attributes:
      shown: the draft and what every edit led to.
      fresh: further drafts, as many as edits; empty where not all are there.
    """

    shown: Sequence[Scored]
    fresh: Sequence[Scored]

    def best(self, suite: Suite, edits: int) -> Scored:
        """Of as many drafts as pictures were drawn with so many edits, the one of most points."""
        count = min(edits, len(self.shown) - 1)
        return max([self.shown[0], *self.fresh[:count]], key=lambda one: points(suite, one))


def points(suite: Suite, picture: Scored) -> float:
    """A picture's own number: the suite's headline of it alone; nan where it has none."""
    return next(iter(suite.aggregate([picture]).values()), math.nan)


def questions(
    suite: Suite, items: Sequence[Item], out: Path, rubrics: Mapping[str, str]
) -> list[Question]:
    """What is asked about drafts and edits that are not the final pictures."""
    return [
        question
        for item in items
        for place in suite.places(item)
        for view, image in _views(out, place).items()
        if view and image.is_file()
        for question in asking.questions_of(suite, item, place, image, rubrics, view)
    ]


def sections(
    suite: Suite,
    items: Sequence[Item],
    out: Path,
    journal: Journal,
    rubrics: Mapping[str, str],
) -> list[Section]:
    """The tables: how often a picture is right, and the suite's own score, by edits allowed.

    Raises:
      ValueError: no picture has steps of a refinement.
    """
    places = [(item, place) for item in items for place in suite.places(item)]
    kept = [pair for pair in places if (out / draw.EDITS / "0" / pair[1]).is_file()]
    if not kept:
        raise ValueError(
            f"--reflection: {out / draw.EDITS} holds no steps of these pictures; draw them with a "
            "--preset that refines (--mode refine), in a new folder."
        )
    found = [_walk(suite, item, place, out, journal, rubrics) for item, place in kept]
    walks = [walk for walk in found if walk is not None]
    most = max((len(walk.shown) - 1 for walk in walks), default=0)
    left = len(places) - len(walks)
    told = f" {left} of {len(places)} pictures lack steps or scores and are left out." * (left > 0)
    verdicts = [
        reflection.Walk(
            suite.group(walk.shown[0].item),
            [_right(suite, one) for one in walk.shown],
            [_right(suite, one) for one in [walk.shown[0], *walk.fresh]],
        )
        for walk in walks
    ]
    first = reflection.section(verdicts, most, mean="groups", judge="the judge")
    right = f" Right is a picture that alone scores {suite.best:g}, the most there is."
    first = dataclasses.replace(first, note=first.note + right + told)
    return [first, _scores(suite, walks, most)]


def _views(out: Path, place: str) -> dict[str, Path]:
    """The pictures behind a place by the name of their answers, which is empty for the final one.

    Drafts and edits come in order, the final one after them, fresh drafts last.
    """
    edits = draw.edits_of(out, place)
    steps = {f"edits {n}": out / draw.EDITS / str(n) / place for n in range(edits)}
    fresh = {f"fresh {n}": out / draw.FRESH / str(n) / place for n in range(1, edits + 1)}
    return {**steps, "": out / draw.IMAGES / place, **fresh}


def _walk(
    suite: Suite,
    item: Item,
    place: str,
    out: Path,
    journal: Journal,
    rubrics: Mapping[str, str],
) -> Walk | None:
    """The judged pictures of a place, None where a step has no scores."""
    shown, fresh = [], []
    for view, image in _views(out, place).items():
        found = asking.answered(suite, item, place, image, journal, rubrics, view)
        if not isinstance(found, Scored) or math.isnan(points(suite, found)):
            if not view.startswith("fresh"):
                return None
        elif view.startswith("fresh"):
            fresh.append(found)
        else:
            shown.append(found)
    return Walk(shown, fresh if len(fresh) == len(shown) - 1 else ())


def _right(suite: Suite, picture: Scored) -> bool:
    return points(suite, picture) >= suite.best - 1e-9


def _scores(suite: Suite, walks: Sequence[Walk], most: int) -> Section:
    """The suite's headline by edits allowed, and how often a picture's own number moved."""
    rows = []
    for number in range(most + 1):
        after = [walk.shown[min(number, len(walk.shown) - 1)] for walk in walks]
        gains = [points(suite, a) - points(suite, w.shown[0]) for a, w in zip(after, walks)]
        best = None
        if all(len(walk.fresh) >= min(number, len(walk.shown) - 1) for walk in walks):
            best = _headline(suite, [walk.best(suite, number) for walk in walks])
        better, worse = wilson(g > 0 for g in gains), wilson(g < 0 for g in gains)
        moved = (better, worse) if number else (None, None)
        rows.append((allowed(number), (_headline(suite, after), *moved, best)))
    name = next(iter(suite.aggregate([walk.shown[-1] for walk in walks])), "score") if walks else ""
    note = (
        f"Score: the suite's '{name}' of what is shown after at most so many edits. Better and "
        "worse: the picture's own number against its draft's. Best of as many: of every picture, "
        "the draft of most points among as many fresh drafts as were drawn with edits."
    )
    return Section("reflection_scores", "Scores by edits allowed", COLUMNS, tuple(rows), note)


def _headline(suite: Suite, pictures: Sequence[Scored]) -> Rate | None:
    """The suite's first number with its interval."""
    numbers = suite.aggregate(pictures) if pictures else {}
    if not numbers:
        return None
    name, value = next(iter(numbers.items()))
    low, high = scoring.intervals(suite, pictures)[name]
    return Rate(value, low, high, len(pictures))
