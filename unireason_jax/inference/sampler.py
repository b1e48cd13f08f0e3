"""Reading texts and images into a cache, and drawing from one, each in one compiled program.

Randomness belongs to the sample, never to its place in a batch: images carry a seed that keys the
noise of every token. So a prompt gives the same image alone, among others, and on any number of
devices.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp

from unireason_jax.inference.cache import (
    Cache,
    Markers,
    append_latents,
    append_picture,
    append_text,
    append_vit,
    concat_rows,
    resize,
)
from unireason_jax.inference.code_drawing import drawing, gumbel
from unireason_jax.inference.integration import integrate
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.inference.writing import handover
from unireason_jax.models import functional
from unireason_jax.models.janus.config import JanusConfig


def seed(*parts: Any) -> int:
    """A 32-bit seed from what names a sample, e.g. (prompt id, sample index, "image", 0)."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")


@functools.partial(jax.jit, static_argnames="config", donate_argnames="cache")
def prefill_text(
    params: Any, cache: Cache, ids: jax.Array, counts: jax.Array, *, config: Any
) -> Cache:
    """Jitted `append_text`; the cache given is used up."""
    return append_text(functional.bind(config, params), cache, ids, counts)[0]


@functools.partial(jax.jit, static_argnames=("config", "markers"), donate_argnames="cache")
def prefill_vit(
    params: Any,
    cache: Cache,
    patches: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    *,
    config: Any,
    markers: Markers,
) -> tuple[Cache, jax.Array]:
    """Jitted `append_vit`, and the hand-over [B] after the image, as `Drawn`'s.

    The cache given is used up.
    """
    model = functional.bind(config, params)
    if isinstance(config, JanusConfig):
        real = jnp.arange(patches.shape[1]) < counts[:, None]
        tokens = model.embed_vit(patches, positions, jnp.where(real, 0, -1))
        cache, hidden = append_picture(model, cache, tokens, counts, markers)
    else:
        cache, hidden = append_vit(model, cache, patches, positions, counts, markers)
    return cache, handover(model, hidden, markers)


@functools.partial(jax.jit, static_argnames=("config", "markers"), donate_argnames="cache")
def prefill_latents(
    params: Any,
    cache: Cache,
    latents: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    *,
    config: Any,
    markers: Markers,
) -> tuple[Cache, jax.Array]:
    """Jitted `append_latents`, and the hand-over [B] after the image, as `Drawn`'s.

    The cache given is used up.
    """
    model = functional.bind(config, params)
    if isinstance(config, JanusConfig):
        cache, hidden = append_picture(model, cache, model.embed_codes(latents), counts, markers)
    else:
        cache, hidden = append_latents(model, cache, latents, positions, counts, markers)
    return cache, handover(model, hidden, markers)


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings"))
def draw_image(
    params: Any,
    branches: tuple[Cache, ...],
    noise: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    scales: tuple[jax.Array, jax.Array],
    *,
    config: Any,
    markers: Markers,
    settings: FlowSettings,
) -> tuple[jax.Array, jax.Array]:
    """Jitted `integrate`, its latents and passes; `config` is the `BagelConfig` of `params`."""
    model = functional.bind(config, params)
    fixed = {"markers": markers, "settings": settings}
    path = integrate(model, branches, noise, positions, counts, scales, **fixed)
    return path.latents, path.passes


@functools.partial(jax.jit, static_argnames=("config", "markers", "count"))
def draw_codes(
    params: Any,
    branches: tuple[Cache, ...],
    seeds: jax.Array,
    guidance: jax.Array,
    temperature: jax.Array,
    *,
    config: Any,
    markers: Markers,
    count: int,
) -> jax.Array:
    """Draws images code by code: [B, count] int32.

    Args:
      params: the parameters.
      branches: the full contexts, then, with guidance, those without their words.
      seeds: [B] uint32.
      guidance, temperature: float32, see `codes.CodeSettings`.
      config: the `JanusConfig` of `params`.
      markers: control ids.
      count: codes of an image.
    """
    model = functional.bind(config, params)
    cache = concat_rows(list(branches)) if len(branches) > 1 else branches[0]
    cache = resize(cache, cache.slots + count)
    noise = gumbel(seeds, config.codes.size, count)
    start = jnp.int32(markers.soi)
    return drawing(model, cache, start, noise, guidance, temperature)[1].code.T
