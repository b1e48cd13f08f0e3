"""The parts of convolutional autoencoders, by the official names of their parameters.

Parameters are a flat dict, convolutions in [height, width, in, out] order. Everything is float32.
"""

from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from unireason_jax.models.attention import Keys, Queries, attend

Shapes = Iterator[tuple[str, tuple[int, ...]]]


def conv(name: str, size: int, inner: int, outer: int) -> Shapes:
    """Parameters of a size x size convolution."""
    yield f"{name}.weight", (size, size, inner, outer)
    yield f"{name}.bias", (outer,)


def norm(name: str, width: int) -> Shapes:
    """Parameters of a group norm."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def residual(name: str, inner: int, outer: int) -> Shapes:
    """Parameters of a residual block."""
    for i, width in enumerate((inner, outer), 1):
        yield from norm(f"{name}.norm{i}", width)
        yield from conv(f"{name}.conv{i}", 3, width, outer)
    if inner != outer:
        yield from conv(f"{name}.nin_shortcut", 1, inner, outer)


def attention(name: str, width: int) -> Shapes:
    """Parameters of an attention layer over all pixels."""
    yield from norm(f"{name}.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        yield from conv(f"{name}.{part}", 1, width, width)


def official(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our convolution order to the official [out, in, height, width]."""
    return (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape


class Side:
    """The layers of an encoder or a decoder."""

    def __init__(
        self,
        params: Mapping[str, jax.Array],
        prefix: str,
        *,
        groups: int = 32,
        eps: float = 1e-6,
    ):
        """`prefix` starts every name; `groups` and `eps` are those of the norms."""
        self.params = params
        self.prefix = prefix
        self.groups = groups
        self.eps = eps

    def _get(self, name: str, part: str) -> jax.Array:
        return self.params[f"{self.prefix}{name}.{part}"]

    def conv(self, name: str, x: jax.Array, stride: int = 1, padding: str = "SAME") -> jax.Array:
        """[B, H, W, C] -> a convolution of it."""
        y = jax.lax.conv_general_dilated(
            x,
            self._get(name, "weight"),
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )
        return y + self._get(name, "bias")

    def norm(self, name: str, x: jax.Array) -> jax.Array:
        """Group norm."""
        rows, height, width, channels = x.shape
        x = x.reshape(rows, height, width, self.groups, channels // self.groups)
        x = x - jnp.mean(x, axis=(1, 2, 4), keepdims=True)
        square = jnp.mean(jnp.square(x), axis=(1, 2, 4), keepdims=True)
        x = (x * jax.lax.rsqrt(square + self.eps)).reshape(rows, height, width, channels)
        return x * self._get(name, "weight") + self._get(name, "bias")

    def residual(self, name: str, x: jax.Array) -> jax.Array:
        """Two convolutions beside the input."""
        y = x
        for i in (1, 2):
            y = self.conv(f"{name}.conv{i}", jax.nn.silu(self.norm(f"{name}.norm{i}", y)))
        shortcut = f"{self.prefix}{name}.nin_shortcut.weight" in self.params
        return y + (self.conv(f"{name}.nin_shortcut", x) if shortcut else x)

    def attention(self, name: str, x: jax.Array) -> jax.Array:
        """One head over all pixels beside the input."""
        rows, height, width, channels = x.shape
        h = self.norm(f"{name}.norm", x)
        parts = (self.conv(f"{name}.{part}", h) for part in "qkv")
        q, k, v = (part.reshape(rows, -1, 1, channels) for part in parts)
        every = jnp.zeros((rows, height * width), jnp.int32)
        out = attend(q, Queries(every, every, every - 1), Keys(k, v, every), chunk=1024)
        return x + self.conv(f"{name}.proj_out", out.reshape(x.shape))

    def down(self, name: str, x: jax.Array) -> jax.Array:
        """Half the resolution: a stride of two, padded right and bottom only."""
        x = jnp.pad(x, [(0, 0), (0, 1), (0, 1), (0, 0)])
        return self.conv(f"{name}.conv", x, stride=2, padding="VALID")

    def up(self, name: str, x: jax.Array) -> jax.Array:
        """Twice the resolution: every pixel four times, then a convolution."""
        return self.conv(f"{name}.conv", jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))

    def head(self, x: jax.Array) -> jax.Array:
        """The last norm and convolution."""
        return self.conv("conv_out", jax.nn.silu(self.norm("norm_out", x)))
