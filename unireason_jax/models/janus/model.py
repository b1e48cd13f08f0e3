"""Janus-Pro: one LLaMA; a SigLIP tower for pictures that are looked at, codes for drawn ones.

Text, tower features and codes are embedded separately and run through the same layers in true
order, every token causal. Two heads read the result: the vocabulary for text, and the generation
head for the code that comes next (Chen et al., 2025, arXiv 2501.17811).
"""

import jax
from flax import nnx

from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.models.layers import Projection, parameter
from unireason_jax.models.trunk import Trunk
from unireason_jax.models.vit import ViT
from unireason_jax.pods.sharding import constrain, gathered


class Aligner(nnx.Module):
    """Two affine maps with an exact GELU between: features of any width as tokens."""

    def __init__(self, inputs: int, width: int, *, axis: str, dtype: str):
        """`axis` names the input's dimension."""
        made = {"bias": True, "dtype": dtype}
        self.into = Projection((inputs,), (width,), axes=(axis, "mlp"), **made)
        self.out = Projection((width,), (width,), axes=("mlp", "embed"), **made)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., width] float32."""
        return self.out(jax.nn.gelu(self.into(x, "float32"), approximate=False), "float32")


class GenerationHead(nnx.Module):
    """The head over codes: an affine map, an exact GELU, and the codes."""

    def __init__(self, width: int, codes: int, *, dtype: str):
        """Widths of the states and number of codes."""
        made = {"bias": True, "dtype": dtype}
        self.into = Projection((width,), (width,), axes=("embed", "mlp"), **made)
        self.out = Projection((width,), (codes,), axes=("embed", "vocab"), **made)

    def features(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., D] float32, what the last map reads."""
        return jax.nn.gelu(self.into(hidden, "float32"), approximate=False)

    def __call__(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> [..., codes] float32."""
        return self.out(self.features(hidden), "float32")


class Janus(Trunk):
    """The network. Inputs and outputs of every method are float32 unless said otherwise."""

    def __init__(self, config: JanusConfig):
        """Draws every part as it is usual; there is no released starting point for the heads."""
        super().__init__(config)
        width, codes = config.llm.width, config.codes
        if config.vit is not None:
            self.vit = ViT(config)
            self.aligner = Aligner(config.vit.width, width, axis="embed", dtype=config.dtype)
        self.gen_embed = parameter((codes.size, codes.width), ("vocab", None), std=1.0)
        self.gen_aligner = Aligner(codes.width, width, axis="patch", dtype=config.dtype)
        self.gen_head = GenerationHead(width, codes.size, dtype=config.dtype)

    def embed_vit(self, patches: jax.Array, positions: jax.Array, images: jax.Array) -> jax.Array:
        """Image patches as tokens: vision tower and aligner.

        Args:
          patches: [B, T, P] pixels in [-1, 1], ordered (row, column, channel) in a patch.
          positions: [B, T] int32, row * vit.side + column.
          images: [B, T] int32 image number in the row, -1 for padding; attention stays inside.

        Returns:
          [B, T, D].

        Raises:
          ValueError: the model was built without a vision tower.
        """
        if self.config.vit is None:
            raise ValueError("model: vit is None, but a batch with ViT patches was given.")
        with jax.named_scope("embed_vit"):
            return self.aligner(self.vit(patches, positions, images))

    def embed_codes(self, codes: jax.Array) -> jax.Array:
        """Codes [B, T] int32 of a drawn picture as tokens: [B, T, D]."""
        with jax.named_scope("embed_codes"):
            table = gathered(self.gen_embed[...], ("vocab", None), (None, None))
            return constrain(self.gen_aligner(table[codes]), "batch", "length", None)

    def code_logits(self, hidden: jax.Array) -> jax.Array:
        """Normed states [..., D] -> float32 logits of the next code [..., codes]."""
        with jax.named_scope("code_logits"):
            return self.gen_head(hidden)
