"""Writing texts from a cache, many rows together, whole or some tokens at a time.

A text row carries a seed that keys its Gumbel noise by the number of the token, so a prompt gives
the same text alone, among others, and however many tokens are written at a time.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from unireason_jax.inference.cache import Cache, Markers, append_text
from unireason_jax.models import functional

NEVER = -1


class Drawn(NamedTuple):
    """Text rows as they were written.

    Attributes:
      ids: [B, max_tokens] int32 tokens between bos and eos; beyond the count they mean nothing.
      counts: [B] int32.
      handover: [B] int32 what the model predicts at eos: bos (more text), soi (draw now) or eos
        (stop); -1 for rows that were not active.
      cut: [B] bool, the limit ended the text, not the model.
      logps: [B, max_tokens + 1] float32 log-probabilities of the tokens and, behind the last, of
        the eos, among the whole vocabulary at the temperature; beyond that they mean nothing.
      forced: [B] bool, the eos was put there, not chosen.
    """

    ids: jax.Array
    counts: jax.Array
    handover: jax.Array
    cut: jax.Array
    logps: jax.Array
    forced: jax.Array


class Texts(NamedTuple):
    """Texts of B rows on their way.

    Attributes:
      drawn: what is written of them.
      token: [B] int32, read next.
      place: [B] int32, tokens read since the text began.
      done: [B] bool; such rows stay as they are.
    """

    drawn: Drawn
    token: jax.Array
    place: jax.Array
    done: jax.Array


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
    texts = start_texts(active, markers, max_tokens)
    how = {"markers": markers, "vocab": vocab, "greedy": greedy}
    cache, texts = _write(model, cache, texts, None, seeds, limit, temperature, top_p, **how)
    return cache, texts.drawn


def start_texts(active: jax.Array, markers: Markers, max_tokens: int) -> Texts:
    """Texts of which nothing is written yet, in the active rows [B]; `max_tokens` is their room."""
    rows = active.shape[0]
    drawn = Drawn(
        ids=jnp.zeros((rows, max_tokens), jnp.int32),
        counts=jnp.zeros(rows, jnp.int32),
        handover=jnp.full(rows, NEVER, jnp.int32),
        cut=jnp.zeros(rows, bool),
        logps=jnp.zeros((rows, max_tokens + 1), jnp.float32),
        forced=jnp.zeros(rows, bool),
    )
    token = jnp.full(rows, markers.start, jnp.int32)
    return Texts(drawn, token, jnp.zeros(rows, jnp.int32), ~active)


@functools.partial(
    jax.jit, static_argnames=("config", "markers", "vocab", "greedy"), donate_argnames="cache"
)
def write_some(
    params: Any,
    cache: Cache,
    texts: Texts,
    steps: jax.Array,
    seeds: jax.Array,
    limit: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    config: Any,
    markers: Markers,
    vocab: int,
    greedy: bool,
) -> tuple[Cache, Texts]:
    """Goes on with texts for at most `steps` tokens; otherwise as `write_text`.

    `limit`, `temperature` and `top_p` are [B]: rows may join at any time and be of any kind. No
    row sees what the others are.
    """
    model = functional.bind(config, params)
    how = {"markers": markers, "vocab": vocab, "greedy": greedy}
    chosen = temperature[:, None], top_p[:, None]
    return _write(model, cache, texts, steps, seeds, limit, *chosen, **how)


def _write(
    model: Any,
    cache: Cache,
    texts: Texts,
    steps: jax.Array | None,
    seeds: jax.Array,
    limit: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    *,
    markers: Markers,
    vocab: int,
    greedy: bool,
) -> tuple[Cache, Texts]:
    """Writes until every text is done, or for so many steps."""
    row = jnp.arange(cache.rows)
    draws = jnp.int32(markers.soi)

    def unfinished(state: tuple) -> jax.Array:
        _, texts, number = state
        more = jnp.any(~texts.done)
        return more if steps is None else more & (number < steps)

    def step(state: tuple) -> tuple:
        cache, (drawn, token, place, done), number = state
        cache, hidden = append_text(model, cache, token[:, None], (~done).astype(jnp.int32))
        logits = model.logits(hidden[:, 0])[:, :vocab]
        closing = ~done & (token == markers.eos) & (place > 0)
        likely = handover(model, hidden[:, 0], markers)
        told = jnp.where(drawn.handover == NEVER, likely, draws)
        if greedy:
            chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            logps = jax.nn.log_softmax(logits)
        else:
            chosen = _sample(logits, seeds, place, temperature, top_p)
            logps = jax.nn.log_softmax(logits / jnp.maximum(temperature, 1e-6))
        full = drawn.counts >= limit
        asks = ~done & ~closing & ~full & (chosen == markers.soi)
        cut = ~done & ~closing & full & (chosen != markers.eos)
        chosen = jnp.where(full | asks, markers.eos, chosen)
        more = ~done & ~closing & (chosen != markers.eos)
        slot = jnp.where(more, drawn.counts, drawn.ids.shape[1])
        told_at = jnp.where(done | closing, drawn.logps.shape[1], drawn.counts)
        logps = jnp.take_along_axis(logps, chosen[:, None], axis=1)[:, 0]
        drawn = Drawn(
            ids=drawn.ids.at[row, slot].set(chosen, mode="drop"),
            counts=drawn.counts + more,
            handover=jnp.where(closing, told, jnp.where(asks, draws, drawn.handover)),
            cut=drawn.cut | cut,
            logps=drawn.logps.at[row, told_at].set(logps, mode="drop"),
            forced=drawn.forced | cut | asks,
        )
        return cache, Texts(drawn, chosen, place + 1, done | closing), number + 1

    return jax.lax.while_loop(unfinished, step, (cache, texts, jnp.int32(0)))[:2]


def handover(model: Any, hidden: jax.Array, markers: Markers) -> jax.Array:
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
    """Nucleus sampling by Gumbel noise keyed by (seed, place), both [B]: [B, V] -> [B] int32.

    The vocabulary is sorted only where some of it is left out, at top_p < 1.
    """
    scaled = logits / jnp.maximum(temperature, 1e-6)
    some = jnp.any(top_p < 1)
    scaled = jax.lax.cond(some, _nucleus, lambda scaled, _: scaled, scaled, top_p)

    def noise(seed: jax.Array, place: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(seed), place)
        return jax.random.gumbel(key, logits.shape[1:])

    return jnp.argmax(scaled + jax.vmap(noise)(seeds, place), axis=-1).astype(jnp.int32)


def _nucleus(scaled: jax.Array, top_p: jax.Array) -> jax.Array:
    """Logits [B, V] with -inf beyond the smallest set whose probability reaches `top_p`."""
    ordered = -jnp.sort(-scaled, axis=-1)
    probability = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probability, axis=-1) - probability
    kept = jnp.where((before < top_p) | (top_p >= 1), ordered, jnp.inf)
    return jnp.where(scaled < jnp.min(kept, axis=-1, keepdims=True), -jnp.inf, scaled)
