"""What reflection is worth in the world, whose exact judge sees every picture."""

from collections.abc import Sequence

from unireason_jax.evals import reflection
from unireason_jax.evals.world import looks
from unireason_jax.evals.world.drawn import Judged
from unireason_jax.evals.world.report import Section


def section(judged: Judged, samples: Sequence[Sequence[bool]], most: int) -> Section:
    """A row for every number of edits that are allowed, 0 to `most`.

    Args:
      judged: requests with their traces of plan, draft and refinement, judged.
      samples: of every request, verdicts on 1 + `most` independent drafts.
      most: edits that were allowed when the traces were made.
    """
    walks = [
        reflection.Walk(example["tag"], looks.verdicts(trace), found)
        for (example, trace), found in zip(judged, samples)
    ]
    return reflection.section(walks, most, mean="tags", judge="the exact judge")
