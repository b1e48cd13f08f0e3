"""Controls of refinement: is the picture used, are the words right, and is it only resampling?"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from unireason_jax.evals.rates import by_group, mean_of_groups, wilson
from unireason_jax.evals.world import looks, reflection
from unireason_jax.evals.world.drawn import Judged
from unireason_jax.evals.world.exam import Exam, Example, Part, asked
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.trace import Trace
from unireason_jax.world.language import reflection_text
from unireason_jax.world.parser import parse, to_objects
from unireason_jax.world.repair import suggest
from unireason_jax.world.scenes import CELL
from unireason_jax.world.verifier import MAX_RESIDUAL, check_image


class Judge(NamedTuple):
    """The exact judge of a world, and its reader.

    Attributes:
      passes: (example, image) -> whether the image is right.
      words: (example, trace, image) -> the reflection that is due; None where there is none.
      seen: image -> what it shows, comparable, and the fraction of its pixels left unexplained.
    """

    passes: Callable[[Example, np.ndarray], bool]
    words: Callable[[Example, Trace, np.ndarray], str | None]
    seen: Callable[[np.ndarray], tuple[Any, float]]


def given_drafts(exam: Exam, count: int, rounds: int) -> Part:
    """Given plans and drafts of held-out prompts, half of them with injected faults.

    Control: the draft of another request in the place of the own one. A reflection that does not
    look at the picture stays as good as it was.
    """
    if not count or not rounds:
        return Part()
    examples = exam.requests("refine_t2i", [None], count, held_out=True)
    requests = [asked(e, "prompt", "explanation", "draft", rounds=rounds) for e in examples]
    traces = exam.traces("refine_t2i", requests, rounds)
    judged = [looks.judge(t, e["requirement"]) for e, t in zip(examples, traces)]
    turns = [looks.turns(t, e["requirement"]) for e, t in zip(examples, judged)]
    section = looks.section("given_drafts", "Refinement of given drafts", turns)
    title = "Given drafts: rounds used against rounds needed"
    used = looks.rounds_section("given_rounds", title, turns, rounds)
    faults = looks.faults_section([(e["faults"], seen) for e, seen in zip(examples, turns)])
    after = wilson(looks.after_round(t, rounds) for t in judged)
    before = wilson(looks.after_round(t, 0) for t in judged)
    headline = {
        "given drafts, before": before,
        f"given drafts, after {rounds} rounds": after,
        "given drafts, fix rate of a round": dict(section.rows)[looks.FIX][0],
        f"given drafts, fixed after {rounds} rounds": dict(section.rows)[looks.FIXED][0],
    }
    sections = [section, used, faults, _shuffled(exam, examples, judged)]
    return Part(sections, headline, {}, judged)


def _shuffled(exam: Exam, examples: Sequence[Example], own: Sequence[Trace]) -> Section:
    """First reflections on faulty drafts, with the own draft and with another one in view."""
    others = [
        asked(e, "prompt", "explanation", draft=other["draft"], rounds=0, id=f"{e['id']}-shuffled")
        for e, other in zip(examples, [*examples[1:], *examples[:1]])
    ]
    traces = exam.traces("refine_t2i", others, 0.25)
    helps, blind, same = [], [], []
    for e, trace, shuffled in zip(examples, own, traces):
        if not e["faults"]:
            continue
        first, second = _first_reflection(trace), _first_reflection(shuffled)
        seen = to_objects(parse(e["draft"]).objects, exam.side)
        helps.append(looks.helps(first, seen, e["requirement"], exam.side))
        blind.append(looks.helps(second, seen, e["requirement"], exam.side))
        same.append(first.split() == second.split())
    rows = (
        ("own draft in view: the reflection brings it nearer", (wilson(helps),)),
        ("another draft in view: the reflection brings the own one nearer", (wilson(blind),)),
        ("the same words for both", (wilson(same),)),
    )
    note = "Faulty drafts only. The picture is used where the second rate is far below the first."
    return Section("shuffled", "Shuffled drafts", ("rate",), rows, note)


def equal_compute(exam: Exam, judged: Judged, rounds: int, judge: Judge | None = None) -> Part:
    """What else the images of refinement could have bought, on the same prompts and plans' budget.

    For every prompt as many fresh images as refinement drew are drawn; one is taken blindly, or
    the exact judge takes a right one. Oracle: the exact judge writes the reflections.
    """
    if not judged or not rounds:
        return Part()
    judge = judge or JUDGE
    examples = [e for e, _ in judged]
    flat = exam.traces("think_t2i", [asked(e, "prompt") for e in examples], 1, samples=1 + rounds)
    drawn = [flat[i : i + 1 + rounds] for i in range(0, len(flat), 1 + rounds)]
    passes = [[judge.passes(e, t.image) for t in samples] for e, samples in zip(examples, drawn)]
    spent = [1 + trace.rounds for _, trace in judged]
    ways = {
        "single draft": [looks.after_round(t, 0) for _, t in judged],
        "refined": [looks.after_round(t, rounds) for _, t in judged],
        "refined, exact judge takes the best": [any(looks.verdicts(t)) for _, t in judged],
        "best of k, no judge": [found[k - 1] for found, k in zip(passes, spent)],
        "best of k, exact judge": [any(found[:k]) for found, k in zip(passes, spent)],
        "oracle reflections": _oracle(exam, judged, rounds, judge),
    }
    groups = {
        name: by_group((e["tag"], ok) for e, ok in zip(examples, values))
        for name, values in ways.items()
    }
    rows = tuple((name, (mean_of_groups(values),)) for name, values in groups.items())
    note = (
        f"Mean of tags on {len(examples)} prompts. k is the number of images that refinement drew "
        f"for the same prompt, {np.mean(spent):.2f} on average."
    )
    title = "Refinement against resampling at equal compute"
    sections = [
        Section("equal_compute", title, ("rate",), rows, note, chart=True),
        reflection.section(judged, passes, rounds),
        _diversity(examples, drawn, judge),
    ]
    outcomes = {f"equal compute, {name}": values for name, values in groups.items()}
    return Part(sections, {}, outcomes)


def _oracle(exam: Exam, judged: Judged, rounds: int, judge: Judge) -> list[bool]:
    """Verdicts after rounds whose reflections the exact judge writes and the model carries out."""
    images = [next(s.image for s in t.steps if s.role == "draft") for _, t in judged]
    for number in range(rounds):
        todo = []
        for place, ((e, trace), image) in enumerate(zip(judged, images)):
            words = judge.words(e, trace, image)
            if words is None:
                continue
            step = {"reflection": words}
            plan = trace.text_of("plan") or ""
            request = asked(e, "prompt", explanation=plan, draft=image, rounds=[step])
            request |= {"final_reflection": "", "id": f"{e['id']}-oracle-{number}"}
            todo.append((place, request))
        found = exam.traces("refine_t2i", [request for _, request in todo], 1) if todo else []
        exam.advance(len(judged) - len(todo))
        for (place, _), trace in zip(todo, found):
            images[place] = trace.image
    return [judge.passes(e, image) for (e, _), image in zip(judged, images)]


def _right_words(example: Example, trace: Trace, image: np.ndarray) -> str | None:
    """The first edit that the exact judge wants, in words; None when there is nothing to say."""
    side = image.shape[0] // CELL
    seen = to_objects(parse(image).objects, side)
    edits = suggest(example["requirement"], seen, side=side)
    return reflection_text(edits[0], seen) if edits else None


def _diversity(
    examples: Sequence[Example], drawn: Sequence[Sequence[Trace]], judge: Judge
) -> Section:
    """Whether the samples of a prompt differ, and whether they are clean pictures."""
    distinct, clean = [], []
    for samples in drawn:
        layouts, residuals = zip(*(judge.seen(trace.image) for trace in samples))
        distinct += [layout not in layouts[:i] for i, layout in enumerate(layouts) if i]
        clean += [residual <= MAX_RESIDUAL for residual in residuals]
    rows = (
        ("a further sample shows a layout not seen before", (wilson(distinct),)),
        (f"unexplained pixels at most {MAX_RESIDUAL:.0%}", (wilson(clean),)),
    )
    note = f"{len(drawn[0])} samples of each of {len(examples)} prompts."
    return Section("samples", "Diversity and cleanness of samples", ("rate",), rows, note)


def _first_reflection(trace: Trace) -> str:
    return next((s.text or "" for s in trace.steps if s.role == "reflection"), "")


def _seen(image: np.ndarray) -> tuple[Any, float]:
    found = parse(image)
    return to_objects(found.objects, image.shape[0] // CELL), found.residual


JUDGE = Judge(
    passes=lambda example, image: check_image(example["requirement"], image).passed,
    words=_right_words,
    seen=_seen,
)
