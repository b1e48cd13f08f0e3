"""Records to tokens, by the kind of model: latents that are denoised (BAGEL) or codes (Janus)."""

from types import ModuleType

import numpy as np

from unireason_jax.data.bagel import tokens as by_latents
from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.janus import tokens as by_codes
from unireason_jax.data.records import Record
from unireason_jax.data.samples import Sample


def lengths(record: Record, spec: SampleSpec) -> tuple[int, int, int]:
    """Tokens by stream before dropout; see `bagel.tokens.lengths`."""
    return _kind(spec).lengths(record, spec)


def tokenize(record: Record, spec: SampleSpec, rng: np.random.Generator) -> Sample:
    """The token sample of a record; see `bagel.tokens.tokenize`."""
    return _kind(spec).tokenize(record, spec, rng)


def _kind(spec: SampleSpec) -> ModuleType:
    """What makes the tokens of a spec."""
    return by_codes if spec.by_codes else by_latents
