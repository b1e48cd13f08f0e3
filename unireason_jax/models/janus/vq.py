"""VQ-16: pictures to a sixteenth of their size as codes of a codebook, and back (LlamaGen).

A convolutional ResNet like FLUX's, whose latents are replaced by the nearest row of a codebook,
nearest in angle: latents and rows are brought to unit length. Always float32, since a rounded
latent takes another row. Parameters are a flat dict by official name without "gen_vision_model.".
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.models import convolutional
from unireason_jax.models.convolutional import Side
from unireason_jax.models.janus.config import VQConfig
from unireason_jax.models.layers import draw
from unireason_jax.models.vae import to_float

Params = dict[str, jax.Array]
CODEBOOK = "quantize.embedding.weight"
UNIT_EPS = 1e-12
COMMITMENT = 0.25


class Quantized(NamedTuple):
    """Latents and the rows that replace them.

    Attributes:
      latents: [B, h, w, code_width] before they are brought to unit length.
      unit: the same at unit length.
      codes: [B, h, w] int32 rows of the codebook.
      rows: [B, h, w, code_width] these rows at unit length.
    """

    latents: jax.Array
    unit: jax.Array
    codes: jax.Array
    rows: jax.Array


def shapes(config: VQConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by official name, convolutions in our order."""
    return dict(_shapes(config))


def _shapes(config: VQConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter."""
    c, widths = config, [config.channels * m for m in config.multipliers]
    last = len(widths) - 1
    yield from convolutional.conv("encoder.conv_in", 3, c.image_channels, c.channels)
    inner = c.channels
    for level, width in enumerate(widths):
        name = f"encoder.conv_blocks.{level}"
        yield from _level(name, inner, width, c.blocks, attend=level == last)
        inner = width
        if level < last:
            yield from convolutional.conv(f"{name}.downsample.conv", 3, inner, inner)
    yield from _middle_shapes("encoder", inner)
    yield from convolutional.conv("encoder.conv_out", 3, inner, c.latents)
    yield from convolutional.conv("quant_conv", 1, c.latents, c.code_width)
    yield CODEBOOK, (c.codes, c.code_width)
    yield from convolutional.conv("post_quant_conv", 1, c.code_width, c.latents)
    yield from convolutional.conv("decoder.conv_in", 3, c.latents, inner)
    for place, width in enumerate(reversed(widths)):
        name = f"decoder.conv_blocks.{place}"
        yield from _level(name, inner, width, c.blocks + 1, attend=place == 0)
        inner = width
        if place < last:
            yield from convolutional.conv(f"{name}.upsample.conv", 3, inner, inner)
    yield from _middle_shapes("decoder", widths[-1], out=inner)
    yield from convolutional.conv("decoder.conv_out", 3, inner, c.image_channels)


def _level(
    name: str, inner: int, width: int, blocks: int, *, attend: bool
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Residual blocks of one resolution, each with attention at the lowest."""
    for i in range(blocks):
        yield from convolutional.residual(f"{name}.res.{i}", width if i else inner, width)
        if attend:
            yield from convolutional.attention(f"{name}.attn.{i}", width)


def _middle_shapes(
    side: str, width: int, out: int | None = None
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The layers between encoder levels and decoder levels, and the last norm."""
    yield from convolutional.residual(f"{side}.mid.0", width, width)
    yield from convolutional.attention(f"{side}.mid.1", width)
    yield from convolutional.residual(f"{side}.mid.2", width, width)
    yield from convolutional.norm(f"{side}.norm_out", out or width)


def init(config: VQConfig, key: jax.Array) -> Params:
    """Random parameters: convolutions N(0, 1 / fan in), rows N(0, 1), norms one, biases zero."""
    table = shapes(config)
    stds = [math.prod(shape[:3]) ** -0.5 if len(shape) == 4 else 0.0 for shape in table.values()]
    stds[list(table).index(CODEBOOK)] = 1.0
    means = [float("norm" in name and name.endswith("weight")) for name in table]
    return dict(zip(table, draw(key, list(table.values()), means, stds)))


def side_of(params: Params, config: VQConfig, prefix: str) -> Side:
    """The layers whose names start with a prefix."""
    return Side(params, prefix, groups=config.groups, eps=config.norm_eps)


def encode(
    params: Params, config: VQConfig, images: jax.Array, taps: dict[str, jax.Array] | None = None
) -> Quantized:
    """Codes of pictures.

    Args:
      params: see `shapes`.
      config: the sizes.
      images: [B, H, W, 3] in [-1, 1]; H and W are multiples of the stride.
      taps: filled with inner activations [B, h, w, C] by name, for comparisons.
    """
    p, taps = side_of(params, config, "encoder."), {} if taps is None else taps
    x = p.conv("conv_in", images.astype(jnp.float32))
    for level in range(len(config.multipliers)):
        x = taps[f"enc_block{level}"] = _blocks(p, f"conv_blocks.{level}", x, config.blocks)
        if level < len(config.multipliers) - 1:
            x = taps[f"enc_down{level}"] = p.down(f"conv_blocks.{level}.downsample", x)
    x = taps["enc_z_channels"] = p.head(_middle(p, x, "enc", taps))
    return quantize(params, side_of(params, config, "").conv("quant_conv", x))


def quantize(params: Params, latents: jax.Array) -> Quantized:
    """The nearest row of the codebook for latents [B, h, w, code_width], the first on ties."""
    unit, rows = _unit(latents), _unit(params[CODEBOOK])
    mode = {"precision": jax.lax.Precision.HIGHEST}
    near = jnp.sum(jnp.square(unit), -1, keepdims=True) + jnp.sum(jnp.square(rows), -1)
    distance = near - 2 * jnp.einsum("BhwC,NC->BhwN", unit, rows, **mode)
    codes = jnp.argmin(distance, axis=-1).astype(jnp.int32)
    return Quantized(latents, unit, codes, rows[codes])


def losses(quantized: Quantized) -> tuple[jax.Array, jax.Array]:
    """What a tokenizer is trained with beside the picture: codebook and commitment loss, scalars.

    Each moves one of the two: gradients of the first reach the codebook, of the second the encoder.
    """
    stop = jax.lax.stop_gradient
    codebook = jnp.mean(jnp.square(quantized.rows - stop(quantized.unit)))
    commitment = jnp.mean(jnp.square(stop(quantized.rows) - quantized.unit))
    return codebook, COMMITMENT * commitment


def rows_of(params: Params, codes: jax.Array) -> jax.Array:
    """Unit rows [..., code_width] of codes [...]."""
    return _unit(params[CODEBOOK])[codes]


def decode(
    params: Params, config: VQConfig, rows: jax.Array, taps: dict[str, jax.Array] | None = None
) -> jax.Array:
    """Rows of the codebook -> pictures.

    Args:
      params: see `shapes`.
      config: the sizes.
      rows: [B, h, w, code_width] at unit length, see `rows_of`.
      taps: filled with inner activations [B, h, w, C] by name, for comparisons.

    Returns:
      [B, h * stride, w * stride, 3], about [-1, 1].
    """
    p, taps = side_of(params, config, "decoder."), {} if taps is None else taps
    x = taps["post_quant_conv"] = side_of(params, config, "").conv("post_quant_conv", rows)
    x = _middle(p, p.conv("conv_in", x), "dec", taps)
    for place in range(len(config.multipliers)):
        x = taps[f"dec_block{place}"] = _blocks(p, f"conv_blocks.{place}", x, config.blocks + 1)
        if place < len(config.multipliers) - 1:
            x = taps[f"dec_up{place}"] = p.up(f"conv_blocks.{place}.upsample", x)
    return p.head(x)


def _blocks(p: Side, name: str, x: jax.Array, count: int) -> jax.Array:
    """Residual blocks of one resolution, and their attention where there is one."""
    for i in range(count):
        x = p.residual(f"{name}.res.{i}", x)
        if f"{p.prefix}{name}.attn.{i}.norm.weight" in p.params:
            x = p.attention(f"{name}.attn.{i}", x)
    return x


def _middle(p: Side, x: jax.Array, side: str, taps: dict[str, jax.Array]) -> jax.Array:
    """The layers at the lowest resolution."""
    x = taps[f"{side}_mid_attn"] = p.attention("mid.1", p.residual("mid.0", x))
    return p.residual("mid.2", x)


def _unit(x: jax.Array) -> jax.Array:
    """x / |x| over the last axis."""
    length = jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
    return x / jnp.maximum(length, UNIT_EPS)


def to_pixels(x: np.ndarray) -> np.ndarray:
    """Decoded values -> uint8, clamped and truncated; in the official order of operations."""
    return np.clip((np.asarray(x, np.float32) + 1) / 2 * 255, 0, 255).astype(np.uint8)


class VQTokenizer:
    """A VQ model with its weights, picture by picture, as the data pipeline uses it.

    Attributes:
      stride: pixels per code and side.
      codes: rows of the codebook.
    """

    def __init__(self, config: VQConfig, params: Params):
        """Compiles on first use, once per picture size."""
        self.config = config
        self.params = params
        self.stride = config.stride
        self.codes = config.codes
        self._encode = jax.jit(lambda p, x: encode(p, config, x).codes)
        self._decode = jax.jit(lambda p, codes: decode(p, config, rows_of(p, codes)))

    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> codes int32 [h, w].

        Raises:
          ValueError: a side is not a multiple of the stride.
        """
        height, width = image.shape[:2]
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"image of {height} x {width} pixels: both sides must be multiples of "
                f"{self.stride}; resize it first."
            )
        return np.asarray(self._encode(self.params, to_float(image[None]))[0])

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Codes int32 [h, w] -> uint8 [H, W, 3]; truncated, not rounded (as Janus)."""
        return self.decode_batch(np.asarray(codes)[None])[0]

    def decode_batch(self, codes: np.ndarray | jax.Array) -> np.ndarray:
        """The same of codes [B, h, w], wherever they lie: uint8 [B, H, W, 3]."""
        return to_pixels(np.asarray(self._decode(self.params, codes)))

    def __reduce__(self):
        return VQTokenizer, (self.config, jax.device_get(self.params))
