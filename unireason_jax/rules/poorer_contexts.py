"""Packed rows seen without their words or without their images: the contexts that guide a drawing.

A sampler reads such a context anew, into a cache of its own. In a packed row it is another way of
seeing the same tokens: those that are left out are seen by nobody, and what follows them stands
at the rotary position that it has in a record without them. So it is what condition dropout trains,
and every guidance branch of a row is one more forward pass with other small integers.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from unireason_jax.rules.visibility import NOISE, Visibility

IMAGE_FREE = ("gaps", "texts")
"""What is left of an image that is left out: one rotary position, or nothing."""


class View(NamedTuple):
    """How the tokens of packed rows see each other: rotary positions [B, T], visibility [B, T]."""

    positions: jax.Array
    seen: Visibility


class Parts(NamedTuple):
    """What the tokens of packed rows are, bool [B, T]: words (bos and eos included), images that
    are shown (their markers included), and of these the markers that begin them."""

    words: jax.Array
    images: jax.Array
    starts: jax.Array


def parts(text_ids: jax.Array, seen: Visibility, markers: tuple[int, int]) -> Parts:
    """Tells words from images in rows [text | vit | latent].

    Args:
      text_ids: [B, N] int32, the first N tokens of the rows.
      seen: [B, T].
      markers: ids that begin and end an image.
    """
    beyond = [(0, 0), (0, seen.key.shape[1] - text_ids.shape[1])]
    starts, ends = (jnp.pad(text_ids == marker, beyond) for marker in markers)
    is_text = jnp.pad(jnp.ones(text_ids.shape, bool), beyond)
    words = (seen.lo >= 0) & is_text & ~starts & ~ends
    images = (seen.lo >= 0) & (seen.own < NOISE) & ~words
    return Parts(words, images, images & starts)


def without_words(view: View, parts: Parts) -> View:
    """The context without any text."""
    return _without(view, parts.words, parts.words)


def without_images(view: View, parts: Parts, rule: str) -> View:
    """The context without images that are shown; `rule` is one of IMAGE_FREE."""
    moved = parts.starts if rule == "texts" else jnp.zeros_like(parts.starts)
    return _without(view, parts.images, moved)


def count_seen(seen: Visibility, which: jax.Array) -> jax.Array:
    """How many of the tokens `which` [B, T] bool come in a query's part of its record: [B, T].

    Tokens of noised images are not counted.
    """

    def one(seen: Visibility, which: jax.Array) -> jax.Array:
        total = len(which)
        place = jnp.where((seen.key >= 0) & (seen.key < NOISE), seen.key + 1, total + 1)
        before = jnp.cumsum(jnp.zeros(total + 1, jnp.int32).at[place].add(which, mode="drop"))
        return jnp.where(seen.lo >= 0, before[seen.hi + 1] - before[seen.lo], 0)

    return jax.vmap(one)(seen, which)


def _without(view: View, hidden: jax.Array, moved: jax.Array) -> View:
    """The view in which nobody sees the hidden tokens, and those that `moved` the rotary position
    of what follows do so no more. Hidden tokens of a record see each other: no row of attention
    may be empty."""
    seen = view.seen
    among = NOISE + seen.key.shape[1] + seen.lo
    key, own = (jnp.where(hidden, among, old) for old in (seen.key, seen.own))
    return View(view.positions - count_seen(seen, moved), seen._replace(key=key, own=own))
