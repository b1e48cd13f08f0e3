"""GenEval 2 (Kamath et al. 2025): Soft-TIFA, how probable the right answer to every question is.

Every prompt has questions about its atoms (objects, attributes, counts, relations) with one right
answer each; a question scores the probability that the judge's first token gives to that answer,
for a count also as a digit. Of a picture's scores the geometric mean (GM, right as a whole) and the
arithmetic mean (AM, right by atom) are taken, and the mean over prompts, times 100. Skills are AM
over their questions, atomicities GM over their prompts.

A judge without probabilities answers in words, which count 1 or 0 (that is TIFA, not Soft-TIFA);
the report says how many answers had probabilities. Official: Qwen3-VL-8B-Instruct, one picture a
prompt, "answer in one word". The official script takes its pictures by a JSON map from prompt to
file, so `{line}.png` is our layout. Prompts are CC BY-NC: use your copy.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Question, Scored, Scores, Suite

RUBRICS = {"answer": "{question} Answer with one word."}
DIGITS = dict(zip("zero one two three four five six seven eight nine ten".split(), range(11)))
SOFT = "answers with probabilities"


def load(path: Path) -> list[Item]:
    """Items of JSON lines {prompt, atom_count, vqa_list: [[question, answer]], skills: [...]}."""
    items = []
    for number, row in enumerate(base.read_rows(path)):
        asked = base.field(path, number, row, "vqa_list", list)
        skills = base.field(path, number, row, "skills", list)
        base.field(path, number, row, "atom_count", int)
        if not asked or not all(_is_question(pair) for pair in asked):
            raise ValueError(
                f"{path}, item {number}: field 'vqa_list' is no list of [question, answer]."
            )
        if len(skills) != len(asked):
            raise ValueError(
                f"{path}, item {number}: {len(asked)} questions, {len(skills)} skills."
            )
        items.append(Item(f"{number:05d}", base.field(path, number, row, "prompt"), (), row))
    return base.checked(path, items)


def _is_question(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)


def questions(item: Item, place: str, image: Path, rubrics: Mapping[str, str]) -> list[Question]:
    """One call a question; the judge is asked for its probabilities."""
    return [
        Question(
            f"{place}/{number}",
            str(number),
            base.fill(rubrics["answer"], question=words),
            (image,),
            item,
            soft=True,
        )
        for number, (words, _) in enumerate(item.raw["vqa_list"])
    ]


def read(question: Question, answer: str) -> Scores:
    """The right answer's probability from {token: probability}, or 1 or 0 from a word."""
    right = question.item.raw["vqa_list"][int(question.step)][1].strip().lower()
    forms = {right, str(DIGITS.get(right, right))}
    if answer.lstrip().startswith("{"):
        likely = base.json_object(answer)
        found = (base.in_range(p, 0, 1) for token, p in likely.items() if _word(token) in forms)
        return {"score": min(sum(found), 1.0), "soft": 1.0}
    words = base.clean(answer).split()
    if len(words) != 1:
        raise base.Malformed(f"not one word: {answer[:120]!r}")
    return {"score": float(_word(words[0]) in forms), "soft": 0.0}


def _word(token: str) -> str:
    return token.strip(" \t\n.,!?\"'").lower()


def aggregate(scored: Sequence[Scored]) -> Scores:
    """GM and AM over prompts, then AM by skill and GM by atomicity."""
    answers = [answer for image in scored for answer in image.scores.values()]
    found = {
        "Soft-TIFA GM": 100 * base.mean(geometric_mean(scores(image)) for image in scored),
        "Soft-TIFA AM": 100 * base.mean(base.mean(scores(image)) for image in scored),
        SOFT: 100 * base.mean(answer["soft"] for answer in answers),
    }
    skills: dict[str, list[float]] = {}
    for image in scored:
        for skill, score in zip(image.item.raw["skills"], scores(image)):
            skills.setdefault(str(skill), []).append(100 * score)
    found |= {f"AM, {skill}": base.mean(values) for skill, values in sorted(skills.items())}
    for atoms, images in sorted(base.by_group(scored, _atoms).items(), key=lambda x: int(x[0])):
        found[f"GM, atomicity {atoms}"] = 100 * base.mean(geometric_mean(scores(x)) for x in images)
    return found


def scores(image: Scored) -> list[float]:
    """Of every question, in their order."""
    return [image.scores[str(n)]["score"] for n in range(len(image.item.raw["vqa_list"]))]


def geometric_mean(values: Sequence[float]) -> float:
    """0 where one of them is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(base.mean(map(math.log, values)))


def _atoms(item: Item) -> str:
    return str(item.raw["atom_count"])


SUITE = Suite(
    "geneval2",
    "Qwen3-VL-8B-Instruct",
    load,
    base.one_png,
    questions,
    read,
    _atoms,
    aggregate,
    RUBRICS,
    about="Soft-TIFA only where all answers have probabilities; else those count 1 or 0 (TIFA)",
)
