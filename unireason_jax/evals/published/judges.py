"""Judges by name: the model, how it is asked, and how its answer is read.

A preset is a published judge, open or closed, for the suites that it was published for. It gives
the model's name and request; two change the questions and the reading too: judges of the VIEScore
form rate 0 to 25 instead of 0 to 10, and a judge of pairs compares with the pictures of another
run. Rubrics are the suite's, ours unless `--rubrics` gives the official words.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unireason_jax.evals.published import base
from unireason_jax.evals.published.base import Item, Question, Scored, Scores, Suite

NO_THINKING = {"chat_template_kwargs": {"enable_thinking": False}}
EDITS = ("gedit", "imgedit", "kris", "uniredit", "rise")
TIE = 0.5


@dataclasses.dataclass(frozen=True)
class JudgePreset:
    """A judge.

    Attributes:
      model: name at the endpoint, which `--judge_model` replaces.
      suites: what it judges, each with fields of the request.
      source: where the judge was published.
      ours: what is not the published protocol.
      scale: of a VIEScore list; 0 for a judge that answers as the suite's own.
      pairs: it compares two edits.
    """

    model: str
    suites: Mapping[str, Mapping[str, Any]]
    source: str
    ours: str
    scale: float = 0.0
    pairs: bool = False


_WORDS = "the words, unless --rubrics gives the official ones"
JUDGES = {
    "qwen3.5-35b-a3b": JudgePreset(
        "Qwen/Qwen3.5-35B-A3B",
        {"wise": {"temperature": 0.0, "max_tokens": 500, **NO_THINKING}, "corebench": NO_THINKING},
        "PKU-YuanGroup/WISE (WISE_Verified); KlingTeam/T2I-CoReBench",
        _WORDS,
    ),
    "unifiedreward-edit": JudgePreset(
        "UnifiedReward",
        {"gedit": {"temperature": 0.0}},
        "CodeGoat24/UnifiedReward, UnifiedReward-Edit-qwen3vl-8b: two scores of 0 to 25 for the "
        "edit, two for quality",
        f"{_WORDS}; temperature 0; that GEdit's O is made of the scores, divided by 2.5",
        scale=25,
    ),
    "editscore": JudgePreset(
        "EditScore/EditScore-7B",
        {"gedit": {"temperature": 0.7, "seed": 42}},
        "VectorSpaceLab/EditScore: VIEScore of 0 to 25, sqrt(SC PQ) of the smaller scores",
        f"{_WORDS}; one pass (the published ensemble takes the mean of four, seeds 42 to 45)",
        scale=25,
    ),
    "pvc-judge": JudgePreset(
        "PVC-Judge",
        {name: {"temperature": 0.7, "seed": 42, "max_tokens": 1024} for name in EDITS},
        "ZhangqiJiang07/GEditBench_v2: which of two edits keeps what should not change, or a tie",
        f"{_WORDS}; both orders are asked; a win rate against one run in the place of an Elo",
        pairs=True,
    ),
    "qwen3-vl-8b": JudgePreset(
        "Qwen/Qwen3-VL-8B-Instruct",
        {"geneval2": {"temperature": 0.0}},
        "facebookresearch/GenEval2",
        "at most 20 of the first token's probabilities",
    ),
    "qwen2.5-vl-7b": JudgePreset(
        "Qwen/Qwen2.5-VL-7B-Instruct", {"oneig": {}}, "OneIG-Bench/OneIG-Benchmark", _WORDS
    ),
    "qwen2.5-vl-72b": JudgePreset(
        "Qwen/Qwen2.5-VL-72B-Instruct",
        {"tiif": {"temperature": 1.0}, "gedit": {}},
        "A113N-W3I/TIIF-Bench; stepfun-ai/Step1X-Edit (as AWQ)",
        _WORDS,
    ),
    "gpt-4o-2024-05-13": JudgePreset(
        "gpt-4o-2024-05-13",
        {"wise_legacy": {"temperature": 0.0}},
        "PKU-YuanGroup/WISE (legacy); closed",
        _WORDS,
    ),
    "gpt-4o-2024-11-20": JudgePreset(
        "gpt-4o-2024-11-20",
        {"wise_legacy": {"temperature": 0.0}, "kris": {}, "imgedit": {}},
        "ByteDance-Seed/Bagel's evaluation; closed",
        _WORDS,
    ),
    "gpt-4o": JudgePreset(
        "gpt-4o", {"tiif": {"temperature": 1.0}}, "A113N-W3I/TIIF-Bench; closed", _WORDS
    ),
    "gpt-4.1": JudgePreset(
        "gpt-4.1-2025-04-14",
        {"uniredit": {"temperature": 0.0, "max_tokens": 4096}, "gedit": {}, "rise": {}},
        "Maplebb/UniREditBench; stepfun-ai/Step1X-Edit; PhoenixZ810/RISEBench; closed",
        _WORDS,
    ),
    "gemini-2.5-flash": JudgePreset(
        "gemini-2.5-flash", {"corebench": {}}, "KlingTeam/T2I-CoReBench; closed", _WORDS
    ),
}
"""By name, open judges first. Fields of a request that a source does not tell are ours."""

PAIR = {
    "pair": (
        "First picture: before the edit '{prompt}'; then picture A and picture B, two results of "
        "it. In which is what should not change kept better: identity, structure, look? "
        'Answer {"winner": "A"}, {"winner": "B"} or {"winner": "Tie"}'
    )
}
_WINNERS = {
    **dict.fromkeys(("image_a", "image a", "a"), 1.0),
    **dict.fromkeys(("image_b", "image b", "b"), 0.0),
    **dict.fromkeys(("tie", "equal", "both", "none"), TIE),
}


def find(name: str, suite: str) -> JudgePreset:
    """The judge of a name. Raises ValueError where there is none, or it judges other suites."""
    if name not in JUDGES:
        near = difflib.get_close_matches(name, JUDGES, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise ValueError(f"--judge_preset {name}: {hint}there are {', '.join(JUDGES)}.")
    preset = JUDGES[name]
    if suite not in preset.suites:
        fit = ", ".join(n for n, one in JUDGES.items() if suite in one.suites) or "none"
        raise ValueError(
            f"--judge_preset {name} judges {', '.join(preset.suites)}, not {suite}; for that there "
            f"is {fit}."
        )
    return preset


def table() -> str:
    """All judges: name, model, suites, where they are from, what is ours."""
    return "\n".join(
        f"{name}: {one.model}, for {', '.join(one.suites)}\n    from {one.source}\n    "
        f"ours: {one.ours}"
        for name, one in JUDGES.items()
    )


def asked(suite: Suite, preset: JudgePreset, against: Path | None) -> Suite:
    """The suite as a judge is asked.

    Args:
      suite: what is judged.
      preset: who judges.
      against: for a judge of pairs, the folder of pictures to compare with.

    Raises:
      ValueError: a folder without a judge of pairs, or the other way round.
    """
    if preset.pairs and against is None:
        raise ValueError(f"{preset.model} compares pairs: give --against DIR, another run's --out.")
    if against is not None and not preset.pairs:
        raise ValueError(f"--against: {preset.model} rates pictures and compares none.")
    if against is not None:
        return _of_pairs(suite, against)
    if not preset.scale:
        return suite
    asks = {
        step: w.replace("0 to 10", f"0 to {preset.scale:g}") for step, w in suite.rubrics.items()
    }
    return dataclasses.replace(suite, read=_vie(preset.scale), rubrics=asks)


def _vie(scale: float) -> Callable[[Question, str], Scores]:
    """Reads `{"score": [a, b]}` of a judge whose best is `scale`, as 0 to 10."""

    def read(question: Question, answer: str) -> Scores:
        return {question.step: base.smaller_score(answer, scale) * 10 / scale}

    return read


def _of_pairs(suite: Suite, against: Path) -> Suite:
    """Every picture against the one of its place in another folder, in both orders."""

    def questions(
        item: Item, place: str, image: Path, rubrics: Mapping[str, str]
    ) -> list[Question]:
        words, other = base.fill(rubrics["pair"], prompt=item.prompt), against / place
        if not other.is_file():
            raise ValueError(f"--against: {other} is missing; both runs need the same pictures.")
        return [
            Question(
                f"{place}/{step}",
                step,
                words,
                (*item.sources, *pair),
                item,
                (*("Before the edit:" for _ in item.sources), "Picture A:", "Picture B:"),
            )
            for step, pair in {"first": (image, other), "second": (other, image)}.items()
        ]

    return dataclasses.replace(
        suite,
        questions=questions,
        read=_winner,
        aggregate=lambda scored: _win_rate(suite, scored),
        rubrics=PAIR,
        official_judge="PVC-Judge",
        about=f"pairs with the pictures of {against}; 1 is a win in both orders, 0.5 a tie",
        best=1,
    )


def _winner(question: Question, answer: str) -> Scores:
    """1 where the picture that is judged wins, 0 where it loses, 0.5 for a tie."""
    words = base.clean(answer)
    if "{" in words:
        words = str(base.json_object(words).get("winner", ""))
    name = re.sub(r"\s+", " ", words.replace("picture", "image", 1).replace("Picture", "image", 1))
    found = _WINNERS.get(name.strip(" .!\"'").lower())
    if found is None:
        raise base.Malformed(f"neither A, B nor a tie: {answer[:120]!r}")
    return {question.step: found if question.step == "first" else 1 - found}


def _win_rate(suite: Suite, scored: Sequence[Scored]) -> Scores:
    """Mean of the groups, of the images, and how often the order decided; then the groups."""
    groups = {
        name: base.mean(base.mean(image.all().values()) for image in images)
        for name, images in base.by_group(scored, suite.group).items()
    }
    swayed = (abs(image.all()["first"] - image.all()["second"]) == 1 for image in scored)
    return {
        "win rate, mean of groups": base.mean(groups.values()),
        "win rate, mean of images": base.mean(base.mean(i.all().values()) for i in scored),
        "the order decides": base.mean(map(float, swayed)),
    } | {f"win rate, {name}": value for name, value in groups.items()}
