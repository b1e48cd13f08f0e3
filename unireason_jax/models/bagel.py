"""BAGEL: one two-expert language model, a vision tower in, latent tokens in and out.

Streams are embedded separately (text, ViT, latent), concatenated by the caller into the und block
[text | vit] and the gen block [latent], run through the stack, and read out by two heads: the
vocabulary for und tokens, the flow velocity for gen tokens. UniReason uses the same network.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from unireason_jax.models.config import BagelConfig
from unireason_jax.models.layers import (
    Projection,
    parameter,
    sincos_positions,
    timestep_features,
)
from unireason_jax.models.mot import Past, Stack
from unireason_jax.models.vit import ViT
from unireason_jax.pods.sharding import constrain, gathered
from unireason_jax.rules.visibility import Visibility

TIME_FEATURES = 256


class Bagel(nnx.Module):
    """The network. Inputs and outputs of every method are float32 unless said otherwise."""

    def __init__(self, config: BagelConfig):
        """Starts so that a token says where and what it is: words as large as the position tables,
        latents (mostly noise) smaller, and `latent_out` zero, so that the first velocity is zero.
        """
        self.config = config
        width, features = config.llm.width, config.latent.features
        made = {"dtype": config.dtype}
        wide = {"bias": True, **made}
        table = (config.llm.vocab, width)
        self.embed = parameter(table, ("vocab", "embed"), std=0.5**0.5)
        self.stack = Stack(config)
        self.head = Projection((width,), (config.llm.vocab,), axes=("embed", "vocab"), **made)
        if config.vit is not None:
            self.vit = ViT(config)
            inner = config.vit.width
            self.connector_in = Projection((inner,), (width,), axes=("embed", "mlp"), **wide)
            self.connector_out = Projection((width,), (width,), axes=("mlp", "embed"), **wide)
        self.time_in = Projection((TIME_FEATURES,), (width,), axes=("patch", "mlp"), **wide)
        self.time_out = Projection((width,), (width,), axes=("mlp", "embed"), **wide)
        self.latent_in = Projection(
            (features,), (width,), axes=("patch", "embed"), scale=0.25, **wide
        )
        self.latent_out = Projection(
            (width,), (features,), axes=("embed", "patch"), scale=0.0, **wide
        )

    def embed_text(self, ids: jax.Array) -> jax.Array:
        """Token ids [B, T] int32 -> [B, T, D]."""
        with jax.named_scope("embed_text"):
            table = gathered(self.embed[...], ("vocab", "embed"), ("vocab", None))
            return constrain(table[ids].astype(jnp.float32), "batch", "length", None)

    def embed_vit(self, patches: jax.Array, positions: jax.Array, images: jax.Array) -> jax.Array:
        """Image patches as und tokens: vision tower, connector, fixed 2-D position.

        Args:
          patches: [B, T, P] pixels in [-1, 1], ordered (row, column, channel) in a patch.
          positions: [B, T] int32, row * vit.side + column.
          images: [B, T] int32 image number in the row, -1 for padding; attention stays inside.

        Returns:
          [B, T, D].

        Raises:
          ValueError: the model was built without a vision tower.
        """
        vit = self.config.vit
        if vit is None:
            raise ValueError("model: vit is None, but a batch with ViT patches was given.")
        with jax.named_scope("embed_vit"):
            features = self.vit(patches, positions, images)
            hidden = jax.nn.gelu(self.connector_in(features), approximate=True)
            x = self.connector_out(hidden, "float32")
            return x + sincos_positions(positions, vit.side, self.config.llm.width)

    def embed_time(self, t: jax.Array) -> jax.Array:
        """Flow time [...] in [0, 1] -> [..., D]; entered unscaled."""
        hidden = jax.nn.silu(self.time_in(timestep_features(t, TIME_FEATURES)))
        return self.time_out(hidden, "float32")

    def embed_latents(self, x_t: jax.Array, t: jax.Array, positions: jax.Array) -> jax.Array:
        """Latent tokens as gen tokens: linear map, flow time, fixed 2-D position.

        Args:
          x_t: [B, T, P] latents on the flow's path, ordered (row, column, channel) in a patch.
          t: [B, T] flow time in [0, 1]; 0 is clean.
          positions: [B, T] int32, row * latent.side + column.

        Returns:
          [B, T, D].
        """
        with jax.named_scope("embed_latents"):
            x = self.latent_in(x_t, "float32") + self.embed_time(t)
            fixed = sincos_positions(positions, self.config.latent.side, self.config.llm.width)
            return x + fixed

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
          past: cached (k [L, B, S, K, H], v, ids [B, S]) that the tokens may also see, under the
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
        return self.head.kernel[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Normed und states [..., D] -> float32 logits [..., V]."""
        with jax.named_scope("logits"):
            return self.head(hidden, "float32")

    def velocity(self, hidden: jax.Array) -> jax.Array:
        """Normed gen states [..., D] -> float32 flow velocity [..., P]."""
        with jax.named_scope("velocity"):
            return self.latent_out(hidden, "float32")
