"""The FLUX.1 autoencoder: images to latents an eighth of their size, and back.

Encoder and decoder are convolutional ResNets with one attention layer at the lowest resolution.
Parameters are a flat dict by official tensor name, convolutions in [height, width, in, out]
order. Everything is float32. Images of different size are encoded one size at a time: padding
them into a common canvas, as BAGEL's trainer does, would change the latents of the smaller ones.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.models import convolutional, released
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.models.config import VAEConfig
from unireason_jax.models.layers import draw

Params = dict[str, jax.Array]
SIDES = ("encoder", "decoder")
CONFIG = "vae_config.json"


def shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by official name, convolutions in our order."""
    return dict(_shapes(config))


def _shapes(config: VAEConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every parameter."""
    widths = [config.channels * m for m in config.multipliers]
    last = len(widths) - 1
    yield from convolutional.conv("encoder.conv_in", 3, config.image_channels, config.channels)
    inner = config.channels
    for level, width in enumerate(widths):
        for i in range(config.blocks):
            yield from convolutional.residual(f"encoder.down.{level}.block.{i}", inner, width)
            inner = width
        if level < last:
            yield from convolutional.conv(f"encoder.down.{level}.downsample.conv", 3, inner, inner)
    for side in SIDES:
        yield from convolutional.residual(f"{side}.mid.block_1", inner, inner)
        yield from convolutional.attention(f"{side}.mid.attn_1", inner)
        yield from convolutional.residual(f"{side}.mid.block_2", inner, inner)
    yield from convolutional.norm("encoder.norm_out", inner)
    yield from convolutional.conv("encoder.conv_out", 3, inner, 2 * config.latents)
    yield from convolutional.conv("decoder.conv_in", 3, config.latents, inner)
    for level in reversed(range(len(widths))):
        for i in range(config.blocks + 1):
            yield from convolutional.residual(f"decoder.up.{level}.block.{i}", inner, widths[level])
            inner = widths[level]
        if level:
            yield from convolutional.conv(f"decoder.up.{level}.upsample.conv", 3, inner, inner)
    yield from convolutional.norm("decoder.norm_out", inner)
    yield from convolutional.conv("decoder.conv_out", 3, inner, config.image_channels)


def init(config: VAEConfig, key: jax.Array) -> Params:
    """Random parameters: convolutions N(0, 1 / fan in), norms one, biases zero."""
    table = shapes(config)
    stds = [math.prod(shape[:3]) ** -0.5 if len(shape) == 4 else 0.0 for shape in table.values()]
    means = [float(len(shape) == 1 and n.endswith("weight")) for n, shape in table.items()]
    return dict(zip(table, draw(key, list(table.values()), means, stds)))


def moments(params: Params, config: VAEConfig, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log-variance of the posterior over *scaled* latents.

    Args:
      params: see `shapes`.
      config: the sizes.
      images: [B, H, W, 3] in [-1, 1]; H and W are multiples of the stride.

    Returns:
      Two arrays [B, H / stride, W / stride, C]. A latent is scale * (z - shift), z the encoder's.
    """
    p = convolutional.Side(params, "encoder.")
    x = p.conv("conv_in", images.astype(jnp.float32))
    for level in range(len(config.multipliers)):
        for i in range(config.blocks):
            x = p.residual(f"down.{level}.block.{i}", x)
        if level < len(config.multipliers) - 1:
            x = p.down(f"down.{level}.downsample", x)
    x = p.head(_middle(p, x))
    mean, logvar = jnp.split(x, 2, axis=-1)
    return config.scale * (mean - config.shift), logvar + 2 * np.log(config.scale)


def sample(mean: jax.Array, logvar: jax.Array, noise: jax.Array | None) -> jax.Array:
    """A latent from the posterior: mean + exp(logvar / 2) * noise; the mean without noise.

    BAGEL samples always, in training and inference, conditioning images included.
    """
    return mean if noise is None else mean + jnp.exp(0.5 * logvar) * noise


def encode(
    params: Params, config: VAEConfig, images: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Scaled latents [B, H / stride, W / stride, C] of images; the mean without a key."""
    mean, logvar = moments(params, config, images)
    noise = None if key is None else jax.random.normal(key, mean.shape, jnp.float32)
    return sample(mean, logvar, noise)


def decode(params: Params, config: VAEConfig, latents: jax.Array) -> jax.Array:
    """Scaled latents [B, h, w, C] -> images [B, h * stride, w * stride, 3], about [-1, 1]."""
    p = convolutional.Side(params, "decoder.")
    x = _middle(p, p.conv("conv_in", latents.astype(jnp.float32) / config.scale + config.shift))
    for level in reversed(range(len(config.multipliers))):
        for i in range(config.blocks + 1):
            x = p.residual(f"up.{level}.block.{i}", x)
        if level:
            x = p.up(f"up.{level}.upsample", x)
    return p.head(x)


def _middle(p: convolutional.Side, x: jax.Array) -> jax.Array:
    """The layers at the lowest resolution."""
    x = p.residual("mid.block_1", x)
    return p.residual("mid.block_2", p.attention("mid.attn_1", x))


class Autoencoder:
    """An autoencoder with its weights, image by image, as the data pipeline uses it.

    Attributes:
      stride: pixels per latent.
      channels: channels of a latent.
    """

    def __init__(self, config: VAEConfig, params: Params):
        """Compiles on first use, once per image size."""
        self.config = config
        self.params = params
        self.stride = config.stride
        self.channels = config.latents
        self._moments = jax.jit(moments, static_argnums=1)
        self._decode = jax.jit(decode, static_argnums=1)

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> mean and log-variance of scaled latents, float32 [h, w, C].

        Raises:
          ValueError: a side is not a multiple of the stride.
        """
        if image.shape[0] % self.stride or image.shape[1] % self.stride:
            raise ValueError(
                f"image of {image.shape[0]} x {image.shape[1]} pixels: both sides must be "
                f"multiples of {self.stride}; resize it first."
            )
        mean, logvar = self._moments(self.params, self.config, to_float(image[None]))
        return np.asarray(mean[0]), np.asarray(logvar[0])

    def __reduce__(self):
        return Autoencoder, (self.config, jax.device_get(self.params))

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Scaled latents [h, w, C] -> uint8 [H, W, 3]; truncated, not rounded (as BAGEL)."""
        return self.decode_batch(np.asarray(latents)[None])[0]

    def decode_batch(self, latents: np.ndarray | jax.Array) -> np.ndarray:
        """The same of latents [B, h, w, C], wherever they lie: uint8 [B, H, W, 3]."""
        latents = jnp.asarray(latents, jnp.float32)
        return to_uint8(np.asarray(self._decode(self.params, self.config, latents)))


def to_float(images: np.ndarray) -> np.ndarray:
    """uint8 -> float32 in [-1, 1]."""
    return np.asarray(images, np.float32) / 127.5 - 1.0


def to_uint8(pixels: np.ndarray) -> np.ndarray:
    """Pixels in about [-1, 1] -> uint8, clamped and truncated."""
    return (np.clip(np.asarray(pixels) * 0.5 + 0.5, 0.0, 1.0) * 255.0).astype(np.uint8)


def read_config(archive: Archive) -> VAEConfig:
    """The sizes that an official file implies, with the scale of a `vae_config.json` beside it.

    Raises:
      ValueError: the file is not an autoencoder of this architecture, or the JSON file contradicts
        it; the message names the tensor or the field that shows it.
    """
    levels = _count(archive, r"encoder\.down\.(\d+)\.block")
    blocks = _count(archive, r"encoder\.down\.0\.block\.(\d+)\.")
    needed = ["encoder.conv_in.weight", "decoder.conv_in.weight"]
    needed += [f"encoder.down.{i}.block.0.conv1.weight" for i in range(max(levels, 1))]
    for name in needed:
        if name not in archive or len(archive.shape(name)) != 4 or 0 in archive.shape(name):
            raise ValueError(
                f"{archive.path}: tensor {name!r} is missing or not a convolution; this is not "
                "FLUX's autoencoder."
            )
    channels, image_channels = archive.shape(needed[0])[:2]
    widths = [archive.shape(name)[0] for name in needed[2:]]
    config = VAEConfig(
        image_channels=image_channels,
        channels=channels,
        multipliers=tuple(width // channels for width in widths),
        blocks=blocks,
        latents=archive.shape(needed[1])[1],
    )
    check(archive, config)
    file = archive.path.parent / CONFIG
    return _scaled(config, file) if file.exists() else config


def _scaled(config: VAEConfig, file: epath.Path) -> VAEConfig:
    """The sizes with the scale and shift of a file. ValueError names a field that contradicts."""
    values = read_json(file)
    implied = {
        "in_channels": config.image_channels,
        "ch": config.channels,
        "ch_mult": list(config.multipliers),
        "num_res_blocks": config.blocks,
        "z_channels": config.latents,
        "downsample": config.stride,
    }
    for name, value in implied.items():
        if values.get(name, value) != value:
            raise ValueError(
                f"{file}: field {name!r} is {values[name]}, but the tensors say {value}."
            )
    scale = released.number(values, "scale_factor", file, config.scale)
    shift = released.number(values, "shift_factor", file, config.shift)
    return dataclasses.replace(config, scale=scale, shift=shift)


def check(archive: Archive, config: VAEConfig) -> None:
    """Raises ValueError naming the first missing, extra or misshaped tensor."""
    wanted = {name: convolutional.official(shape) for name, shape in shapes(config).items()}
    for name, shape in wanted.items():
        if name not in archive:
            raise ValueError(f"{archive.path}: tensor {name!r} {list(shape)} is missing.")
        if archive.shape(name) != shape:
            raise ValueError(
                f"{archive.path}: tensor {name!r} has shape {list(archive.shape(name))} "
                f"instead of {list(shape)}; this is another autoencoder."
            )
    if extra := sorted(set(archive) - set(wanted)):
        raise ValueError(f"{archive.path}: tensor {extra[0]!r} is not part of the autoencoder.")


def load(path: epath.PathLike) -> tuple[VAEConfig, Params]:
    """Sizes and float32 parameters of an official `ae.safetensors`."""
    archive = Archive(path)
    config = read_config(archive)
    params = {}
    for name in shapes(config):
        value = archive.read(name).astype(np.float32)
        params[name] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return config, params


def _count(archive: Archive, pattern: str) -> int:
    """How many numbers a pattern finds in the names."""
    found = (re.match(pattern, name) for name in archive)
    return len({match.group(1) for match in found if match})
