"""`unireason synthesize`: a model draws, its drafts are criticised, and it learns from them.

    unireason synthesize --checkpoint runs/stage1 --out runs/critiques --count 3000
    unireason train ... --config.data.extra.path=runs/critiques/records.jsonl \\
        --config.data.extra.share=0.3

In the embedded world the exact judge verifies, repairs and decides. The folder gets records.jsonl,
images/, journal.jsonl (every draft with its fate and why) and examples.png.

With real models, a recipe asks endpoints over HTTP:

    unireason synthesize --recipe refine_t2i --config agents.toml --out runs/agents --dry_run
    unireason synthesize --recipe refine_t2i --config agents.toml --out runs/agents
    unireason synthesize --recipe refine_t2i --copy my_recipe      # prompts and stages to change
    unireason synthesize --recipe refine_t2i --config agents.toml --out runs/agents --share 3/8
    unireason synthesize --recipe refine_t2i --config agents.toml --out runs/agents --finish

The config says where the seeds lie, their licence, and who plays which role; keys are named by
their environment variables. Every finished call is kept, so no call is paid for twice.

Started again, the command goes on where it stopped. Several hosts share the drafts of a checkpoint
(journal.N.jsonl of process N).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from unireason_jax.data.prepared import shares
from unireason_jax.endpoints import needed
from unireason_jax.evals.progress import Progress
from unireason_jax.inference import default_preset
from unireason_jax.inference.load import add_flags, from_flags
from unireason_jax.inference.systems import catalog
from unireason_jax.pictures.strips import Note, Panel, contact_sheet, strip
from unireason_jax.pods import pod, sharding
from unireason_jax.run import command_line
from unireason_jax.storage import atomic
from unireason_jax.synthesis import critiques, world_roles
from unireason_jax.world.scenes import CELL

_SHOWN = 8
_OF_RECIPES = ("config", "copy", "dry_run", "limit")
_SLOWEST = 30 * 24 * 3600.0  # seconds that processes wait for each other's share


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason synthesize",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--checkpoint", help="--workdir of a training run, to draw with it")
    found.add_argument("--out", type=command_line.path, help="folder; an existing one goes on")
    found.add_argument("--count", type=int, default=3000, help="drafts (default 3000)")
    found.add_argument("--seed", type=int, default=0, help="of the prompts (default 0)")
    found.add_argument("--plan", action="store_true", help="let the model plan before it draws")
    default_preset.add_preset(found, "the checkpoint's own settings")
    found.add_argument(
        "--right_share", type=float, default=0.3, help="most records whose draft was right at once"
    )
    agents = found.add_argument_group("agents over HTTP")
    agents.add_argument("--recipe", help="a shipped recipe, or the folder of a copy")
    agents.add_argument(
        "--config", type=command_line.path, help="TOML: seeds, licence, endpoints of the roles"
    )
    agents.add_argument(
        "--copy", type=command_line.path, help="copy the recipe into this new folder, then end"
    )
    agents.add_argument("--dry_run", action="store_true", help="first prompts and cost; pay nobody")
    agents.add_argument("--limit", type=int, default=0, help="only the first items")
    agents.add_argument("--share", default="", help="i/n: one of n parts, into --out/share-i-of-n")
    agents.add_argument("--finish", action="store_true", help="join all shares of --out")
    add_flags(found)
    return found


def run(arguments: argparse.Namespace) -> Path:
    """Makes the records; returns their folder."""
    if arguments.recipe:
        return _agents(arguments)
    if arguments.share or arguments.finish:
        raise ValueError("--share and --finish are for --recipe; drafts are shared by processes.")
    if name := next((name for name in _OF_RECIPES if getattr(arguments, name)), ""):
        raise ValueError(f"--{name} is for --recipe NAME; drafts of a checkpoint have none.")
    if not (arguments.checkpoint and arguments.out):
        raise ValueError(
            "give --checkpoint RUN --out DIR, or --recipe NAME --config FILE --out DIR."
        )
    sharding.initialize_distributed()
    with pod.ending_together(), pod.holding(arguments.out, "unireason synthesize"):
        return _drafts(arguments)


def _agents(arguments: argparse.Namespace) -> Path:
    """A recipe over HTTP."""
    needed("--recipe")
    from unireason_jax.synthesis import joining, running

    if arguments.checkpoint:
        raise ValueError(
            "--recipe asks endpoints and takes no --checkpoint; start `unireason serve` with it, "
            "and name that address in --config."
        )
    share = shares.parse(arguments.share) or shares.Share(1, 1)
    if arguments.copy:
        running.copy(arguments.recipe, arguments.copy)
        return arguments.copy
    if not (arguments.config and arguments.out) or arguments.limit < 0:
        raise ValueError("--recipe NAME needs --config FILE and --out DIR, and --limit from 0 on.")
    if arguments.finish and (arguments.share or arguments.limit or arguments.dry_run):
        raise ValueError("--finish joins all shares as they are: no --share, --limit or --dry_run.")
    given = running.prepared(arguments.recipe, arguments.config, share, arguments.limit)
    if arguments.finish:
        return joining.finish(*given, arguments.out)
    out = joining.folder_of(arguments.out, *share)
    if arguments.dry_run:
        print(running.rehearse(*given, out))
        return out
    return running.run(*given, out)


def _drafts(arguments: argparse.Namespace) -> Path:
    """The world's records of a model's own drafts in a folder that is held."""
    if arguments.count < 1 or not 0 <= arguments.right_share < 1:
        raise ValueError("--count must be >= 1 and --right_share in [0, 1).")
    template = "think_t2i" if arguments.plan else "t2i"
    if arguments.preset:
        template = catalog.find(arguments.preset).template
        if template not in ("t2i", "think_t2i"):
            raise ValueError(
                f"--preset {arguments.preset} walks '{template}'; drafts are drawn by one that "
                "walks t2i or think_t2i."
            )
    reasoner = from_flags(arguments)
    side = reasoner.settings.size[0] // CELL
    requests = world_roles.requests(arguments.seed, arguments.count, side)
    settings = {
        "checkpoint": arguments.checkpoint,
        "weights": arguments.which,
        "step": arguments.step,
        "seed": arguments.seed,
        "template": template,
        "sampling": repr(reasoner.settings),
    }
    if arguments.preset:
        settings["preset"] = arguments.preset
    if reasoner.settings.exact:
        settings["exact"] = True
    number, processes = jax.process_index(), jax.process_count()
    counts = critiques.criticise(
        requests,
        world_roles.roles(reasoner, template),
        arguments.out,
        settings=settings,
        right_share=arguments.right_share,
        progress=Progress("synthesize", len(requests[number::processes]), "drafts"),
        process=(number, processes),
        meet=lambda: pod.gather("synthesize", None, timeout=_SLOWEST),
    )
    if number:
        return arguments.out
    show(arguments.out)
    fates = ", ".join(
        f"{count} {fate}" for fate, count in counts.most_common() if fate != "records"
    )
    print(f"{len(requests)} drafts: {fates}")
    print(f"{counts['records']} records: {arguments.out / critiques.RECORDS}")
    return arguments.out


def show(folder: Path) -> None:
    """Draws the first records of a folder, draft to last picture, into examples.png."""
    lines = (folder / critiques.RECORDS).read_text("utf-8").splitlines()[:_SHOWN]
    strips = []
    for record in map(json.loads, lines):
        names = [record["draft"], *(step["image"] for step in record["rounds"])]
        words = [*(s["reflection"] for s in record["rounds"]), record["final_reflection"]]
        panels = [
            Panel(
                "draft" if not n else f"repaired {n}",
                _read(folder / name),
                (Note("reflection", text),),
            )
            for n, (name, text) in enumerate(zip(names, words))
        ]
        strips.append(strip(record["prompt"], panels, subtitle=record["explanation"]))
    with atomic.replacing(folder / "examples.png") as part:
        contact_sheet(strips, columns=2).save(part)


def _read(path: Path) -> np.ndarray:
    with path.open("rb") as file, Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag or checkpoint."""
    command_line.run(parser(), run, argv)


if __name__ == "__main__":
    main()
