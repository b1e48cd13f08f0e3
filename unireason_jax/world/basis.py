"""A lossless linear latent codec for the world: the span of all clean 8 x 8 patches.

A cell is the background or background + mask * (colour - background); eight independent masks
times three colour channels span exactly 24 dimensions, so 24 numbers per patch lose nothing and
flow matching with velocity prediction works unchanged at small model widths. The codec stands in
for the variational autoencoder of a large model: stride 8, 24 channels, no learned weights.

Patches are drawn from the reference distribution "a cell holds an object with probability
`OCCUPANCY`, its look uniform over shape, colour and size". Latents are the coordinates on the
principal axes of that distribution, centred and divided by their standard deviation, so every
channel has mean 0 and variance 1 over the reference and noise N(0, 1) is on the data's scale.
"""

from collections.abc import Mapping

import numpy as np

from unireason_jax.world.renderer import tiles
from unireason_jax.world.scenes import BACKGROUND, CELL

CHANNELS = 24
OCCUPANCY = 0.125
LOG_VARIANCE = -30.0
_PATCH = CELL * CELL * 3


class PatchBasis:
    """Encodes pictures whose sides are multiples of 8 to latents [H / 8, W / 8, 24] and back.

    Attributes:
        stride: pixels per latent, 8.
        channels: latent channels, 24.
        basis: f32 [192, 24] orthonormal columns; features are ordered (y, x, rgb).
        mean: f32 [192] patch that latent 0 stands for, in 0..255.
        scale: f32 [24] standard deviation of each coordinate, in 0..255, descending.
    """

    stride = CELL
    channels = CHANNELS

    def __init__(self, basis: np.ndarray, mean: np.ndarray, scale: np.ndarray):
        shapes = (basis.shape, mean.shape, scale.shape)
        if shapes != ((_PATCH, CHANNELS), (_PATCH,), (CHANNELS,)):
            raise ValueError(f"patch basis needs [192, 24], [192] and [24] arrays, got {shapes}")
        self.basis = np.asarray(basis, np.float32)
        self.mean = np.asarray(mean, np.float32)
        self.scale = np.asarray(scale, np.float32)
        self._into = np.ascontiguousarray(self.basis / self.scale)
        self._out_of = np.ascontiguousarray((self.basis * self.scale).T)

    @classmethod
    def create(cls) -> "PatchBasis":
        """Return the basis of the world, the same on every machine up to rounding.

        Principal axes by descending variance; the largest component of each axis (the first of
        equals) is positive.
        """
        looks = np.stack(list(tiles().values())).reshape(-1, _PATCH).astype(np.float64)
        blank = np.tile(np.array(BACKGROUND, np.float64), CELL * CELL)
        weights = np.full(len(looks), OCCUPANCY / len(looks))
        mean = weights @ looks + (1 - OCCUPANCY) * blank
        centred = np.concatenate([looks, blank[None]]) - mean
        weights = np.append(weights, 1 - OCCUPANCY)
        variance, axes = np.linalg.eigh((centred * weights[:, None]).T @ centred)
        variance, axes = variance[::-1][:CHANNELS], axes[:, ::-1][:, :CHANNELS]
        peaks = np.abs(np.round(axes, 9)).argmax(0)
        axes = axes * np.sign(axes[peaks, np.arange(CHANNELS)])
        return cls(axes, mean, np.sqrt(variance))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the three arrays that define the codec, for a checkpoint."""
        return {"basis": self.basis, "mean": self.mean, "scale": self.scale}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "PatchBasis":
        """Return the codec that `to_arrays` described."""
        return cls(arrays["basis"], arrays["mean"], arrays["scale"])

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Encode a picture.

        Args:
            image: uint8 [H, W, 3]; H and W multiples of 8.

        Returns:
            mean and log variance of the posterior, f32 [H / 8, W / 8, 24] each. The log variance
            is `LOG_VARIANCE` everywhere: a sample differs from the mean by about 3e-7.
        """
        mean = self.encode_batch(image[None])[0]
        return mean, np.full_like(mean, LOG_VARIANCE)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Decode f32 [h, w, 24] latents to a uint8 [8 h, 8 w, 3] picture."""
        return self.decode_batch(latents[None])[0]

    def encode_batch(self, images: np.ndarray) -> np.ndarray:
        """Encode uint8 [B, H, W, 3] pictures to f32 [B, H / 8, W / 8, 24] latents.

        Raises:
            ValueError: when the shape is not [B, 8 h, 8 w, 3].
        """
        if images.ndim != 4 or images.shape[1] % CELL or images.shape[2] % CELL:
            raise ValueError(f"sides must be multiples of {CELL}, got pictures {images.shape}")
        batch, height, width, _ = images.shape
        rows, cols = height // CELL, width // CELL
        patches = images.reshape(batch, rows, CELL, cols, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
        flat = patches.reshape(-1, _PATCH).astype(np.float32)
        return ((flat - self.mean) @ self._into).reshape(batch, rows, cols, CHANNELS)

    def decode_batch(self, latents: np.ndarray) -> np.ndarray:
        """Decode f32 [B, h, w, 24] latents to uint8 [B, 8 h, 8 w, 3] pictures, clipped.

        Raises:
            ValueError: when the shape is not [B, h, w, 24].
        """
        latents = np.asarray(latents)
        if latents.ndim != 4 or latents.shape[-1] != CHANNELS:
            raise ValueError(f"expected latents [B, h, w, {CHANNELS}], got {latents.shape}")
        batch, rows, cols, _ = latents.shape
        flat = latents.reshape(-1, CHANNELS).astype(np.float32) @ self._out_of + self.mean
        pixels = np.clip(np.rint(flat), 0, 255).astype(np.uint8)
        patches = pixels.reshape(batch, rows, cols, CELL, CELL, 3).transpose(0, 1, 3, 2, 4, 5)
        return patches.reshape(batch, rows * CELL, cols * CELL, 3)
