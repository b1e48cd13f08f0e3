"""The key/value cache: what a row has seen, in static shapes, with every row at its own state.

A cached key's slot is its order index, so a row is fully described by how many slots it has filled
and by its next rotary position. Text is appended causally, ViT and clean latent blocks with full
attention inside the block; noised latents read the cache and are never written (BAGEL inference).
Slots beyond a row's length hold stale numbers that no query can see.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from unireason_jax.rules.visibility import NOISE, PADDING, Visibility

KV_DTYPES = ("bfloat16", "float8_e4m3fn")
"""What keys and values may be kept in, other than the model's own dtype."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """Keys and values of B rows in S slots.

    Attributes:
      k: [L, B, K, S, H] keys after query-key norm and rotation: as attention reads them.
      v: [L, B, K, S, H] values.
      lengths: [B] int32, filled slots = order index of the next token.
      positions: [B] int32, rotary position of the next token.
    """

    k: jax.Array
    v: jax.Array
    lengths: jax.Array
    positions: jax.Array

    @property
    def rows(self) -> int:
        """B."""
        return self.k.shape[1]

    @property
    def slots(self) -> int:
        """S."""
        return self.k.shape[3]

    @property
    def keys(self) -> jax.Array:
        """[B, S] int32 key ids of the visibility rule: the slot, or PADDING where empty."""
        slot = jnp.arange(self.slots, dtype=jnp.int32)
        return jnp.where(slot < self.lengths[:, None], slot, PADDING)


@dataclasses.dataclass(frozen=True)
class Markers:
    """Ids of the four control tokens: text begins and ends, image begins and ends.

    `first` is what a text of the model begins with, where that is not bos (Janus's "Assistant:").
    """

    bos: int
    eos: int
    soi: int
    eoi: int
    first: int | None = None

    @property
    def start(self) -> int:
        """The token that is fed before a text is written."""
        return self.bos if self.first is None else self.first


@functools.partial(jax.jit, static_argnames=("config", "rows", "slots", "dtype"))
def empty(config: Any, rows: int, slots: int, dtype: str | None = None) -> Cache:
    """A cache without tokens.

    Args:
      config: `BagelConfig`; its llm gives L, K and H.
      rows: B.
      slots: S; appending past it silently drops tokens, so callers size it (`Reasoner` does).
      dtype: that keys and values are kept in, see KV_DTYPES; None is the config's.
    """
    llm = config.llm
    shape = (llm.layers, rows, llm.kv_heads, slots, llm.head_dim)
    k, v = (jnp.zeros(shape, dtype or config.dtype) for _ in range(2))
    lengths, positions = (jnp.zeros(rows, jnp.int32) for _ in range(2))
    return Cache(k, v, lengths, positions)


def resize(cache: Cache, slots: int) -> Cache:
    """The same rows with more or fewer slots; fewer must still hold the longest row."""
    extra = slots - cache.slots
    if extra <= 0:
        k, v = (x[:, :, :, :slots] for x in (cache.k, cache.v))
        return dataclasses.replace(cache, k=k, v=v)
    pad = [(0, 0), (0, 0), (0, 0), (0, extra), (0, 0)]
    return dataclasses.replace(cache, k=jnp.pad(cache.k, pad), v=jnp.pad(cache.v, pad))


def concat_rows(caches: list[Cache]) -> Cache:
    """Rows of several caches of equal slots as one cache: how guidance branches share a batch."""

    def join(*arrays: jax.Array) -> jax.Array:
        return jnp.concatenate(arrays, axis=1 if arrays[0].ndim == 5 else 0)

    return jax.tree.map(join, *caches)


def take_rows(cache: Cache, rows: Any) -> Cache:
    """Some rows, in the order of `rows` [n] int32."""
    return jax.tree.map(lambda x: x[:, rows] if x.ndim == 5 else x[rows], cache)


def put_rows(cache: Cache, rows: Any, other: Cache) -> Cache:
    """The cache with those of `other`, of equal slots, in its rows `rows` [n] int32."""

    def put(x: jax.Array, y: jax.Array) -> jax.Array:
        return x.at[:, rows].set(y) if x.ndim == 5 else x.at[rows].set(y)

    return jax.tree.map(put, cache, other)


@functools.partial(jax.jit, donate_argnames="cache")
def put_sources(cache: Cache, other: Cache, source: jax.Array) -> Cache:
    """The cache, which is used up, with row `source` [B] int32 of `other`, of equal slots, in the
    place of every row where that is not -1.
    """
    taken = take_rows(other, jnp.maximum(source, 0))

    def put(x: jax.Array, y: jax.Array) -> jax.Array:
        given = (source >= 0).reshape((1, -1, 1, 1, 1) if x.ndim == 5 else -1)
        return jnp.where(given, y, x)

    return jax.tree.map(put, cache, taken)


def advance(cache: Cache, by: jax.Array) -> Cache:
    """Moves the rotary position without a token: a dropped image copy counts 1 (BAGEL packing)."""
    return dataclasses.replace(cache, positions=cache.positions + by.astype(jnp.int32))


def append_text(
    model: Any, cache: Cache, ids: jax.Array, counts: jax.Array
) -> tuple[Cache, jax.Array]:
    """Words as causal tokens: `append_causal` of ids [B, T] int32, control tokens included."""
    return append_causal(model, cache, model.embed_text(ids), counts)


def append_causal(
    model: Any, cache: Cache, tokens: jax.Array, counts: jax.Array
) -> tuple[Cache, jax.Array]:
    """Causal tokens: rotary positions and order indices go on by one a token.

    Args:
      model: a bound model.
      cache: B rows.
      tokens: [B, T, D] float32 embedded tokens.
      counts: [B] int32, tokens that count; the others are ignored and 0 leaves a row unchanged.

    Returns:
      The longer cache and the hidden states [B, T, D] (final norm applied) of the new tokens.
    """
    shape = tokens.shape[:2]
    offsets = jnp.broadcast_to(jnp.arange(shape[1], dtype=jnp.int32), shape)
    block = _Block(cache, offsets, offsets < counts[:, None], counts)
    und, _, new = model.decode(
        tokens,
        _nothing(model, shape[0]),
        cache.positions[:, None] + offsets,
        block.causal(),
        past=_past(cache),
    )
    # Written after all was read: else XLA copies the whole cache for every token. Zero says so.
    zero = (0 * und[..., :1, None]).astype(new[0].dtype)
    return block.write(tuple(x + zero for x in new), counts), und


def append_picture(
    model: Any, cache: Cache, tokens: jax.Array, counts: jax.Array, markers: Markers
) -> tuple[Cache, jax.Array]:
    """An image as causal tokens (Janus): SOI, features or codes, EOI, each at its own position.

    Args:
      model: a bound `Janus`.
      cache: B rows.
      tokens: [B, T, D] float32 embedded features or codes.
      counts: [B] int32 tokens that count; 0 leaves a row unchanged.
      markers: control ids.

    Returns:
      The longer cache, and the hidden state [B, D] (final norm applied) of the EOI.
    """
    ends = _marker_embeddings(model, cache.rows, markers)
    row = jnp.concatenate([ends[:, :1], tokens, ends[:, 1:]], axis=1)
    last = (counts + 1)[:, None]
    row = jnp.where((jnp.arange(row.shape[1]) == last)[..., None], ends[:, 1:], row)
    cache, hidden = append_causal(model, cache, row, jnp.where(counts > 0, counts + 2, 0))
    return cache, jnp.take_along_axis(hidden, last[..., None], axis=1)[:, 0]


def append_vit(
    model: Any,
    cache: Cache,
    patches: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    markers: Markers,
) -> tuple[Cache, jax.Array]:
    """An image for the und expert: SOI, patches, EOI, all at one rotary position, which then
    goes on by one.

    Args:
      model: a bound `Bagel` that has a vision tower.
      cache: B rows.
      patches: [B, T, patch * patch * 3] float32 pixels in [-1, 1].
      positions: [B, T] int32 row * side + column in the ViT's grid.
      counts: [B] int32 patches that count; 0 leaves a row unchanged.
      markers: control ids.

    Returns:
      The longer cache, and the hidden state [B, D] (final norm applied) of the EOI, which says what
      comes next.
    """
    valid, block, ends = _image_block(cache, counts, patches.shape[1])
    tokens = model.embed_vit(patches, positions, jnp.where(valid, 0, -1))
    und = jnp.concatenate([_marker_embeddings(model, cache.rows, markers), tokens], axis=1)
    rotary = jnp.broadcast_to(cache.positions[:, None], ends.shape)
    past = _past(cache)
    hidden, _, new = model.decode(und, _nothing(model, cache.rows), rotary, block.full(), past=past)
    return block.write(new, counts > 0), hidden[:, 1]


def append_latents(
    model: Any,
    cache: Cache,
    latents: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    markers: Markers,
) -> tuple[Cache, jax.Array]:
    """A clean image for the gen expert (t = 0): SOI, latents, EOI at one rotary position.

    Args:
      model: a bound `Bagel`.
      cache: B rows.
      latents: [B, T, P] float32 scaled latents x0.
      positions: [B, T] int32 row * side + column in the latent grid.
      counts: [B] int32 tokens that count; 0 leaves a row unchanged.
      markers: control ids.

    Returns:
      The longer cache, and the hidden state [B, D] (final norm applied) of the EOI, which says what
      comes next.
    """
    _, block, ends = _image_block(cache, counts, latents.shape[1])
    gen = model.embed_latents(latents, jnp.zeros(latents.shape[:2]), positions)
    hidden, _, new = model.decode(
        _marker_embeddings(model, cache.rows, markers),
        gen,
        jnp.broadcast_to(cache.positions[:, None], ends.shape),
        block.full(),
        past=_past(cache),
    )
    return block.write(new, counts > 0), hidden[:, 1]


def read_noised(
    model: Any,
    cache: Cache,
    x_t: jax.Array,
    t: jax.Array,
    positions: jax.Array,
    counts: jax.Array,
    markers: Markers,
) -> jax.Array:
    """The velocity of a noised image that sees the cache and itself; the cache stays as it is.

    Args:
      model: a bound `Bagel`.
      cache: B rows.
      x_t: [B, T, P] float32 noised latents.
      t: [B] float32 flow time, 0 data and 1 noise.
      positions: [B, T] int32 row * side + column in the latent grid.
      counts: [B] int32 tokens that count.
      markers: control ids.

    Returns:
      [B, T, P] float32; zero on tokens that do not count.
    """
    valid, block, ends = _image_block(cache, counts, x_t.shape[1])
    gen = model.embed_latents(x_t, jnp.broadcast_to(t[:, None], x_t.shape[:2]), positions)
    _, hidden, _ = model.decode(
        _marker_embeddings(model, cache.rows, markers),
        gen,
        jnp.broadcast_to(cache.positions[:, None], ends.shape),
        block.noised(),
        past=_past(cache),
        keep_kv=False,
    )
    return jnp.where(valid[..., None], model.velocity(hidden), 0.0)


@dataclasses.dataclass(frozen=True)
class _Block:
    """New tokens of every row: places in the split [B, T], which count, and how many a row."""

    cache: Cache
    offsets: jax.Array
    valid: jax.Array
    counts: jax.Array

    def causal(self) -> Visibility:
        """Each token sees the row up to itself."""
        order = self._order()
        return self._visibility(order, order)

    def full(self) -> Visibility:
        """Each token sees the row and its whole split."""
        last = self.cache.lengths + self.counts - 1
        return self._visibility(self._order(), jnp.broadcast_to(last[:, None], self.valid.shape))

    def noised(self) -> Visibility:
        """Each token sees the row and its own split, which nobody else may see."""
        before = jnp.broadcast_to(self.cache.lengths[:, None] - 1, self.valid.shape)
        own = jnp.where(self.valid, NOISE, -1)
        key = jnp.where(self.valid, NOISE, PADDING)
        return self._visibility(self._order(), before)._replace(key=key, own=own)

    def write(self, new: tuple[jax.Array, jax.Array], advance_by: jax.Array) -> Cache:
        """The cache with this block's keys and values [L, B, T, K, H] at their slots."""
        cache = self.cache
        row = jnp.arange(cache.rows)[:, None]
        slot = jnp.where(self.valid, self._order(), cache.slots)

        def put(old: jax.Array, value: jax.Array) -> jax.Array:
            value = jnp.moveaxis(value, 0, 2)
            if old.dtype.itemsize == 1:  # beyond the largest number of 8 bits there is only NaN
                largest = float(jnp.finfo(old.dtype).max)
                value = jnp.clip(value, -largest, largest)
            value = value.astype(old.dtype)
            return old.at[:, row, :, slot].set(value, mode="drop")

        return Cache(
            k=put(cache.k, new[0]),
            v=put(cache.v, new[1]),
            lengths=cache.lengths + self.counts,
            positions=cache.positions + advance_by.astype(jnp.int32),
        )

    def _order(self) -> jax.Array:
        """[B, T] order indices of the new tokens."""
        return self.cache.lengths[:, None] + self.offsets

    def _visibility(self, order: jax.Array, hi: jax.Array) -> Visibility:
        """The four integers, with padding that sees only padding."""
        return Visibility(
            key=jnp.where(self.valid, order, PADDING),
            lo=jnp.where(self.valid, 0, PADDING),
            hi=jnp.where(self.valid, hi, PADDING),
            own=jnp.full_like(order, -1),
        )


def _image_block(
    cache: Cache, counts: jax.Array, tokens: int
) -> tuple[jax.Array, _Block, jax.Array]:
    """The block [SOI, EOI, tokens] in true order SOI, tokens, EOI.

    Returns which of the tokens count [B, tokens], the block, and its offsets [B, 2 + tokens].
    """
    place = jnp.broadcast_to(jnp.arange(tokens, dtype=jnp.int32), (cache.rows, tokens))
    valid = place < counts[:, None]
    shown = (counts > 0)[:, None]
    first = jnp.zeros((cache.rows, 1), jnp.int32)
    offsets = jnp.concatenate([first, counts[:, None] + 1, place + 1], axis=1)
    total = jnp.where(counts > 0, counts + 2, 0)
    return valid, _Block(cache, offsets, jnp.concatenate([shown, shown, valid], 1), total), offsets


def _past(cache: Cache) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `Bagel.decode` may look back at."""
    return cache.k, cache.v, cache.keys


def _marker_embeddings(model: Any, rows: int, markers: Markers) -> jax.Array:
    """[B, 2, D]: start and end of image."""
    ids = jnp.broadcast_to(jnp.asarray([markers.soi, markers.eoi], jnp.int32), (rows, 2))
    return model.embed_text(ids)


def _nothing(model: Any, rows: int) -> jax.Array:
    """[B, 0, D]: a stream without tokens."""
    return jnp.zeros((rows, 0, model.config.llm.width), jnp.float32)
