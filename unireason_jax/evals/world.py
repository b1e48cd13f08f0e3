"""The embedded world's evaluation: what a checkpoint draws, edits, answers and repairs.

All requests are held out from training (by the hash of their text, or by (shape, colour) pair), and
the judge is exact: it parses the picture and compares it with what was asked for.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals import plans, refinement
from unireason_jax.evals.rates import Rate, by_group, mean_of_groups, wilson
from unireason_jax.evals.report import Report, Section
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.trace import Trace
from unireason_jax.world import editing, knowledge, prompts, questions, tasks
from unireason_jax.world.scenes import CELL
from unireason_jax.world.verifier import check_edit, check_image

KEPT = 4.0
FIX = "fix rate: right after a round, wrong before"
_GROUP = 1_000_000
Example = dict[str, Any]
Advance = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is evaluated; 0 leaves a part out.

    Attributes:
      prompts: held-out prompts per GenEval-like tag (6 tags).
      pairs: prompts per tag with a (shape, colour) pair never seen in training (3 tags).
      knowledge: prompts per knowledge domain (5 domains).
      edits: instructions per operation (9 operations).
      questions: questions per kind (8 kinds).
      drafts: given drafts, three in four with a fault, to be refined.
      rounds: most refinement rounds.
      seed: of the requests.
    """

    prompts: int = 84
    pairs: int = 24
    knowledge: int = 40
    edits: int = 24
    questions: int = 24
    drafts: int = 128
    rounds: int = 3
    seed: int = 1

    def __post_init__(self) -> None:
        """Raises ValueError on a negative size."""
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"{field.name} must be >= 0 (0 leaves the part out).")

    def cost(self) -> float:
        """Images that will be drawn at most, the unit of progress."""
        return (
            self.prompts * len(prompts.TAGS) * (2 + self.rounds)
            + self.pairs * len(prompts.UNSEEN_PAIR_TAGS)
            + self.knowledge * len(knowledge.DOMAINS) * 2
            + self.edits * len(editing.OPS)
            + self.questions * len(questions.KINDS) * 0.25
            + self.drafts * self.rounds
        )


def evaluate(
    reasoner: Reasoner, sizes: Sizes | None = None, *, advance: Advance | None = None
) -> Report:
    """Runs every part and gathers the tables.

    Args:
      reasoner: a model of the world; its settings decide how it is sampled.
      sizes: how much of each part.
      advance: called with the cost (see `Sizes.cost`) of what was just finished.

    Returns:
      A report with two judged traces of every tag to show.
    """
    sizes = sizes or Sizes()
    run = _Run(reasoner, sizes, advance or (lambda cost: None))
    started = time.perf_counter()
    headline: dict[str, Rate] = {}
    sections: list[Section] = []
    shown: list[Trace] = []
    for part in (_text_to_image, _pairs, _knowledge, _edits, _questions, _drafts):
        found, rates, traces = part(run)
        sections += found
        headline |= rates
        shown += traces
    seconds = time.perf_counter() - started
    facts = {
        "canvas": f"{run.side * CELL} x {run.side * CELL} pixels",
        "seed of the requests": sizes.seed,
        "conversations": run.conversations,
        "images drawn": run.images,
        "time": f"{seconds:.0f} s, {run.images / max(seconds, 1e-9):.1f} images/s with judging",
    }
    return Report("World report", facts, tuple(sections), tuple(shown), headline)


class _Run:
    """The reasoner, the sizes, and counters."""

    def __init__(self, reasoner: Reasoner, sizes: Sizes, advance: Advance):
        self.reasoner, self.sizes, self.advance = reasoner, sizes, advance
        self.side = reasoner.settings.size[0] // CELL
        self.conversations = self.images = 0
        self.seen_wording: dict[str, set[str]] = {}

    def requests(self, task: str, groups: Sequence[str], count: int, **split: Any) -> list[Example]:
        """`count` examples of a task per group.

        A group with so few wordings that none is held out gives seen ones; `seen_wording` notes it.
        """
        seed, out = self.sizes.seed, []
        for place, group in enumerate(groups):
            for number in range(count):
                options = {"tag": group, "side": self.side, **split}
                index = place * _GROUP + number
                try:
                    found = tasks.example(seed, index, task, **options)
                except ValueError:
                    if not split.get("held_out"):
                        raise
                    found = tasks.example(seed, index, task, **options | {"held_out": False})
                    self.seen_wording.setdefault(task, set()).add(str(group))
                out.append(found)
        return out

    def note(self, task: str) -> str:
        """A sentence about groups without held-out wordings, empty if there are none."""
        groups = sorted(self.seen_wording.get(task, ()))
        if not groups:
            return ""
        names = ", ".join(groups)
        return f" The wording of {names} is (partly) seen in training, the pictures are not."

    def traces(self, template: str, requests: Iterable[Example], cost: float) -> list[Trace]:
        """Conversations of a template over requests."""
        records = [TEMPLATES[template](request) for request in requests]
        out = self.reasoner.run(records, progress=lambda count: self.advance(count * cost))
        self.conversations += len(out)
        self.images += sum(len(trace.images) for trace in out)
        return out


Part = tuple[list[Section], dict[str, Rate], list[Trace]]


def _asked(example: Example, *keys: str, **more: Any) -> Example:
    """The part of an example that a model gets to see."""
    kept = ("id", "tag", "op", "domain", *keys)
    return {key: example[key] for key in kept if key in example} | more


def _table(groups: Sequence[tuple[str, Sequence[Rate]]]) -> tuple:
    return tuple((name, tuple(rates)) for name, rates in groups)


def _text_to_image(run: _Run) -> Part:
    """Held-out prompts: prompt only, with plan, with plan and refinement."""
    count, rounds = run.sizes.prompts, run.sizes.rounds
    if not count:
        return [], {}, []
    examples = run.requests("t2i", prompts.TAGS, count, held_out=True, render=False)
    plain = run.traces("t2i", [_asked(e, "prompt") for e in examples], 1)
    asked = [_asked(e, "prompt", rounds=rounds) for e in examples]
    planned = run.traces("refine_t2i", asked, 1 + rounds)
    passed = [check_image(e["requirement"], t.image).passed for e, t in zip(examples, plain)]
    judged = [
        refinement.judge(trace, e["requirement"], caption=[e["tag"].replace("_", " ")])
        for e, trace in zip(examples, planned)
    ]
    modes = {
        "prompt only": passed,
        "with plan": [refinement.after_round(t, 0) for t in judged],
        "plan + refinement": [refinement.after_round(t, rounds) for t in judged],
    }
    groups = {
        mode: by_group((e["tag"], ok) for e, ok in zip(examples, values))
        for mode, values in modes.items()
    }
    means = {mode: mean_of_groups(values) for mode, values in groups.items()}
    rows = [(tag, [wilson(groups[mode][tag]) for mode in modes]) for tag in prompts.TAGS]
    rows.append(("mean of tags", list(means.values())))
    distinct = len({e["prompt"] for e in examples})
    note = (
        f"Strict verdict (exactly the objects asked for) on {distinct} distinct prompts; at most "
        f"{rounds} rounds, {refinement.mean_rounds(judged):.2f} used on average."
    )
    title = "Held-out prompts by tag"
    found = [Section("prompts", title, tuple(modes), _table(rows), note, chart=True)]
    steps = [
        (
            f"after round {n}",
            [
                mean_of_groups(
                    by_group(
                        (e["tag"], refinement.after_round(t, n)) for e, t in zip(examples, judged)
                    )
                )
            ],
        )
        for n in range(rounds + 1)
    ]
    note = "Mean of tags of what is shown after at most so many rounds; round 0 is the draft."
    found.append(Section("by_round", "Rounds of refinement", ("rate",), _table(steps), note))
    found.append(plans.section(judged, [e["requirement"] for e in examples]))
    turns = [refinement.turns(t, e["requirement"]) for e, t in zip(examples, judged)]
    found.append(refinement.section("own_drafts", "Refinement of own drafts", turns))
    found.append(refinement.rounds_section(turns, rounds))
    headline = {f"held-out prompts, {mode}": rate for mode, rate in means.items()}
    shown = [t for tag in range(len(prompts.TAGS)) for t in judged[tag * count :][: min(2, count)]]
    return found, headline, shown


def _pairs(run: _Run) -> Part:
    """Prompts that name a (shape, colour) pair which no training picture shows."""
    tags, count = prompts.UNSEEN_PAIR_TAGS, run.sizes.pairs
    examples = run.requests("t2i", tags, count, unseen_pairs=True, render=False)
    if not examples:
        return [], {}, []
    traces = run.traces("t2i", [_asked(e, "prompt") for e in examples], 1)
    groups = by_group(
        (e["tag"], check_image(e["requirement"], t.image).passed) for e, t in zip(examples, traces)
    )
    mean = mean_of_groups(groups)
    rows = [(tag, [wilson(groups[tag])]) for tag in tags] + [("mean of tags", [mean])]
    title, note = "Unseen (shape, colour) pairs, prompt only", "No training picture has the pair."
    found = Section("pairs", title, ("rate",), _table(rows), note)
    return [found], {"unseen pairs, prompt only": mean}, []


def _knowledge(run: _Run) -> Part:
    """Prompts that do not name what to draw, with and without a plan."""
    examples = run.requests(
        "knowledge", knowledge.DOMAINS, run.sizes.knowledge, held_out=True, render=False
    )
    if not examples:
        return [], {}, []
    columns = {}
    for name, template in {"without plan": "t2i", "with plan": "think_t2i"}.items():
        traces = run.traces(template, [_asked(e, "prompt") for e in examples], 1)
        columns[name] = by_group(
            (e["domain"], check_image(e["requirement"], t.image).passed)
            for e, t in zip(examples, traces)
        )
    means = {name: mean_of_groups(groups) for name, groups in columns.items()}
    rows = [(d, [wilson(groups[d]) for groups in columns.values()]) for d in knowledge.DOMAINS]
    rows.append(("mean of domains", list(means.values())))
    title, note = "World knowledge by domain", "The prompt implies what to draw; wording held out."
    found = Section("knowledge", title, tuple(columns), _table(rows), note, chart=True)
    return [found], {f"knowledge, {name}": rate for name, rate in means.items()}, []


def _edits(run: _Run) -> Part:
    """Edit instructions, and how well the rest of the picture is kept."""
    examples = run.requests("edit", editing.OPS, run.sizes.edits, held_out=True)
    if not examples:
        return [], {}, []
    asked = [_asked(e, "instruction", "input_image") for e in examples]
    traces = run.traces("edit", asked, 1)
    right, kept = [], []
    for e, trace in zip(examples, traces):
        image = e["input_image"]
        verdict = check_edit(e["requirement"], e["source"], e["scene"], image, trace.image)
        right.append((e["op"], verdict.passed))
        kept.append((e["op"], verdict.outside <= KEPT))
    rights, keeps = by_group(right), by_group(kept)
    means = mean_of_groups(rights), mean_of_groups(keeps)
    rows = [(op, [wilson(rights[op]), wilson(keeps[op])]) for op in editing.OPS]
    rows.append(("mean of operations", list(means)))
    note = f"Kept: mean absolute difference outside the edited cells at most {KEPT:.0f} of 255."
    note += run.note("edit")
    found = Section("edits", "Edits by operation", ("right", "kept"), _table(rows), note, True)
    return [found], {"edits": means[0]}, []


def _questions(run: _Run) -> Part:
    """Questions about pictures: exact match of the answer."""
    examples = run.requests("vqa", questions.KINDS, run.sizes.questions, held_out=True)
    if not examples:
        return [], {}, []
    traces = run.traces("vqa", [_asked(e, "image", "question") for e in examples], 0.25)
    groups = by_group(
        (e["tag"], (t.text_of("answer") or "").split() == e["answer"].split())
        for e, t in zip(examples, traces)
    )
    mean = mean_of_groups(groups)
    rows = [(kind, [wilson(groups[kind])]) for kind in questions.KINDS] + [
        ("mean of kinds", [mean])
    ]
    found = Section(
        "questions", "Questions about pictures", ("rate",), _table(rows), "Exact match."
    )
    return [found], {"questions": mean}, []


def _drafts(run: _Run) -> Part:
    """Given plans and drafts of held-out prompts, most of them with injected faults."""
    count, rounds = run.sizes.drafts, run.sizes.rounds
    if not count or not rounds:
        return [], {}, []
    examples = run.requests("refine_t2i", [None], count, held_out=True)
    asked = [_asked(e, "prompt", "explanation", "draft", rounds=rounds) for e in examples]
    traces = run.traces("refine_t2i", asked, rounds)
    judged = [refinement.judge(t, e["requirement"]) for e, t in zip(examples, traces)]
    turns = [refinement.turns(t, e["requirement"]) for e, t in zip(examples, judged)]
    name = "Refinement of given drafts"
    found = refinement.section("given_drafts", name, turns)
    after = wilson(refinement.after_round(t, rounds) for t in judged)
    before = wilson(refinement.after_round(t, 0) for t in judged)
    headline = {"given drafts, before": before, f"given drafts, after {rounds} rounds": after}
    return [found], headline | {"given drafts, fix rate": dict(found.rows)[FIX][0]}, []
