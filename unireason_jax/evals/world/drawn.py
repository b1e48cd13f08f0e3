"""Pictures from prompts: by tag, with unseen pairs of shape and colour, and world knowledge."""

from collections.abc import Sequence

from unireason_jax.evals.rates import by_group, mean_of_groups
from unireason_jax.evals.world import looks, plans
from unireason_jax.evals.world.exam import Exam, Example, Groups, Part, asked, table
from unireason_jax.evals.world.report import Section
from unireason_jax.inference.trace import Trace
from unireason_jax.world import knowledge, prompts
from unireason_jax.world.verifier import check_image

Judged = list[tuple[Example, Trace]]


def held_out_prompts(exam: Exam, count: int, rounds: int) -> tuple[Part, Judged]:
    """Held-out prompts: prompt only, with plan, with plan and refinement.

    Returns:
      The part, and every request with its judged trace of plan, draft and refinements.
    """
    if not count:
        return Part(), []
    examples = exam.requests("t2i", prompts.TAGS, count, held_out=True, render=False)
    plain = exam.traces("t2i", [asked(e, "prompt") for e in examples], 1)
    planned = exam.traces(
        exam.conversation, [asked(e, "prompt", rounds=rounds) for e in examples], 1 + rounds
    )
    judged = [
        (e, looks.judge(trace, e["requirement"], caption=[e["tag"].replace("_", " ")]))
        for e, trace in zip(examples, planned)
    ]
    columns = {"prompt only": _right("tag", examples, plain)} | by_rounds("tag", judged, rounds)
    rows, means = table(columns, "mean of tags")
    distinct = len({e["prompt"] for e in examples})
    traces = [trace for _, trace in judged]
    note = (
        f"Strict verdict (exactly the objects asked for) on {distinct} distinct prompts; at most "
        f"{rounds} rounds, {looks.mean_rounds(traces):.2f} used on average."
    )
    title = "Held-out prompts by tag"
    turns = [looks.turns(trace, e["requirement"]) for e, trace in judged]
    sections = [
        Section("prompts", title, tuple(columns), tuple(rows), note, chart=True),
        _gain("by_round", "Rounds of refinement", "tag", judged, rounds),
        plans.section(traces, [e["requirement"] for e in examples]),
        looks.section("own_drafts", "Refinement of own drafts", turns),
        looks.rounds_section("rounds", "Rounds used against rounds needed", turns, rounds),
    ]
    headline = {f"held-out prompts, {mode}": rate for mode, rate in means.items()}
    named = columns | {f"round {n}": _after("tag", judged, n) for n in range(rounds + 1)}
    outcomes = {f"held-out prompts, {mode}": groups for mode, groups in named.items()}
    return Part(sections, headline, outcomes, traces), judged


def unseen_pairs(exam: Exam, count: int) -> Part:
    """Prompts that name a (shape, colour) pair which no training picture shows."""
    if not count:
        return Part()
    tags = prompts.UNSEEN_PAIR_TAGS
    examples = exam.requests("t2i", tags, count, unseen_pairs=True, render=False)
    traces = exam.traces("t2i", [asked(e, "prompt") for e in examples], 1)
    groups = _right("tag", examples, traces)
    rows, means = table({"rate": groups}, "mean of tags")
    title, note = "Unseen (shape, colour) pairs, prompt only", "No training picture has the pair."
    section = Section("pairs", title, ("rate",), tuple(rows), note)
    name = "unseen pairs, prompt only"
    return Part([section], {name: means["rate"]}, {name: groups})


def world_knowledge(exam: Exam, count: int, rounds: int) -> Part:
    """Prompts that do not name what to draw: prompt only, with plan, refined; and two controls.

    Controls: the hint names what to draw, so it separates knowing from drawing; a wrong plan, of
    another fact of the same kind, tells whether the picture follows the plan or the prompt.
    """
    if not count:
        return Part()
    examples = exam.requests("knowledge", knowledge.DOMAINS, count, held_out=True, render=False)
    plain = exam.traces("t2i", [asked(e, "prompt") for e in examples], 1)
    planned = exam.traces(
        exam.conversation, [asked(e, "prompt", rounds=rounds) for e in examples], 1 + rounds
    )
    judged = [
        (e, looks.judge(t, e["requirement"], caption=[e["domain"]]))
        for e, t in zip(examples, planned)
    ]
    columns = {"prompt only": _right("domain", examples, plain)}
    columns |= by_rounds("domain", judged, rounds)
    rows, means = table(columns, "mean of domains")
    note = "The prompt implies what to draw; its wording is held out."
    title = "World knowledge by domain"
    sections = [
        Section("knowledge", title, tuple(columns), tuple(rows), note, chart=True),
        _gain("knowledge_by_round", "Rounds on knowledge prompts", "domain", judged, rounds),
    ]
    hints = exam.traces(
        "t2i", [asked(e, prompt=e["hint"], id=f"{e['id']}-hint") for e in examples], 1
    )
    misled = exam.traces(
        "think_t2i",
        [asked(e, "prompt", think=e["wrong_think"], id=f"{e['id']}-wrong") for e in examples],
        1,
    )
    controls = {
        "hint instead of prompt": _right("domain", examples, hints),
        "wrong plan given: right": _right("domain", examples, misled),
        "wrong plan given: follows it": _right(
            "domain", examples, misled, requirement="wrong_requirement"
        ),
    }
    rows, _ = table(controls, "mean of domains")
    note = (
        "The hint names what to draw. A model that draws what its plan says scores high in the "
        "last column and low in the one before."
    )
    title = "Knowledge: hints and wrong plans"
    sections.append(Section("knowledge_controls", title, tuple(controls), tuple(rows), note))
    outcomes = {f"knowledge, {mode}": groups for mode, groups in (columns | controls).items()}
    headline = {f"knowledge, {mode}": rate for mode, rate in means.items()}
    return Part(sections, headline, outcomes, [trace for _, trace in judged])


def by_rounds(key: str, judged: Judged, rounds: int) -> dict[str, Groups]:
    """Verdicts on drafts and on what is shown after the last round, by example[key]."""
    names = {"with plan": 0, "plan + refinement": rounds}
    return {name: _after(key, judged, number) for name, number in names.items()}


def _after(key: str, judged: Judged, number: int) -> Groups:
    return by_group((e[key], looks.after_round(t, number)) for e, t in judged)


def _right(
    key: str,
    examples: Sequence[Example],
    traces: Sequence[Trace],
    requirement: str = "requirement",
) -> Groups:
    """Exact verdicts on last images by example[key]."""
    return by_group(
        (e[key], check_image(e[requirement], t.image).passed) for e, t in zip(examples, traces)
    )


def _gain(name: str, title: str, key: str, judged: Judged, rounds: int) -> Section:
    """Rate after every round."""
    rows = [
        (f"after round {n}", (mean_of_groups(_after(key, judged, n)),)) for n in range(rounds + 1)
    ]
    note = f"Mean of {key}s of what is shown after at most so many rounds; round 0 is the draft."
    return Section(name, title, ("rate",), tuple(rows), note, chart=True)
