"""`unireason evaluate`: judge a checkpoint in the embedded world and write a report.

    unireason evaluate --checkpoint runs/quickstart --out runs/quickstart/report

Writes report.md, report.json, outcomes.json (every single verdict), chart.png, and strips.png and
failures.png (prompts of every tag that ended right or wrong, with plan, draft, reflections, refined
images and verdicts). All prompts are held out from training. Sizes are flags; 0 leaves a part out.
A model of the harder world is asked there: prompts, controls and drafts, in its own tags.
Several hosts share the drawing; the report is that of one.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax

from unireason_jax.evals.flow_loss import flow_by_time
from unireason_jax.evals.progress import Progress
from unireason_jax.evals.world import evaluation
from unireason_jax.evals.world.exam import CONVERSATIONS
from unireason_jax.inference import default_preset
from unireason_jax.inference.load import add_flags, from_flags, weights_told
from unireason_jax.inference.multihost import SharedReasoner
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.systems import catalog
from unireason_jax.pods import pod, sharding
from unireason_jax.run import command_line
from unireason_jax.run.run import Run
from unireason_jax.world import tasks

HELP = {
    "prompts": "held-out prompts per tag (6 tags), drawn in three modes",
    "controls": "of these, prompts per tag for the controls at equal compute",
    "pairs": "prompts per tag with an unseen (shape, colour) pair (3 tags)",
    "knowledge": "knowledge prompts per domain (5 domains), and their controls",
    "edits": "edit instructions per operation (9 operations)",
    "questions": "questions per kind (8 kinds)",
    "drafts": "given drafts to refine",
    "process": "prompts per tag (4 tags) to draw step by step",
    "hidden": "edits per kind (4 kinds) that hide a question",
    "rounds": "most rounds of refinement",
    "seed": "of the requests",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--checkpoint", required=True, help="--workdir of a training run")
    found.add_argument("--out", required=True, type=command_line.path, help="folder for the report")
    for field in dataclasses.fields(evaluation.Sizes):
        about = f"{HELP[field.name]} (default {field.default})"
        found.add_argument(f"--{field.name}", type=int, default=field.default, help=about)
    default_preset.add_preset(found, "the checkpoint's own settings")
    found.add_argument(
        "--conversation",
        choices=CONVERSATIONS,
        help="template of plan, draft and refinement that the model was trained on (default: the "
        f"preset's if it is one of these, else {CONVERSATIONS[0]})",
    )
    found.add_argument(
        "--flow_batches",
        type=int,
        default=4,
        help="held-out packs for the flow loss by time bucket (default 4, 0 leaves it out; a model "
        "that draws with codes has none)",
    )
    add_flags(found)
    return found


def run(arguments: argparse.Namespace) -> Path:
    """Evaluates and writes the report; returns its folder."""
    sharding.initialize_distributed()
    with pod.ending_together(), pod.holding(arguments.out, "unireason evaluate"):
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> Path:
    """The work of `run`, in a folder that is held."""
    names = [field.name for field in dataclasses.fields(evaluation.Sizes)]
    sizes = evaluation.Sizes(**{name: getattr(arguments, name) for name in names})
    reasoner = from_flags(arguments)
    trained = Run.load(arguments.checkpoint)
    is_hard = tasks.is_hard(trained.config.data.mixture)
    template = catalog.find(arguments.preset).template if arguments.preset else ""
    usual = template if template in CONVERSATIONS else CONVERSATIONS[0]
    report = evaluation.evaluate(
        SharedReasoner(reasoner, arguments.out),
        sizes,
        advance=Progress("evaluate", sizes.cost(is_hard), "images at most"),
        conversation=arguments.conversation or usual,
        is_hard=is_hard,
    )
    facts = {"checkpoint": arguments.checkpoint, "weights": weights_told(arguments)}  # by all
    if jax.process_index():
        return arguments.out  # the first process tells what all have drawn
    if arguments.preset:
        facts["preset"] = arguments.preset
    facts["sampling"] = sampling(reasoner.settings)
    sections = report.sections
    settings = reasoner.settings  # a student's velocities are not those of the flow
    by_flow = not settings.by_codes and not settings.is_student
    if arguments.flow_batches and by_flow and trained.config.data.source == "world":
        trained = dataclasses.replace(trained, model=reasoner.engine.config)
        params = reasoner.engine.params
        sections += (flow_by_time(trained, params, batches=arguments.flow_batches),)
    report = dataclasses.replace(report, facts=facts | dict(report.facts), sections=sections)
    folder = report.write(arguments.out)
    for name, rate in report.headline.items():
        print(f"{name:<42} {rate}  (n {rate.count})")
    print(f"report: {folder / 'report.md'}")
    return folder


def sampling(settings: Settings) -> str:
    """In words, how images are drawn and texts chosen."""
    flow, codes = settings.flow, settings.codes
    solver = flow.solver + ", cached" * bool(flow.cache)
    drawn = f"{flow.timesteps - 1} steps ({solver}), shift {flow.shift:g}, text guidance "
    drawn += f"{flow.text_scale:g}"
    if settings.by_codes:
        drawn = f"code by code, guidance {codes.guidance:g}, code temperature {codes.temperature:g}"
    return f"{drawn}, temperature {settings.text.temperature:g}"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag or checkpoint."""
    command_line.run(parser(), run, argv)


if __name__ == "__main__":
    main()
