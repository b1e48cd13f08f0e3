"""What reflection is worth: by edits allowed, what it repairs and damages, and resampling."""

from collections.abc import Sequence

import numpy as np

from unireason_jax.evals.rates import Rate, by_group, mean_of_groups, wilson
from unireason_jax.evals.world import looks
from unireason_jax.evals.world.drawn import Judged
from unireason_jax.evals.world.report import Section

COLUMNS = ("accuracy", "repair rate", "damage rate", "best of as many images")


def section(judged: Judged, samples: Sequence[Sequence[bool]], most: int) -> Section:
    """A row for every number of edits that are allowed, 0 to `most`.

    Args:
      judged: requests with their traces of plan, draft and refinement, judged.
      samples: of every request, verdicts on 1 + `most` independent drafts.
      most: edits that were allowed when the traces were made.
    """
    rows = tuple((_allowed(k), _rates(judged, samples, k)) for k in range(most + 1))
    drawn = ", ".join(f"{np.mean(list(_images(judged, k))):.2f}" for k in range(most + 1))
    note = (
        f"On {len(judged)} prompts. Accuracy: what is shown after at most so many edits is right "
        "(mean of tags). Repair rate: of wrong drafts, those whose last picture is right; damage "
        "rate: of right drafts, those whose last picture is wrong. Best of as many images: the "
        "exact judge finds a right one among as many fresh drafts as were drawn with edits for the "
        f"same prompt ({drawn} on average), which no model without a judge can reach."
    )
    return Section("reflection", "Reflection by edits allowed", COLUMNS, rows, note, chart=True)


def _allowed(number: int) -> str:
    return f"{number or 'no'} edit{'s' * (number != 1)}"


def _images(judged: Judged, allowed: int) -> list[int]:
    """Pictures drawn for every request with so many edits allowed."""
    return [1 + min(trace.rounds, allowed) for _, trace in judged]


def _rates(
    judged: Judged, samples: Sequence[Sequence[bool]], allowed: int
) -> tuple[Rate | None, ...]:
    """Accuracy, repair and damage rate, and best of as many images."""
    tags = [example["tag"] for example, _ in judged]
    before = [looks.after_round(trace, 0) for _, trace in judged]
    after = [looks.after_round(trace, allowed) for _, trace in judged]
    best = [any(found[:k]) for found, k in zip(samples, _images(judged, allowed))]
    repaired = wilson(now for was, now in zip(before, after) if not was)
    damaged = wilson(not now for was, now in zip(before, after) if was)
    return (
        mean_of_groups(by_group(zip(tags, after))),
        repaired if allowed else None,
        damaged if allowed else None,
        mean_of_groups(by_group(zip(tags, best))),
    )
