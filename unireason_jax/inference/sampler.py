"""Writing text and drawing images from a cache, each in one compiled loop.

Randomness belongs to the sample, never to its place in a batch: text rows carry a seed that keys
their Gumbel noise, images a seed that keys the noise of every token. So a prompt gives the same
text and image alone, among others, and on any number of devices.
"""

import functools
import hashlib
from typing import Any, NamedTuple

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
from unireason_jax.inference.codes import drawing, gumbel
from unireason_jax.inference.integration import integrate
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional
from unireason_jax.models.janus.config import JanusConfig

NEVER = -1


class Drawn(NamedTuple):
    """Text rows as they were written.

    Attributes:
      ids: [B, max_tokens] int32 tokens between bos and eos; beyond the count they mean nothing.
      counts: [B] int32.
      handover: [B] int32 what the model predicts at eos: bos (more text), soi (draw now) or eos
        (stop); -1 for rows that were not active.
      cut: [B] bool, the limit ended the text, not the model.
    """

    ids: jax.Array
    counts: jax.Array
    handover: jax.Array
    cut: jax.Array


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
    return cache, _handover(model, hidden, markers)


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
    return cache, _handover(model, hidden, markers)


@functools.partial(
    jax.jit,
    static_argnames=("config", "markers", "vocab", "max_tokens", "greedy"),
    donate_argnames="cache",
)
def write_text(
    params: Any,
    cache: Cache,
    active: jax.Array,
    seeds: jax.Array,
    limit: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    config: Any,
    markers: Markers,
    vocab: int,
    max_tokens: int,
    greedy: bool,
) -> tuple[Cache, Drawn]:
    """Writes one text turn, bos to eos, into the cache of every active row.

    Every row stops at its own eos; the loop ends with the last row. The eos is fed as well, as in
    training, and what the model predicts there is the hand-over. A model that writes the start of
    an image before any eos wants to draw now: its text is ended, and the hand-over is the image.

    Args:
      params: the model's parameters.
      cache: B rows; used up.
      active: [B] bool; other rows stay as they are.
      seeds: [B] uint32; unused when greedy.
      limit: int32 tokens between bos and eos at which eos is forced, at most `max_tokens`.
      temperature: float32, see `TextSettings`.
      top_p: float32, see `TextSettings`.
      config: `BagelConfig`.
      markers: control ids.
      vocab: ids below it may be written; a padded head has columns beyond the tokenizer.
      max_tokens: static room for tokens.
      greedy: take the most likely token.
    """
    model = functional.bind(config, params)
    rows = cache.rows
    row = jnp.arange(rows)
    draws = jnp.int32(markers.soi)

    def unfinished(state: tuple) -> jax.Array:
        return jnp.any(~state[2])

    def step(state: tuple) -> tuple:
        cache, token, done, drawn, place = state
        cache, hidden = append_text(model, cache, token[:, None], (~done).astype(jnp.int32))
        logits = model.logits(hidden[:, 0])[:, :vocab]
        closing = ~done & (token == markers.eos) & (place > 0)
        likely = _handover(model, hidden[:, 0], markers)
        told = jnp.where(drawn.handover == NEVER, likely, draws)
        if greedy:
            chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        else:
            chosen = _sample(logits, seeds, place, temperature, top_p)
        full = drawn.counts >= limit
        asks = ~done & ~closing & ~full & (chosen == markers.soi)
        cut = ~done & ~closing & full & (chosen != markers.eos)
        chosen = jnp.where(full | asks, markers.eos, chosen)
        more = ~done & ~closing & (chosen != markers.eos)
        slot = jnp.where(more, drawn.counts, max_tokens)
        drawn = Drawn(
            ids=drawn.ids.at[row, slot].set(chosen, mode="drop"),
            counts=drawn.counts + more,
            handover=jnp.where(closing, told, jnp.where(asks, draws, drawn.handover)),
            cut=drawn.cut | cut,
        )
        return cache, chosen, done | closing, drawn, place + 1

    drawn = Drawn(
        ids=jnp.zeros((rows, max_tokens), jnp.int32),
        counts=jnp.zeros(rows, jnp.int32),
        handover=jnp.full(rows, NEVER, jnp.int32),
        cut=jnp.zeros(rows, bool),
    )
    start = (cache, jnp.full(rows, markers.start, jnp.int32), ~active, drawn, jnp.int32(0))
    cache, _, _, drawn, _ = jax.lax.while_loop(unfinished, step, start)
    return cache, drawn


def _handover(model: Any, hidden: jax.Array, markers: Markers) -> jax.Array:
    """The likeliest of bos, soi and eos after hidden states [B, D]: [B] int32."""
    control = jnp.asarray([markers.bos, markers.soi, markers.eos], jnp.int32)
    return control[jnp.argmax(model.logits(hidden)[:, control], axis=-1)]


def _sample(
    logits: jax.Array,
    seeds: jax.Array,
    place: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
) -> jax.Array:
    """Nucleus sampling by Gumbel noise keyed by (row seed, place): [B, V] -> [B] int32.

    The vocabulary is sorted only where some of it is left out, at top_p < 1.
    """
    scaled = logits / jnp.maximum(temperature, 1e-6)
    scaled = jax.lax.cond(top_p < 1, _nucleus, lambda scaled, _: scaled, scaled, top_p)

    def noise(seed: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), place)
        return jax.random.gumbel(key, logits.shape[1:])

    return jnp.argmax(scaled + jax.vmap(noise)(seeds), axis=-1).astype(jnp.int32)


def _nucleus(scaled: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, V] with -inf beyond the smallest set whose probability reaches `top_p`."""
    ordered = -jnp.sort(-scaled, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = jnp.where(before < top_p, ordered, jnp.inf)
    return jnp.where(scaled < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, scaled)


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
) -> jax.Array:
    """Jitted `integrate`, the latents only; `config` is the `BagelConfig` of `params`."""
    model = functional.bind(config, params)
    fixed = {"markers": markers, "settings": settings}
    return integrate(model, branches, noise, positions, counts, scales, **fixed)[0]


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
