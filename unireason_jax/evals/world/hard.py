"""The harder world's evaluation: drafts of which many fail, what refinement makes of them.

Asked, judged and told as the first world's: held-out prompts by tag, with the controls at equal
images; and given drafts, half of them faulty, with another request's draft as a control.
"""

from collections.abc import Sequence

import numpy as np

from unireason_jax.evals.rates import by_group, wilson
from unireason_jax.evals.world import controls, drawn, looks
from unireason_jax.evals.world.controls import Judge
from unireason_jax.evals.world.drawn import Judged
from unireason_jax.evals.world.exam import Exam, Example, Part, asked, table
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.trace import Trace
from unireason_jax.world.hard.asking import TAGS
from unireason_jax.world.hard.judge import check_image
from unireason_jax.world.hard.reader import read
from unireason_jax.world.hard.repair import suggest
from unireason_jax.world.hard.wishes import Wish
from unireason_jax.world.hard.words import parse_plan, reflection_text
from unireason_jax.world.scenes import CELL

_KINDS = {
    (True, True): "kept right",
    (True, False): "damaged",
    (False, True): "repaired",
    (False, False): "still wrong",
}


def parts(exam: Exam, *, prompts: int, controlled: int, drafts: int, rounds: int) -> list[Part]:
    """All parts.

    Args:
      exam: the model, and what it is asked.
      prompts: held-out prompts per tag.
      controlled: of these, those that take part in the controls.
      drafts: given drafts.
      rounds: most refinements of a conversation.
    """
    first, judged = _held_out(exam, prompts, rounds)
    chosen = [
        pair for tag in range(len(TAGS)) for pair in judged[tag * prompts :][: max(controlled, 0)]
    ]
    return [
        first,
        controls.equal_compute(exam, chosen, rounds, JUDGE),
        _given(exam, drafts, rounds),
    ]


def cost(prompts: int, controlled: int, drafts: int, rounds: int) -> float:
    """Images that `parts` draws at most."""
    tags = len(TAGS) * (prompts * (2 + rounds) + controlled * (1 + 2 * rounds))
    return tags + drafts * (rounds + 0.25 * bool(rounds))


def _held_out(exam: Exam, count: int, rounds: int) -> tuple[Part, Judged]:
    """Held-out prompts: prompt only, with plan, with plan and refinement."""
    if not count:
        return Part(), []
    examples = exam.requests("hard_think_t2i", TAGS, count, held_out=True, render=False)
    plain = exam.traces("t2i", [asked(e, "prompt") for e in examples], 1)
    found = exam.traces(
        "refine_t2i", [asked(e, "prompt", rounds=rounds) for e in examples], 1 + rounds
    )
    judged = [(e, _judge(e["requirement"], t, e["tag"])) for e, t in zip(examples, found)]
    alone = by_group((e["tag"], JUDGE.passes(e, t.image)) for e, t in zip(examples, plain))
    columns = {"prompt only": alone} | drawn.by_rounds("tag", judged, rounds)
    rows, means = table(columns, "mean of tags")
    distinct = len({e["prompt"] for e in examples})
    traces = [trace for _, trace in judged]
    note = (
        f"Strict verdict on {distinct} distinct prompts; at most {rounds} rounds, "
        f"{looks.mean_rounds(traces):.2f} used on average." + exam.note("hard_think_t2i")
    )
    section = Section("prompts", "Held-out prompts by tag", tuple(columns), tuple(rows), note, True)
    headline = {f"held-out prompts, {mode}": rate for mode, rate in means.items()}
    headline |= _changes(traces)
    outcomes = {f"held-out prompts, {mode}": groups for mode, groups in columns.items()}
    return Part([section], headline, outcomes, traces), judged


def _given(exam: Exam, count: int, rounds: int) -> Part:
    """Given plans and drafts, about half of them faulty: by the edits that they need."""
    if not count or not rounds:
        return Part()
    examples = exam.requests("hard_refine_t2i", [None], count, held_out=True)
    requests = [asked(e, "prompt", "explanation", "draft", rounds=rounds) for e in examples]
    traces = exam.traces("refine_t2i", requests, rounds)
    judged = [_judge(e["requirement"], t, "given drafts") for e, t in zip(examples, traces)]
    groups: dict[int, list[Trace]] = {}
    for e, trace in zip(examples, judged):
        groups.setdefault(len(e["rounds"]), []).append(trace)
    rows = [
        (
            f"draft needs {needed} edits",
            (
                wilson(trace.rounds > 0 for trace in group),
                wilson(looks.after_round(trace, rounds) for trace in group),
            ),
        )
        for needed, group in sorted(groups.items())
    ]
    columns = ("draws again", "right in the end")
    title = "Given drafts by the edits they need"
    section = Section("given_drafts", title, columns, tuple(rows), "", True)
    headline = {f"given drafts, {name}": rate for name, rate in _changes(judged).items()}
    return Part([section, _shuffled(exam, examples, judged)], headline, {}, judged)


def _shuffled(exam: Exam, examples: Sequence[Example], own: Sequence[Trace]) -> Section:
    """First reflections with the own draft in view, and with another one."""
    others = [
        asked(e, "prompt", "explanation", draft=other["draft"], rounds=0, id=f"{e['id']}-shuffled")
        for e, other in zip(examples, [*examples[1:], *examples[:1]])
    ]
    found = exam.traces("refine_t2i", others, 0.25)
    wanted = [_words(e["plan"], e["draft"]) for e in examples]
    rows = tuple(
        (name, (wilson(_compares(t) == _parts(words) for t, words in zip(traces, wanted)),))
        for name, traces in (("own draft in view", own), ("another draft in view", found))
    )
    note = (
        "Whether the reflection says of every planned object of the own draft what the exact judge "
        "says. The picture is used where the second rate is far below the first."
    )
    return Section("shuffled", "Shuffled drafts: comparisons that are right", ("rate",), rows, note)


def _changes(traces: Sequence[Trace]) -> dict[str, object]:
    """What became of wrong and of right drafts."""
    pairs = [(looks.verdicts(t)[0], looks.verdicts(t)[-1]) for t in traces]
    return {
        "wrong drafts repaired": wilson(last for first, last in pairs if not first),
        "right drafts damaged": wilson(not last for first, last in pairs if first),
    }


def _judge(wish: Wish, trace: Trace, group: str) -> Trace:
    """The trace with the exact verdict on every image."""
    verdicts = {
        number: check_image(wish, step.image).passed
        for number, step in enumerate(trace.steps)
        if step.kind == "image"
    }
    values = list(verdicts.values())
    return trace.judged(verdicts, caption=[f"{group}: {_KINDS[values[0], values[-1]]}"])


def _words(plan: Wish, image: np.ndarray) -> str:
    """The reflection on a picture that the exact judge writes."""
    things, side = read(image).things, image.shape[0] // CELL
    return reflection_text(plan, things, suggest(plan, things, side))


def _right_words(example: Example, trace: Trace, image: np.ndarray) -> str | None:
    """The same for a picture of the model's own plan; None where nothing is left to say."""
    if check_image(example["requirement"], image).passed:
        return None
    try:
        return _words(parse_plan(trace.text_of("plan") or ""), image)
    except ValueError:
        return None  # no plan to compare with


def _parts(words: str) -> list[str]:
    """A reflection without the edit that it asks for."""
    return words.split(" , ")[:-1]


def _compares(trace: Trace) -> list[str]:
    """What the first reflection of a trace compares."""
    return _parts(next((s.text or "" for s in trace.steps if s.role == "reflection"), ""))


def _seen(image: np.ndarray) -> tuple[object, float]:
    found = read(image)
    return found.things, found.residual


JUDGE = Judge(
    passes=lambda example, image: check_image(example["requirement"], image).passed,
    words=_right_words,
    seen=_seen,
)
