"""Held-out prompts that a run draws while it learns: plan, draft, reflections, refined image."""

import itertools
from typing import Any

import jax
from etils import epath
from PIL import Image

from unireason_jax.data.records import Record
from unireason_jax.data.sizes import SizeCodec
from unireason_jax.inference import load, presets
from unireason_jax.run import corpus
from unireason_jax.run.configuration import ConfigError
from unireason_jax.run.run import Run
from unireason_jax.training.optim import Params

GIVEN = "source"  # role of a picture that a request brings along
_SEEN = 100  # records looked at for each prompt that is wanted


class Samples:
    """The same prompts drawn with the weights of a moment.

    Args:
      run: what is trained; `eval.samples` says how many prompts.
      workdir: its directory, where `Run.save` has been.

    Raises:
      ConfigError: several processes share the weights, or no autoencoder makes pictures.
    """

    def __init__(self, run: Run, workdir: epath.PathLike):
        if jax.process_count() > 1:
            raise ConfigError("config.eval.samples: only runs of one process draw; set it to 0.")
        if isinstance(run.codec, SizeCodec):
            raise ConfigError(
                "config.eval.samples: pictures need the autoencoder; set config.data.vae, or 0."
            )
        self._run, self._settings = run, load.usual_settings(run, workdir)
        self.prompts = prompts(run)

    def __call__(self, params: Params) -> dict[str, Image.Image]:
        """A strip by prompt."""
        mesh = self._run.mesh if self._run.mesh.size > 1 else None
        reasoner = load.around(self._run, params, self._settings, mesh)
        preset = presets.find(reasoner.presets["generate"])
        settings = preset.settings(reasoner.settings)
        requests = [preset.request(text, style=reasoner.style) for text in self.prompts]
        traces: list[Any] = reasoner.run(requests, settings=settings)
        return dict(zip(self.prompts, (trace.strip() for trace in traces)))


def prompts(run: Run) -> list[str]:
    """The first held-out requests for an image, each once.

    Raises:
      ConfigError: there are none.
    """
    config = run.config
    records = corpus.requests(config)
    asked = map(_prompt, itertools.islice(records, _SEEN * config.eval.samples))
    found = list(dict.fromkeys(filter(None, asked)))[: config.eval.samples]
    if not found:
        raise ConfigError("config.eval.samples: no held-out record asks for an image; set it to 0.")
    return found


def _prompt(record: Record) -> str:
    """The words that ask for an image; "" for an edit, a question or a caption."""
    pictures = {segment.role for segment in record.segments if segment.kind == "image"}
    words = [segment.text for segment in record.segments if segment.role == "user"]
    return words[0] or "" if words and pictures and GIVEN not in pictures else ""
