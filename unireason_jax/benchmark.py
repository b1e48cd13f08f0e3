"""`unireason benchmark`: public benchmarks: draw in their layout, ask a judge, apply the formula.

    unireason benchmark --suite wise --prompts wise.json --checkpoint runs/x --mode plan \\
        --out runs/wise --judge_url http://127.0.0.1:8000/v1 --judge_model NAME
    unireason benchmark --suite geneval --prompts evaluation_metadata.jsonl --out runs/geneval \\
        --detections seen.json
    unireason benchmark --write_world runs/world_prompts
    unireason benchmark --suite kris --prompts runs/world_prompts/kris.json --checkpoint runs/x \\
        --out runs/kris --judge program

Suites: wise (verified), wise_legacy, geneval, geneval2, kris, uniredit, gedit, imgedit, dpg, tiif,
rise, corebench, oneig, compbench (T2I-CompBench++). Prompt files are yours; the world's own sets
come in the same formats with the truth inside. A figure is a paper's only under its protocol:
preset (`--preset list` names all), official rubrics (--rubrics) and judge; the report says which,
and a hash of all.

--reflection adds what refinement was worth: accuracy by edits allowed, repair and damage rate, and
what as many fresh drafts reach. Steps lie in OUT/edits/N, fresh drafts in OUT/fresh/N.

Started again, the command draws and asks only what is missing; another preset or setting needs
another folder. A failed judge call is tried again, then recorded as missing, never as zero; the
report states the coverage. Several hosts share drawing and judging. The key of an endpoint is read
from the environment variable that --judge_key names.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from unireason_jax.evals.progress import Progress
from unireason_jax.evals.published import (
    SUITES,
    asking,
    draw,
    judges,
    refined,
    scoring,
    world_sets,
)
from unireason_jax.evals.published.base import Item, Scored, Suite
from unireason_jax.evals.published.world_judge import ProgramJudge
from unireason_jax.inference import default_preset
from unireason_jax.inference.load import add_flags, from_flags, told
from unireason_jax.inference.settings import identity
from unireason_jax.pods import pod, sharding
from unireason_jax.run import command_line
from unireason_jax.storage.journal import Journal, shared

DETECTIONS = (
    "geneval: a detector's JSON file; compbench: a folder of the official scripts' answers; tiif: "
    "a model's folder of the published answers"
)
_SLOWEST = 30 * 24 * 3600.0  # seconds that processes wait for each other's share


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason benchmark",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--suite", choices=tuple(SUITES))
    found.add_argument("--prompts", type=command_line.path, help="the benchmark's prompt file")
    found.add_argument(
        "--out", type=command_line.path, help="folder for images, answers and report"
    )
    found.add_argument("--checkpoint", help="draw with this run; without it images must be there")
    default_preset.add_preset(found, "that of --mode")
    about = "without --preset: the checkpoint's templates with its own settings (default prompt)"
    found.add_argument("--mode", choices=tuple(draw.MODES), help=about)
    found.add_argument("--rounds", type=int, help="most rounds of refinement (default: 3)")
    about = "judge drafts and edits too, beside as many fresh drafts: what refinement is worth"
    found.add_argument("--reflection", action="store_true", help=about)
    found.add_argument("--limit", type=int, default=0, help="only the first items")
    found.add_argument(
        "--write_world", type=command_line.path, help="write the world's prompt sets, then end"
    )
    found.add_argument("--seed", type=int, default=1, help="of --write_world")
    judge = found.add_argument_group("judge")
    judge.add_argument("--judge", choices=("program",), help="the world's exact judge")
    about = "published judge by name: its model, request and reading; `list` shows all"
    judge.add_argument(
        "--judge_preset", action=command_line.listing(judges.table), metavar="NAME", help=about
    )
    judge.add_argument(
        "--against", type=command_line.path, help="a judge of pairs: --out of another run"
    )
    judge.add_argument("--judge_url", help="OpenAI-compatible address, up to /v1")
    judge.add_argument("--judge_model", default="", help="model name at the endpoint")
    judge.add_argument("--judge_key", default="OPENAI_API_KEY", help="variable that holds the key")
    judge.add_argument("--judge_extra", default="{}", help="further JSON fields of a request")
    judge.add_argument("--prices", type=float, nargs=2, default=(0.0, 0.0), help="per 1e6 tokens")
    judge.add_argument("--budget", type=float, default=0.0, help="stop asking at this bill")
    judge.add_argument("--per_minute", type=float, default=0.0, help="most calls a minute")
    judge.add_argument("--timeout", type=float, default=120.0, help="seconds of a call")
    judge.add_argument("--retries", type=int, default=5, help="of a call that failed")
    judge.add_argument("--attempts", type=int, default=3, help="for a readable answer")
    judge.add_argument("--workers", type=int, default=8, help="calls at the same time")
    judge.add_argument(
        "--rubrics", type=command_line.path, help="JSON {step: words} instead of ours"
    )
    judge.add_argument("--detections", type=command_line.path, help=DETECTIONS)
    add_flags(found)
    return found


def drawn(suite: Suite, items: Sequence[Item], arguments: argparse.Namespace) -> dict[str, Any]:
    """Draws what is not there yet; returns with what, for the report.

    Raises:
      ValueError: the folder was begun with another checkpoint, preset or setting.
    """
    if arguments.preset and arguments.mode:
        raise ValueError("give --preset or --mode, not both.")
    preset = arguments.preset or draw.preset_of(arguments.mode or "prompt", items)
    reasoner = from_flags(arguments)
    rounds = 3 if arguments.rounds is None and not arguments.preset else arguments.rounds
    if arguments.reflection and not draw.refines(items[0], preset, rounds, reasoner):
        raise ValueError(
            f"--reflection: preset '{preset}' refines nothing here; give one that does (--preset "
            "list) or --mode refine, and no --rounds 0."
        )
    facts = {"checkpoint": told(arguments), "preset": preset, "rounds": rounds}
    facts["sampling"] = identity(reasoner.settings)
    if jax.process_index() == 0:
        Journal(arguments.out / "drawn.jsonl", {"suite": suite.name} | facts)  # of no other setting
    mine, options = _mine(items), {"preset": preset, "batch": arguments.batch or draw.BATCH}
    draw.draw(
        suite,
        mine,
        reasoner,
        arguments.out,
        rounds=rounds,
        progress=Progress("draw", len(mine), "items"),
        **options,
    )
    if arguments.reflection:
        told_of = Progress("draw fresh drafts", len(mine), "items")
        draw.draw_fresh(suite, mine, reasoner, arguments.out, progress=told_of, **options)
    pod.gather("benchmark drawn", None, timeout=_SLOWEST)
    return facts


def read_items(suite: Suite, prompts: Path) -> list[Item]:
    """The items of a prompt file.

    Raises:
      FileNotFoundError, ValueError: as `Suite.load`, with the suites whose file it may be.
    """
    try:
        return suite.load(prompts)
    except ValueError as error:
        fits = [f"--suite {one.name}" for one in SUITES.values() if _reads(one, prompts)]
        hint = f" It reads as a file of {' or '.join(fits)}." if fits else ""
        raise ValueError(f"{error}{hint}") from None


def _reads(suite: Suite, prompts: Path) -> bool:
    try:
        return bool(suite.load(prompts))
    except (ValueError, OSError):
        return False


def make_judge(arguments: argparse.Namespace) -> asking.Judge | None:
    """The judge that the flags name, None for none."""
    if arguments.judge:
        return ProgramJudge(arguments.suite)
    preset = preset_of(arguments)
    if not arguments.judge_url:
        if preset:
            raise ValueError("--judge_preset needs --judge_url, where the model is served.")
        return None
    model = arguments.judge_model or (preset.model if preset else "")
    if not model:
        raise ValueError(
            "--judge_url needs --judge_model NAME or --judge_preset; no model is chosen for you."
        )
    from unireason_jax.endpoints import needed

    needed("--judge_url")
    from unireason_jax.evals.published.endpoint_judge import EndpointJudge

    return EndpointJudge(
        arguments.judge_url,
        model,
        key=os.environ.get(arguments.judge_key, ""),
        cache=arguments.out / "cache",
        timeout=arguments.timeout,
        retries=arguments.retries,
        per_minute=arguments.per_minute / jax.process_count(),
        prices=tuple(arguments.prices),
        budget=arguments.budget,
        extra=request_of(arguments),
    )


def preset_of(arguments: argparse.Namespace) -> judges.JudgePreset | None:
    """The judge that --judge_preset names, None for none."""
    name = arguments.judge_preset
    return judges.find(name, arguments.suite) if name else None


def request_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fields of a request: the judge preset's and, before these, those of --judge_extra."""
    preset = preset_of(arguments)
    own = preset.suites[arguments.suite] if preset else {}
    return {**own, **_json("--judge_extra", arguments.judge_extra)}


def _json(name: str, text: str) -> dict[str, Any]:
    """A JSON object. Raises ValueError that says whose it is."""
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: not a JSON object ({error}).") from None


def rubrics_of(suite: Suite, arguments: argparse.Namespace) -> dict[str, str]:
    """The words that the judge reads: ours, and those of --rubrics in their place."""
    rubrics = dict(suite.rubrics)
    if arguments.rubrics:
        given = _json(str(arguments.rubrics), arguments.rubrics.read_text("utf-8"))
        if wrong := [name for name, words in given.items() if not isinstance(words, str)]:
            raise ValueError(
                f"{arguments.rubrics}: '{wrong[0]}' holds no words; give {{step: words}}."
            )
        rubrics |= given
    return rubrics


def digest(values: Any) -> str:
    """A short name for JSON-able values."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def judged(
    suite: Suite, items: Sequence[Item], judge: asking.Judge, arguments: argparse.Namespace
) -> tuple[list[Scored], dict[str, str], Journal]:
    """Asks about every image that is there; returns scores, what is missing, and the journal."""
    images, rubrics = arguments.out / draw.IMAGES, rubrics_of(suite, arguments)
    settings = {"suite": suite.name, "judge": judge.name, "rubrics": rubrics}
    if extra := request_of(arguments):
        settings["request"] = extra
    if arguments.judge_preset:
        settings["judge preset"] = arguments.judge_preset
    who = judge.name
    if arguments.against:  # every other run has its own answers
        settings["against"], who = str(arguments.against), f"{who} {arguments.against.name}"
    journal = answers_of(arguments.out, who, settings)
    pod.gather("benchmark asks", None, timeout=_SLOWEST)  # nobody reads what another writes
    if hasattr(judge, "budget"):
        judge.spent = _bill(journal)  # --budget is that of all starts and processes together
        left = max(judge.budget - judge.spent, 0.0) / jax.process_count()
        judge.budget = judge.spent + left if judge.budget else 0.0
    questions = [
        question
        for item in items
        for place in suite.places(item)
        if (images / place).is_file()
        for question in asking.questions_of(suite, item, place, images / place, rubrics)
    ]
    if arguments.reflection:
        questions += refined.questions(suite, items, arguments.out, rubrics)
    asking.ask_all(
        suite,
        _mine(questions),
        judge,
        journal,
        attempts=arguments.attempts,
        workers=arguments.workers,
        progress=Progress("judge", len(_mine(questions)), "questions"),
    )
    pod.gather("benchmark asked", None, timeout=_SLOWEST)
    if jax.process_index() == 0 and jax.process_count() > 1:
        journal = answers_of(arguments.out, who, settings)
    return *asking.collect(suite, items, images, journal, rubrics), journal


def answers_of(out: Path, judge: str, settings: Mapping[str, Any]) -> Journal:
    """The journal of this process, which also knows the answers in those of all others."""
    name = "answers_" + "".join(c if c.isalnum() else "_" for c in judge)
    unscored = {"lacks": lambda row: row["scores"] is None}
    return shared(out, name, settings, jax.process_index(), **unscored)


def _mine(work: Sequence[Any]) -> Sequence[Any]:
    """This process's share."""
    return work[jax.process_index() :: jax.process_count()]


def _bill(journal: Journal) -> float:
    """What all answers have cost."""
    return sum(row["cost"] for row in journal.rows.values())


def run(arguments: argparse.Namespace) -> Path:
    """Draws, judges and reports as far as the flags say; returns the folder written."""
    if arguments.write_world:
        world_sets.write(arguments.write_world, arguments.seed)
        print(f"prompt sets of the world: {arguments.write_world}")
        return arguments.write_world
    if not (arguments.suite and arguments.prompts and arguments.out):
        raise ValueError("give --suite NAME --prompts FILE --out DIR, or --write_world DIR.")
    sharding.initialize_distributed()
    with pod.ending_together(), pod.holding(arguments.out, "unireason benchmark"):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> Path:
    """The work of `run`, in a folder that is held."""
    suite, out = SUITES[arguments.suite], arguments.out
    if arguments.detections and not suite.measured:
        names = ", ".join(name for name, one in SUITES.items() if one.measured)
        raise ValueError(f"--detections belongs to --suite {names}.")
    items = read_items(suite, arguments.prompts)[: arguments.limit or None]
    preset = preset_of(arguments)
    if preset:
        other = arguments.against and arguments.against / draw.IMAGES
        suite = judges.asked(suite, preset, other)
    elif arguments.against:
        raise ValueError("--against needs a --judge_preset that compares pairs.")
    facts = {"prompts": f"{arguments.prompts}, {len(items)} items"}
    judge, sections, rubrics = make_judge(arguments), [], rubrics_of(suite, arguments)
    if arguments.reflection and (arguments.detections or not judge):
        raise ValueError(
            "--reflection asks a judge about every step: give --judge program or --judge_url URL, "
            "and no --detections."
        )
    if arguments.checkpoint:
        facts |= drawn(suite, items, arguments)
    if arguments.detections:
        scored = suite.measured(arguments.detections, items)
        known = {image.place for image in scored}
        places = (place for item in items for place in suite.places(item))
        missing = {place: "no detections" for place in places if place not in known}
        facts |= {"judge": "detections", "detections": str(arguments.detections)}
    elif judge:
        scored, missing, journal = judged(suite, items, judge, arguments)
        whose = str(arguments.rubrics) if arguments.rubrics else "ours, not the official words"
        facts |= {"judge": judge.name, "rubrics": f"{whose} ({digest(rubrics)})"}
        if preset:
            facts["judge preset"] = f"{arguments.judge_preset}; ours: {preset.ours}"
        if arguments.against:
            facts["against"] = str(arguments.against)
        if extra := request_of(arguments):
            facts["judge's request"] = json.dumps(extra, sort_keys=True)
        facts["judge's bill"] = f"{_bill(journal):.4g}"
        if arguments.reflection:
            sections = refined.sections(suite, items, out, journal, rubrics)
    else:
        print(f"images: {out / draw.IMAGES} (no judge given)")
        return out
    if jax.process_index():
        return out
    passing = ("judge's bill", "prompts", "checkpoint", "detections")
    protocol = {key: value for key, value in facts.items() if key not in passing}
    facts["protocol"] = digest({"suite": suite.name, **protocol})
    scoring.report(suite, scored, missing, facts, out, sections)
    print((out / "report.md").read_text("utf-8"))
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag, file or checkpoint."""
    command_line.run(parser(), run, argv)


if __name__ == "__main__":
    main()
