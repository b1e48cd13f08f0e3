"""A folder of conversations that a killed run goes on with."""

import collections
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from unireason_jax.data import images
from unireason_jax.inference import trace as traces
from unireason_jax.inference.conversation import Request
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.settings import FlowSettings, Settings
from unireason_jax.inference.settings import identity as identity_of
from unireason_jax.storage import atomic
from unireason_jax.storage.background import Background

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
        told = json.dumps({**identity, "settings": identity_of(settings)}, indent=1) + "\n"
        if path.exists() and not path.is_dir():
            raise ValueError(f"{path} is a file; choose a folder for the results.")
        path.mkdir(parents=True, exist_ok=True)
        file = path / IDENTITY
        if not file.exists():
            atomic.write_text(file, told, shared=True)
        elif differing := _differing(file, json.loads(told)):
            raise ValueError(
                f"{file} says that this folder holds conversations of other settings "
                f"({differing}); choose another --out, or remove it."
            )

    def of(self, name: str, sample: int) -> Path:
        """The folder of a conversation: its id in readable letters, a digest, the sample.

        Folders of before, with a shorter digest, are found as well.
        """
        slug = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)[:48]
        new, old = (
            self.path
            / f"{slug}-{hashlib.blake2b(name.encode(), digest_size=n).hexdigest()}-{sample}"
            for n in (8, 4)
        )
        if not new.exists() and (old / traces.FILE).exists():
            try:
                return old if traces.peek(old).id == name else new
            except (ValueError, OSError):
                return new
        return new

    def generate(
        self, reasoner: Reasoner, jobs: Sequence[tuple[Request, int]], settings: Settings
    ) -> list[Path]:
        """Generates and saves what is not there yet, with a progress line on stderr.

        What asked something else under the same id, or is damaged, is generated again. A
        conversation is saved while the next ones are generated, and let go then: at most a batch
        waits, so memory does not grow with their number.

        Args:
          reasoner: the model.
          jobs: requests that `Reasoner.check` accepts, with the number of the sample.
          settings: how to generate.

        Returns:
          The folders of all conversations in the order of the jobs.
        """
        places = [self.of(request.record.id, sample) for request, sample in jobs]
        prints = {id(request): fingerprint(request) for request, _ in jobs}
        asked = [prints[id(request)] for request, _ in jobs]
        states = [_state(place, own) for place, own in zip(places, asked)]
        missing = [n for n, state in enumerate(states) if state != "done"]
        counts = collections.Counter(states)
        for state, words in _SAID.items():
            if counts[state]:
                print(f"{counts[state]} of {len(jobs)} {words}")
        pause = 0.1 if sys.stderr.isatty() else 10.0
        with (
            tqdm(total=len(missing), unit="conversation", mininterval=pause) as bar,
            Background(waiting=settings.batch_rows) as background,
        ):
            drawn = tokens = 0
            for number, trace in reasoner.stream([jobs[n] for n in missing], settings):
                place = missing[number]
                details = trace.details | {ASKED: asked[place]}
                background.do(dataclasses.replace(trace, details=details).save, places[place])
                drawn += len(trace.images)
                tokens += trace.tokens
                taken = max(bar.format_dict["elapsed"], 1e-9)
                speed = f"{drawn / taken:.2f} images/s, {tokens / taken:.0f} tokens/s"
                bar.set_postfix_str(speed, refresh=False)
                bar.update()
        return places


_SAID = {
    "done": "conversations are there already",
    "changed": "asked something else before: generated again",
    "damaged": "are damaged: generated again",
}


def _state(place: Path, asked: str) -> str:
    """How a conversation stands: missing, done, damaged, or changed since it was saved."""
    if not (place / traces.FILE).exists():
        return "missing"
    try:
        found = traces.peek(place)
    except (ValueError, OSError):
        return "damaged"
    return "done" if found.details.get(ASKED) == asked else "changed"


def _differing(file: Path, told: Mapping[str, Any]) -> str:
    """The first of the settings in `file` that is another one now; empty for none.

    Settings that came later had their defaults before.
    """
    try:
        old = _flat(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, AttributeError, RecursionError):
        return "it cannot be read"
    new = _flat(told)
    likes = {"settings": Settings(), "settings.refine": FlowSettings()}
    usual = {
        f"{part}.{name}": value
        for part, like in likes.items()
        for name, value in _flat(json.loads(json.dumps(dataclasses.asdict(like)))).items()
    } | {"settings.refine": "told"}
    for name in {**old, **new}:
        before, now = (values.get(name, usual.get(name)) for values in (old, new))
        if before != now:
            return f"{name.removeprefix('settings.')} was {before}"
    return ""


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted name."""
    found = {}
    for name, value in values.items():
        inside = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{name}.") if inside else {prefix + name: value}
    return found


def fingerprint(request: Request) -> str:
    """A digest of all that a request gives: words, pixels, seed.

    A conversation is saved under its id, which says nothing about what was asked.
    """
    found = hashlib.blake2b(digest_size=16)
    if request.seed:
        found.update(f"seed {request.seed} ".encode())
    for segment in request.record.segments:
        if segment.is_hole:
            continue
        if segment.kind == "text":
            content = segment.content.encode()
        else:
            pixels = images.load(segment.image, upright=request.upright)
            content = str(pixels.shape).encode() + pixels.tobytes()
        found.update(f"{segment.role} {len(content)} ".encode() + content)
    return found.hexdigest()
