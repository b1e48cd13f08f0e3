"""The embedded world's evaluation: what a checkpoint draws, edits, answers and repairs.

All requests are held out from training (by the hash of their text, or by (shape, colour) pair), and
the judge is exact: it parses the picture and compares it with what was asked for.
"""

import dataclasses
import time

from unireason_jax.evals.world import controls, drawn, edited, hard, step_by_step
from unireason_jax.evals.world.exam import CONVERSATIONS, Advance, Exam, Part
from unireason_jax.evals.world.report import Report
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Trace
from unireason_jax.world import instructions as edit_tasks
from unireason_jax.world import knowledge, prompts, questions
from unireason_jax.world.scenes import CELL
from unireason_jax.world.steps import MAX_STEPS
from unireason_jax.world.tasks import PROCESS_TAGS


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is evaluated; 0 leaves a part out.

    Attributes:
      prompts: held-out prompts per GenEval-like tag (6 tags), with and without plan, refined.
      controls: of these, prompts per tag for the controls at equal compute.
      pairs: prompts per tag with a (shape, colour) pair never seen in training (3 tags).
      knowledge: knowledge prompts per domain (5 domains), with their controls.
      edits: instructions per operation (9 operations).
      questions: questions per kind (9 kinds).
      drafts: given drafts, half of them with a fault or two, to be refined.
      process: prompts per tag (4 tags) to be drawn step by step.
      hidden: edits per kind (4 kinds) that hide a question.
      rounds: most refinement rounds.
      seed: of the requests.
    """

    prompts: int = 84
    controls: int = 24
    pairs: int = 24
    knowledge: int = 40
    edits: int = 24
    questions: int = 24
    drafts: int = 128
    process: int = 0
    hidden: int = 0
    rounds: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError on a negative size."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must be >= 0 (0 leaves the part out).")

    @property
    def controlled(self) -> int:
        """Prompts per tag that take part in the controls."""
        return min(self.controls, self.prompts) if self.rounds else 0

    @property
    def hard(self) -> dict[str, int]:
        """What of these the harder world has: prompts, controls and drafts (`hard.parts`)."""
        names = {"prompts": self.prompts, "controlled": self.controlled}
        return names | {"drafts": self.drafts, "rounds": self.rounds}

    def cost(self, is_hard: bool = False) -> float:
        """Images that will be drawn at most, the unit of progress."""
        if is_hard:
            return hard.cost(**self.hard)
        return (
            self.prompts * len(prompts.TAGS) * (2 + self.rounds)
            + self.controlled * len(prompts.TAGS) * (1 + 2 * self.rounds)
            + self.pairs * len(prompts.UNSEEN_PAIR_TAGS)
            + self.knowledge * len(knowledge.DOMAINS) * (4 + self.rounds)
            + self.edits * len(edit_tasks.OPS)
            + self.questions * len(questions.KINDS) * 0.25
            + self.drafts * (self.rounds + 0.25 * bool(self.rounds))
            + self.process * len(set(PROCESS_TAGS)) * (MAX_STEPS + 0.25)
            + self.hidden * len(questions.EDIT_KINDS)
        )


def evaluate(
    reasoner: Reasoner,
    sizes: Sizes | None = None,
    *,
    advance: Advance | None = None,
    conversation: str = CONVERSATIONS[0],
    is_hard: bool = False,
) -> Report:
    """Runs every part and gathers the tables.

    Args:
      reasoner: a model of the world; its settings decide how it is sampled.
      sizes: how much of each part.
      advance: called with the cost (see `Sizes.cost`) of what was just finished.
      conversation: template of plan, draft and refinement; one of `CONVERSATIONS`.
      is_hard: the model is one of the harder world, and asked in it.

    Returns:
      A report with judged traces of successes and of failures to show.
    """
    sizes = sizes or Sizes()
    exam = Exam(reasoner, sizes.seed, advance or (lambda cost: None), conversation)
    started = time.perf_counter()
    parts = hard.parts(exam, **sizes.hard) if is_hard else _parts(exam, sizes)
    seconds = time.perf_counter() - started
    facts = {
        "canvas": f"{exam.side * CELL} x {exam.side * CELL} pixels",
        "seed of the requests": sizes.seed,
        "conversations": exam.conversations,
        "images drawn": exam.images,
        "time": f"{seconds:.0f} s, {exam.images / max(seconds, 1e-9):.1f} images/s with judging",
    }
    return Report(
        title="World report",
        facts=facts,
        sections=tuple(section for part in parts for section in part.sections),
        traces=_some(parts, passed=True),
        failures=_some(parts, passed=False),
        headline={name: rate for part in parts for name, rate in part.headline.items()},
        outcomes={name: groups for part in parts for name, groups in part.outcomes.items()},
    )


def _parts(exam: Exam, sizes: Sizes) -> list[Part]:
    """All parts of the first world."""
    rounds = sizes.rounds
    held_out, judged = drawn.held_out_prompts(exam, sizes.prompts, rounds)
    chosen = [
        pair
        for tag in range(len(prompts.TAGS))
        for pair in judged[tag * sizes.prompts :][: sizes.controlled]
    ]
    return [
        held_out,
        controls.equal_compute(exam, chosen, rounds),
        drawn.unseen_pairs(exam, sizes.pairs),
        drawn.world_knowledge(exam, sizes.knowledge, rounds),
        edited.edits(exam, sizes.edits),
        edited.answers(exam, sizes.questions),
        controls.given_drafts(exam, sizes.drafts, rounds),
        step_by_step.part(exam, sizes.process),
        edited.hidden_questions(exam, sizes.hidden),
    ]


def _some(parts: list[Part], *, passed: bool) -> tuple[Trace, ...]:
    """Judged traces whose last image is right, or wrong.

    Of every tag and domain, one with the most rounds and one with the fewest.
    """
    found: dict[str, list[Trace]] = {}
    for trace in (trace for part in parts for trace in part.shown):
        verdicts = [step.verdict for step in trace.steps if step.verdict is not None]
        if verdicts and verdicts[-1] == passed:
            group = str(trace.details.get("caption", ["given drafts"])[0])
            found.setdefault(group, []).append(trace)
    chosen = []
    for traces in found.values():
        ordered = sorted(traces, key=lambda trace: len(trace.images), reverse=True)
        chosen += [ordered[0], *ordered[1:][-1:]]
    return tuple(chosen)
