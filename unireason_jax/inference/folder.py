"""A folder of conversations that a killed run goes on with."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unireason_jax.data import images
from unireason_jax.inference import trace as traces
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Trace
from unireason_jax.storage import atomic

IDENTITY = "settings.json"
ASKED = "asked"
"""Key of a saved trace's details: the fingerprint of its request."""


class Folder:
    """Where conversations are saved, one folder each, named after request and sample.

    Args:
      path: the folder; made if missing.
      identity: what else than the settings decides on results, JSON-able.
      settings: of all conversations in it.

    Raises:
      ValueError: the folder holds conversations of other settings.
    """

    def __init__(self, path: Path, identity: dict[str, Any], settings: Settings):
        self.path = path
        own = dataclasses.asdict(settings)
        del own["batch_rows"]  # has no influence on results
        told = json.dumps({**identity, "settings": own}, indent=1) + "\n"
        path.mkdir(parents=True, exist_ok=True)
        file = path / IDENTITY
        if not file.exists():
            atomic.write_text(file, told, shared=True)
        elif file.read_text(encoding="utf-8") != told:
            raise ValueError(
                f"{file} says that this folder holds conversations of other settings; choose "
                "another --out, or remove it."
            )

    def of(self, name: str, sample: int) -> Path:
        """The folder of a conversation: its id in readable letters, a digest, the sample."""
        slug = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:48]
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        return self.path / f"{slug}-{digest}-{sample}"

    def generate(
        self, reasoner: Reasoner, jobs: Sequence[tuple[Request, int]], settings: Settings
    ) -> list[Trace]:
        """Generates and saves what is not there yet, with a progress line on stderr.

        What asked something else under the same id is generated again.

        Args:
          reasoner: the model.
          jobs: requests that `Reasoner.check` accepts, with the number of the sample.
          settings: how to generate.

        Returns:
          All traces in the order of the jobs, found or new.
        """
        places = [self.of(request.record.id, sample) for request, sample in jobs]
        asked = [fingerprint(request) for request, _ in jobs]
        out = {
            n: traces.load(place)
            for n, place in enumerate(places)
            if (place / traces.FILE).exists()
        }
        changed = [n for n, trace in out.items() if trace.details.get(ASKED) != asked[n]]
        for n in changed:
            del out[n]
        missing = [n for n in range(len(jobs)) if n not in out]
        if out:
            print(f"{len(out)} of {len(jobs)} conversations are there already")
        if changed:
            print(f"{len(changed)} of {len(jobs)} asked something else before: generated again")
        pause = 0.1 if sys.stderr.isatty() else 10.0
        with tqdm(total=len(missing), unit="conversation", mininterval=pause) as bar:
            drawn = tokens = 0
            for number, trace in reasoner.stream([jobs[n] for n in missing], settings):
                place = missing[number]
                details = trace.details | {ASKED: asked[place]}
                trace = dataclasses.replace(trace, details=details)
                trace.save(places[place])
                out[place] = trace
                drawn += len(trace.images)
                tokens += trace.tokens
                taken = max(bar.format_dict["elapsed"], 1e-9)
                speed = f"{drawn / taken:.2f} images/s, {tokens / taken:.0f} tokens/s"
                bar.set_postfix_str(speed, refresh=False)
                bar.update()
        return [out[n] for n in range(len(jobs))]


def fingerprint(request: Request) -> str:
    """A digest of all that a request gives, words and pixels.

    A conversation is saved under its id, which says nothing about what was asked.
    """
    found = hashlib.blake2b(digest_size=16)
    for segment in request.record.segments:
        if segment.is_hole:
            continue
        if segment.kind == "text":
            content = segment.content.encode()
        else:
            pixels = images.load(segment.image)
            content = str(pixels.shape).encode() + pixels.tobytes()
        found.update(f"{segment.role} {len(content)} ".encode() + content)
    return found.hexdigest()
