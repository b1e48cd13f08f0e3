"""What every backbone shares: the table of words, the stack of layers and the vocabulary head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unireason_jax.models.layers import Projection, parameter
from unireason_jax.models.mot import Past, Stack
from unireason_jax.pods.sharding import constrain, gathered
from unireason_jax.rules.visibility import Visibility


class Trunk(nnx.Module):
    """A language model. Inputs and outputs of every method are float32 unless said otherwise."""

    def __init__(self, config: Any):
        """Words start as large as the position tables."""
        self.config = config
        width, vocab = config.llm.width, config.llm.vocab
        self.embed = parameter((vocab, width), ("vocab", "embed"), std=0.5**0.5)
        self.stack = Stack(config)
        self.head = Projection((width,), (vocab,), axes=("embed", "vocab"), dtype=config.dtype)

    def embed_text(self, ids: jax.Array) -> jax.Array:
        """Token ids [B, T] int32 -> [B, T, D]."""
        with jax.named_scope("embed_text"):
            table = gathered(self.embed[...], ("vocab", "embed"), ("vocab", None))
            return constrain(table[ids].astype(jnp.float32), "batch", "length", None)

    def decode(
        self,
        und: jax.Array,
        gen: jax.Array,
        positions: jax.Array,
        visibility: Visibility,
        past: Past | tuple[jax.Array, jax.Array, jax.Array] | None = None,
        *,
        detach_und: bool = False,
        keep_kv: bool = True,
    ) -> tuple[jax.Array, jax.Array, tuple[jax.Array, jax.Array] | None]:
        """Runs the stack over a split-packed row.

        Args:
          und: [B, Tu, D] embeddings of text then ViT tokens; Tu may be 0.
          gen: [B, Tg, D] embeddings of latent tokens; Tg may be 0.
          positions: [B, Tu + Tg] int32 rotary positions.
          visibility: (key, lo, hi, own), each [B, Tu + Tg] int32.
          past: cached (k [L, B, K, S, H], v, ids [B, S]) that the tokens may also see, under the
            same rule; an unused slot has an id that no query accepts.
          detach_und: BAGEL's freeze_und: und tokens are constants for the backward pass, so the
            und experts, the vision tower and the embeddings get a gradient of exactly zero.
          keep_kv: whether to return the keys and values; training does not need them.

        Returns:
          und [B, Tu, D] and gen [B, Tg, D] after the final norm of their expert, and (k, v), each
          [L, B, Tu + Tg, K, H] in the matmul dtype, rotated, ready to append to a cache.
        """
        past = None if past is None else Past(*past)
        flags = {"past": past, "detach_und": detach_und, "keep_kv": keep_kv}
        with jax.named_scope("decode"):
            return self.stack(und, gen, positions, visibility, **flags)

    @property
    def head_kernel(self) -> jax.Array:
        """The vocabulary head [D, V], for a cross entropy that never holds all logits."""
        return self.head.weight

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Normed und states [..., D] -> float32 logits [..., V]."""
        with jax.named_scope("logits"):
            return self.head(hidden, "float32")
