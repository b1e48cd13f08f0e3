"""What reflection is worth: by edits allowed, what it repairs and damages, and resampling.

The world's report judges its own pictures exactly, `benchmark` by the suite's judge; both count
here.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from unireason_jax.evals.rates import Rate, by_group, mean_of_groups, wilson
from unireason_jax.evals.world.report import Section

COLUMNS = ("accuracy", "repair rate", "damage rate", "best of as many images")


@dataclasses.dataclass(frozen=True)
class Walk:
    """Verdicts on one request.

    Attributes:
      group: the mean is that of groups.
      shown: on the draft and after every edit, in order; at least one.
      samples: on independent drafts, at least as many as pictures were drawn with edits; empty
        where none were drawn.
    """

    group: str
    shown: Sequence[bool]
    samples: Sequence[bool] = ()

    @property
    def edits(self) -> int:
        """Edits that were drawn."""
        return len(self.shown) - 1

    def after(self, allowed: int) -> bool:
        """On what is shown after at most so many edits."""
        return self.shown[min(allowed, self.edits)]

    def pictures(self, allowed: int) -> int:
        """Pictures drawn with so many edits allowed."""
        return 1 + min(allowed, self.edits)


def section(walks: Sequence[Walk], most: int, *, mean: str, judge: str) -> Section:
    """A row for every number of edits that are allowed, 0 to `most`.

    Args:
      walks: requests whose pictures are judged.
      most: edits that were allowed when the pictures were drawn.
      mean: what accuracy is the mean of, e.g. "tags".
      judge: who finds a right picture among the samples.
    """
    rows = tuple((allowed(k), _rates(walks, k)) for k in range(most + 1))
    drawn = ", ".join(
        f"{np.mean([w.pictures(k) for w in walks]):.2f}" if walks else "-" for k in range(most + 1)
    )
    note = (
        f"On {len(walks)} prompts. Accuracy: what is shown after at most so many edits is right "
        f"(mean of {mean}). Repair rate: of wrong drafts, those whose last picture is right; "
        "damage rate: of right drafts, those whose last picture is wrong. Best of as many images: "
        f"{judge} finds a right one among as many fresh drafts as were drawn with edits for the "
        f"same prompt ({drawn} on average), which no model without a judge can reach."
    )
    return Section("reflection", "Reflection by edits allowed", COLUMNS, rows, note, chart=True)


def allowed(number: int) -> str:
    """The name of a row."""
    return f"{number or 'no'} edit{'s' * (number != 1)}"


def _rates(walks: Sequence[Walk], allowed: int) -> tuple[Rate | None, ...]:
    """Accuracy, repair and damage rate, and best of as many images."""
    before, after = [w.after(0) for w in walks], [w.after(allowed) for w in walks]
    repaired = wilson(now for was, now in zip(before, after) if not was)
    damaged = wilson(not now for was, now in zip(before, after) if was)
    best = None
    if all(len(w.samples) >= w.pictures(allowed) for w in walks):
        best = mean_of_groups(
            by_group((w.group, any(w.samples[: w.pictures(allowed)])) for w in walks)
        )
    return (
        mean_of_groups(by_group((w.group, now) for w, now in zip(walks, after))),
        repaired if allowed else None,
        damaged if allowed else None,
        best,
    )
