"""The vision tower: SigLIP in NaViT form, on patches of any number of images packed in a row.

Learned positions on a fixed grid, pre-norm layers with biases, attention inside each image only,
final layer norm applied, no class token (as used by BAGEL and Janus).
"""

from typing import Any

import jax
from flax import nnx

from unireason_jax.models.attention import Keys, Queries, attend
from unireason_jax.models.layers import LayerNorm, Projection, parameter, stacked
from unireason_jax.models.mot import remat
from unireason_jax.models.sizes import ViTConfig
from unireason_jax.pods.sharding import constrain


class ViTBlock(nnx.Module):
    """One pre-norm layer."""

    def __init__(self, config: Any):
        """SigLIP shapes; every projection has a bias."""
        c = config.vit
        size = c.width // c.heads
        made = {"bias": True, "dtype": config.dtype}
        into, back = ("embed", "heads", "head_dim"), ("heads", "head_dim", "embed")
        deep = (2 * c.layers) ** -0.5
        self.attention_norm = LayerNorm(c.width, axis="embed", eps=c.norm_eps)
        self.query = Projection((c.width,), (c.heads, size), axes=into, **made)
        self.key = Projection((c.width,), (c.heads, size), axes=into, **made)
        self.value = Projection((c.width,), (c.heads, size), axes=into, **made)
        self.out = Projection((c.heads, size), (c.width,), axes=back, scale=deep, **made)
        self.mlp_norm = LayerNorm(c.width, axis="embed", eps=c.norm_eps)
        self.up = Projection((c.width,), (c.mlp,), axes=("embed", "mlp"), **made)
        self.down = Projection((c.mlp,), (c.width,), axes=("mlp", "embed"), scale=deep, **made)
        self.attention = {"backend": config.attention, "chunk": config.chunk}
        self.approximate = c.gelu == "tanh"

    def __call__(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """[B, T, D] float32 and image numbers [B, T] -> [B, T, D] float32."""
        x = x + self.attended(x, images)
        return constrain(x + self.mlp(x), "batch", "length", None)

    def attended(self, x: jax.Array, images: jax.Array) -> jax.Array:
        """What attention adds to x."""
        h = self.attention_norm(x)
        q, k, v = self.query(h), self.key(h), self.value(h)
        same = Queries(images, images, images)
        return self.out(attend(q, same, Keys(k, v, images), **self.attention), "float32")

    def mlp(self, x: jax.Array) -> jax.Array:
        """What the MLP adds to x."""
        h = jax.nn.gelu(self.up(self.mlp_norm(x)), approximate=self.approximate)
        return self.down(constrain(h, "batch", "length", "mlp"), "float32")


class ViT(nnx.Module):
    """Patch embedding, learned positions, scanned layers, final norm."""

    def __init__(self, config: Any):
        """Layers are stacked on axis 0."""
        c: ViTConfig = config.vit
        self.remat = config.remat
        pixels = 3 * c.patch**2
        self.patch = Projection(
            (pixels,), (c.width,), axes=("patch", "embed"), bias=True, dtype=config.dtype
        )
        rows = c.learned or c.side**2
        self.position = parameter((rows, c.width), (None, "embed"), std=0.02)
        self.blocks = stacked(lambda: ViTBlock(config), c.layers)
        self.norm = LayerNorm(c.width, axis="embed", eps=c.norm_eps)

    def __call__(self, patches: jax.Array, positions: jax.Array, images: jax.Array) -> jax.Array:
        """Features of packed patches.

        Args:
          patches: [B, T, patch * patch * 3] pixels in [-1, 1], ordered (row, column, channel).
          positions: [B, T] int32, row * side + column.
          images: [B, T] int32 image number in the row, -1 for padding.

        Returns:
          [B, T, width] float32.
        """
        x = self.embed(patches, positions)

        def body(x: jax.Array, block: Any) -> tuple[jax.Array, None]:
            return block(x, images), None

        x, _ = jax.lax.scan(remat(body, self.remat), x, self.blocks)
        return self.norm(x)

    def embed(self, patches: jax.Array, positions: jax.Array) -> jax.Array:
        """Patches at their places: what the first layer reads."""
        return self.patch(patches, "float32") + self.position[...][positions]
