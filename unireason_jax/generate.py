"""`unireason generate`: let a trained model plan, draw, look, reflect and refine.

    unireason generate --checkpoint runs/quickstart --prompt "a red circle above a blue square" \\
        --out runs/pictures
    unireason generate --checkpoint runs/quickstart --prompts prompts.jsonl --preset think_t2i \\
        --out out
    unireason generate --checkpoint runs/quickstart --preset edit --image in.png \\
        --prompt "remove the red circle" --out out
    unireason generate --checkpoint runs/unireason --preset unireason_refine --prompts F --out out

Every conversation gets a folder with trace.json, one PNG per image and strip.png, which shows it as
a whole. It depends on the id of its prompt, the number of its sample and the seed only: not on what
else is generated, nor on how many devices or processes share the work (each process takes its share
of the prompts); up to rounding, or with --exact to the last bit, one conversation at a time. A
conversation whose trace.json is there is done; run the same command again after an interruption,
and it goes on. Requests that cannot be generated are listed with their reasons in refused.jsonl;
the others are generated, and the status is 1.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from PIL import Image

from unireason_jax.inference import default_preset
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.conversation_folder import Folder
from unireason_jax.inference.load import add_flags, from_flags, told, with_flags
from unireason_jax.inference.preset import Preset
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.requests import Asked, Refused, check_seed, check_words, read_file
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.systems import catalog
from unireason_jax.inference.trace import PICTURE
from unireason_jax.inference.values import whole
from unireason_jax.pictures.strips import contact_sheet
from unireason_jax.pods import pod, sharding
from unireason_jax.run import command_line
from unireason_jax.storage import atomic

SHOWN = 24
SHEET_STRIP = (1100, 4000)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--checkpoint", required=True, help="a run's or a converted folder")
    found.add_argument(
        "--out", required=True, type=command_line.path, help="folder for the results"
    )
    found.add_argument("--prompt", action="append", default=[], help="may be given several times")
    found.add_argument(
        "--prompts",
        type=command_line.path,
        metavar="FILE",
        help="one prompt a line; or JSON lines, a JSON array or a table (CSV) with `prompt` and "
        "optionally `id`, `image` (a path or a list) and `seed`",
    )
    default_preset.add_preset(found)
    about = "picture to edit or to ask about; several times: several pictures of one request"
    found.add_argument("--image", type=command_line.path, action="append", default=[], help=about)
    found.add_argument("--seed", type=int, help="gives other draws to the same prompts [0]")
    found.add_argument("--rounds", type=int, help="most rounds of refinement, or steps")
    found.add_argument("--samples", type=int, default=1, help="conversations per prompt")
    add_flags(found)
    return found


def read_requests(arguments: argparse.Namespace) -> tuple[list[Asked], list[Refused]]:
    """What the flags ask for, and the lines of --prompts that cannot be read.

    Raises:
      FileNotFoundError: there is no such file of prompts.
      ValueError: nothing is asked for.
    """
    found, refused = [Asked(prompt, prompt) for prompt in arguments.prompt], []
    if arguments.prompts is not None:
        more, refused = read_file(arguments.prompts)
        found += more
    if not found and not refused:
        raise ValueError("nothing to generate: give --prompt TEXT or --prompts FILE.")
    image = arguments.image[0] if len(arguments.image) == 1 else arguments.image
    return [asked._replace(image=asked.image or image or None) for asked in found], refused


def jobs_of(
    asked: Sequence[Asked],
    arguments: argparse.Namespace,
    reasoner: Reasoner,
    preset: Preset,
    settings: Settings,
) -> tuple[list[tuple[Request, int]], list[Refused]]:
    """This process's share of the conversations, and its requests that cannot be generated."""
    first = {one.name: one for one in reversed(asked)}
    jobs, refused = [], []
    for one in asked[jax.process_index() :: jax.process_count()]:
        try:
            if first[one.name] is not one:
                raise ValueError(
                    f"the id '{one.name}' is taken by {first[one.name].where}; give "
                    "each request its own `id`, or use --samples for several of one."
                )
            options = {"image": one.image, "rounds": arguments.rounds, "style": reasoner.style}
            options["seed"] = arguments.seed if one.seed is None else one.seed
            request = preset.request(one.prompt, name=one.name, **options)
            check_words(one.prompt, reasoner.engine.spec.tokenizer)
            reasoner.check(request, settings)
            jobs += [(request, sample) for sample in range(arguments.samples)]
        except (ValueError, OSError) as error:
            refused.append(Refused(one.name, one.where, str(error)))
    return jobs, refused


def run(arguments: argparse.Namespace) -> int:
    """Generates and saves what is not there yet; returns the number of refused requests.

    Raises:
      FileNotFoundError, ValueError: a flag, the checkpoint, or all requests are wrong.
    """
    whole("--samples", arguments.samples, least=1)
    check_seed(arguments.seed or 0)
    if arguments.preset:
        catalog.find(arguments.preset)  # a wrong name is told before anything is made
    asked, unread = read_requests(arguments)
    sharding.initialize_distributed()
    with pod.ending_together(), pod.holding(arguments.out, "unireason generate"):
        return _generate(arguments, asked, unread)


def _generate(
    arguments: argparse.Namespace, asked: Sequence[Asked], unread: Sequence[Refused]
) -> int:
    reasoner = from_flags(arguments)
    name, preset, settings = default_preset.chosen(reasoner, "generate", arguments.preset)
    settings = with_flags(settings, arguments)
    jobs, refused = jobs_of(asked, arguments, reasoner, preset, settings)
    if jax.process_index() == 0:
        refused = [*unread, *refused]
    if refused and not jobs and len(refused) <= 3 and jax.process_count() == 1:
        raise ValueError("; ".join(one.told for one in refused))
    identity = {"checkpoint": told(arguments), "preset": name}
    identity |= {"rounds": arguments.rounds}
    if arguments.image:
        identity["image"] = ", ".join(map(str, arguments.image))
    if arguments.seed:
        identity["seed"] = arguments.seed
    folder = Folder(arguments.out, identity, settings)
    places = folder.generate(reasoner, jobs, settings)
    print(f"{len(places)} conversations in {arguments.out}")
    if len(places) > 1:
        strips = [_small_strip(place / PICTURE) for place in places[:SHOWN]]
        with atomic.replacing(arguments.out / _mine("strips.png")) as part:
            contact_sheet(strips, columns=2).save(part)
        print(f"the first strips: {arguments.out / _mine('strips.png')}")
    _tell(refused, arguments.out / _mine("refused.jsonl"))
    return len(refused)


def _tell(refused: Sequence[Refused], file: Path) -> None:
    """Writes what was refused, or removes what an earlier run has written of it."""
    if not refused:
        file.unlink(missing_ok=True)
        return
    rows = [{k: v for k, v in one._asdict().items() if v is not None} for one in refused]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    halves = "backslashreplace"  # of a character, which UTF-8 cannot write but JSON can
    atomic.write_bytes(file, lines.encode("utf-8", errors=halves))
    print(
        f"error: {len(refused)} requests refused, see {file}; the first: {refused[0].told}",
        file=sys.stderr,
    )


def _small_strip(file: Path) -> Image.Image:
    """A saved strip, shrunk to what a sheet of many has room for."""
    with file.open("rb") as data, Image.open(data) as strip:
        strip.thumbnail(SHEET_STRIP)
        return strip.convert("RGB")


def _mine(name: str) -> str:
    """A file name of this process's own."""
    if jax.process_count() == 1:
        return name
    stem, _, suffix = name.rpartition(".")
    return f"{stem}.{jax.process_index()}.{suffix}"


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag or checkpoint, and with status 1 also
    where a request was refused.
    """
    if command_line.run(parser(), run, argv):
        sys.exit(1)


if __name__ == "__main__":
    main()
