"""`unireason generate`: let a trained model plan, draw, look, reflect and refine.

    unireason generate --checkpoint runs/quickstart --prompt "a red circle above a blue square" \\
        --out runs/pictures
    unireason generate --checkpoint runs/quickstart --prompts prompts.txt --mode plan --out out
    unireason generate --checkpoint runs/quickstart --mode edit --image in.png \\
        --prompt "remove the red circle" --out out

Every prompt gets a folder with trace.json, one PNG per image and strip.png, which shows the whole
conversation. The same prompt gives the same result alone and among others.
"""

import argparse
import difflib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unireason_jax.data import images
from unireason_jax.data.templates import TEMPLATES
from unireason_jax.inference.load import add_flags, from_flags
from unireason_jax.inference.strip import contact_sheet
from unireason_jax.world import vocabulary

MODES = {
    "refine": "refine_t2i",
    "plan": "think_t2i",
    "prompt": "t2i",
    "edit": "edit",
    "think_edit": "think_edit",
    "ask": "vqa",
}
NEEDS_IMAGE = ("edit", "think_edit", "ask")
TEXT_KEY = {"edit": "instruction", "think_edit": "instruction", "ask": "question"}
IMAGE_KEY = {"edit": "input_image", "think_edit": "input_image", "ask": "image"}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("--checkpoint", required=True, help="--workdir of a training run")
    found.add_argument("--out", required=True, type=Path, help="folder for the results")
    found.add_argument("--prompt", action="append", default=[], help="may be given several times")
    found.add_argument(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="one prompt a line, or JSON lines with `prompt` and optionally `id` and `image`",
    )
    found.add_argument(
        "--mode",
        choices=tuple(MODES),
        default="refine",
        help="refine: plan, draft, then rounds of reflection; plan: plan, then draw; prompt: draw; "
        "edit, think_edit, ask: about --image",
    )
    found.add_argument("--image", type=Path, help="picture to edit or to ask about")
    found.add_argument("--rounds", type=int, default=3, help="most rounds of refinement")
    found.add_argument("--samples", type=int, default=1, help="conversations per prompt")
    add_flags(found)
    return found


def read_requests(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Prompts from the flags: dicts with `id`, `prompt`, and `image` where there is one.

    Raises:
      FileNotFoundError: the file of prompts or the picture does not exist.
      ValueError: no prompt, an empty one, or a line that is not a prompt.
    """
    found = [{"prompt": prompt} for prompt in arguments.prompt]
    if arguments.prompts is not None:
        found += _read_file(arguments.prompts)
    if not found:
        raise ValueError("nothing to generate: give --prompt TEXT or --prompts FILE.")
    image = arguments.image
    for number, request in enumerate(found, 1):
        if not request["prompt"].strip():
            raise ValueError(f"prompt {number} is empty; write what to draw.")
        request.setdefault("id", request["prompt"])
        if arguments.mode in NEEDS_IMAGE:
            request.setdefault("image", image)
            if request["image"] is None:
                raise ValueError(f"--mode {arguments.mode} needs a picture: give --image FILE.")
            if not Path(request["image"]).is_file():
                raise FileNotFoundError(f"picture {request['image']} does not exist.")
    return found


def _read_file(path: Path) -> list[dict[str, Any]]:
    """Prompts of a text or JSON-lines file."""
    if not path.is_file():
        raise FileNotFoundError(f"--prompts {path}: no such file.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        request: Any = {"prompt": line.strip()}
        if line.lstrip().startswith("{"):
            try:
                request = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error}).") from None
            if not isinstance(request.get("prompt"), str):
                raise ValueError(f"{path}:{number}: field 'prompt' is missing or not a text.")
            request = {k: request[k] for k in ("id", "prompt", "image") if k in request}
        found.append(request)
    return found


def to_records(
    requests: Sequence[dict[str, Any]], mode: str, rounds: int, tokenizer: Any
) -> list[Any]:
    """The conversations to finish, one per request.

    Raises:
      ValueError: a prompt has words that the model has never seen.
    """
    records = []
    for request in requests:
        check_words(request["prompt"], tokenizer)
        example = {"id": str(request["id"]), TEXT_KEY.get(mode, "prompt"): request["prompt"]}
        if mode in NEEDS_IMAGE:
            example[IMAGE_KEY[mode]] = images.load(Path(request["image"]))
        if mode == "refine":
            example["rounds"] = rounds
        records.append(TEMPLATES[MODES[mode]](example))
    return records


def check_words(prompt: str, tokenizer: Any) -> None:
    """Raises ValueError naming the words that become the unknown token, and near known ones."""
    words = prompt.replace(",", " , ").replace(".", " . ").split()
    unknown = [w for w in words if "<unk>" in tokenizer.decode(tokenizer.encode(w))]
    if unknown:
        near = [difflib.get_close_matches(w.lower(), vocabulary.WORDS, n=1) for w in unknown]
        hints = sorted({match[0] for match in near if match})
        hint = f" Near: {', '.join(hints)}." if hints else ""
        raise ValueError(
            f"prompt {prompt!r}: this model does not know the word(s) {', '.join(unknown)}; the "
            f"embedded world speaks of coloured shapes in lower case.{hint}"
        )


def run(arguments: argparse.Namespace) -> list[Path]:
    """Generates and saves everything; returns the folders written."""
    requests = read_requests(arguments)
    if arguments.rounds < 0 or arguments.samples < 1:
        raise ValueError("--rounds must be >= 0 and --samples >= 1.")
    reasoner = from_flags(arguments)
    spec = reasoner.engine.spec
    records = to_records(requests, arguments.mode, arguments.rounds, spec.tokenizer)
    started = time.perf_counter()
    traces = reasoner.run(records, samples=arguments.samples)
    seconds = time.perf_counter() - started
    folders = []
    for number, trace in enumerate(traces):
        slug = "".join(c if c.isalnum() else "_" for c in trace.id)[:48]
        folders.append(trace.save(arguments.out / f"{number:03d}_{slug}"))
        print(f"{trace.id}")
        for step in trace.steps:
            if step.kind == "text" and not step.given:
                print(f"    {step.role}: {step.text}")
        print(f"    -> {folders[-1] / 'strip.png'}")
    if len(traces) > 1:
        sheet = contact_sheet([trace.strip() for trace in traces[:24]], columns=2)
        sheet.save(arguments.out / "strips.png")
        print(f"all strips: {arguments.out / 'strips.png'}")
    made = sum(len(trace.images) for trace in traces)
    print(f"{len(traces)} conversations, {made} images in {seconds:.1f} s (compiling included)")
    return folders


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line on a wrong flag, prompt or checkpoint."""
    arguments = parser().parse_args(argv)
    try:
        run(arguments)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
