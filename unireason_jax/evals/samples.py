"""Held-out requests that a run answers while it learns: drawn, edited, or told in words."""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
from etils import epath
from PIL import Image

from unireason_jax.data.records import Record
from unireason_jax.inference import load
from unireason_jax.inference.systems import catalog
from unireason_jax.run import held_out
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training.optim import Params

GIVEN = "source"  # role of a picture that a request brings along
_SEEN = 100  # records looked at for each request that is wanted


class Asked(NamedTuple):
    """What a record asks for: `generate`, `edit` or `ask`, in words, with pictures or without."""

    verb: str
    text: str
    pictures: tuple[Any, ...] = ()


class Samples:
    """The same requests answered with the weights of a moment.

    Args:
      run: what is trained; `eval.samples` says how many requests.
      workdir: its directory, where `Run.save` has been.

    Raises:
      ConfigError: several processes share the weights, or no autoencoder makes pictures.
    """

    def __init__(self, run: Run, workdir: epath.PathLike):
        if jax.process_count() > 1:
            raise ConfigError("config.eval.samples: only runs of one process draw; set it to 0.")
        self._run = run.drawing()
        self._settings = load.usual_settings(self._run, workdir)
        self.asked = requests(run)

    def __call__(self, params: Params) -> dict[str, Image.Image]:
        """A strip by what was asked."""
        mesh = self._run.mesh if self._run.mesh.size > 1 else None
        reasoner = load.around(self._run, params, self._settings, mesh)
        strips: dict[str, Image.Image] = {}
        for verb in dict.fromkeys(one.verb for one in self.asked):
            asked = [one for one in self.asked if one.verb == verb]
            preset = catalog.find(reasoner.presets[verb])
            given = [_given(one, reasoner.style) for one in asked]
            traces: list[Any] = reasoner.run(
                [preset.request(**options) for options in given],
                settings=preset.settings(reasoner.settings),
            )
            strips |= {one.text: trace.strip() for one, trace in zip(asked, traces)}
        return strips


def requests(run: Run) -> list[Asked]:
    """The first held-out requests, each once; those for an image where there are enough of them.

    Raises:
      ConfigError: there are none.
    """
    config = run.config
    records = itertools.islice(held_out.requests(config), _SEEN * config.eval.samples)
    found = {one.text: one for one in filter(None, map(asked, records))}.values()
    first = sorted(found, key=lambda one: one.verb == "ask")[: config.eval.samples]
    if not first:
        raise ConfigError(
            "config.eval.samples: no held-out record asks for an image or an answer; set it to 0."
        )
    return first


def asked(record: Record) -> Asked | None:
    """What a record asks for; None for one that asks for nothing that can be given here."""
    words = [segment.text for segment in record.segments if segment.role == "user"]
    pictures = tuple(s.image for s in record.segments if s.role == GIVEN)
    roles = {s.role for s in record.segments if s.kind == "image"} - {GIVEN}
    learned = {segment.role for segment in record.segments if segment.loss != "none"}
    if not words or not words[0] or any(image is None for image in pictures):
        return None
    if roles:
        return Asked("edit" if pictures else "generate", words[0], pictures)
    return Asked("ask", words[0], pictures[:1]) if pictures and "answer" in learned else None


def _given(one: Asked, style: Any) -> Mapping[str, Any]:
    """The options of a preset's request."""
    pictures = {"image": list(one.pictures)} if len(one.pictures) > 1 else {}
    if len(one.pictures) == 1:
        pictures = {"image": one.pictures[0]}
    return {"text": one.text, "style": style, **pictures}
