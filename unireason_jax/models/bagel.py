"""BAGEL: one two-expert language model, a vision tower in, latent tokens in and out.

Streams are embedded separately (text, ViT, latent), concatenated by the caller into the und block
[text | vit] and the gen block [latent], run through the stack, and read out by two heads: the
vocabulary for und tokens, the flow velocity for gen tokens. UniReason uses the same network.
"""

import jax

from unireason_jax.models.config import BagelConfig
from unireason_jax.models.layers import Projection, sincos_positions, timestep_features
from unireason_jax.models.trunk import Trunk
from unireason_jax.models.vit import ViT

TIME_FEATURES = 256


class Bagel(Trunk):
    """The network. Inputs and outputs of every method are float32 unless said otherwise."""

    def __init__(self, config: BagelConfig):
        """Starts so that a token says where and what it is: words as large as the position tables,
        latents (mostly noise) smaller, and `latent_out` zero, so that the first velocity is zero.
        """
        super().__init__(config)
        width, features = config.llm.width, config.latent.features
        wide = {"bias": True, "dtype": config.dtype}
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

    def velocity(self, hidden: jax.Array) -> jax.Array:
        """Normed gen states [..., D] -> float32 flow velocity [..., P]."""
        with jax.named_scope("velocity"):
            return self.latent_out(hidden, "float32")
