"""The small parts: projections, norms, rotary angles and the fixed position tables.

Einsum letters, here and everywhere: B rows, T query tokens, S key tokens, N query heads, K key
heads, G query heads per key head, H head size, D width, F mlp, V vocabulary, C latent channels,
P patch features, L layers.

Every parameter is an `nnx.Param` whose `axes` metadata names its dimensions (see `sharding`); a
stacked parameter has one leading dimension more than names, which is "layers".
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

LONGEST_DRAW = 1 << 22


def parameter(
    shape: Sequence[int], axes: Sequence[str | None], *, std: float = 0.0, fill: float = 0.0
) -> nnx.Param:
    """A float32 parameter with named dimensions, drawn by `functional.init` from N(fill, std)."""
    return nnx.Param(jnp.zeros(shape), axes=tuple(axes), std=std, fill=fill)


def draw(
    key: jax.Array,
    shapes: Sequence[tuple[int, ...]],
    means: Sequence[float],
    stds: Sequence[float],
) -> list[jax.Array]:
    """Float32 arrays of N(mean, std), std 0 being a constant.

    Small arrays share one long draw, since every draw costs a quarter of a second to compile.
    """
    values = [jnp.full(shape, mean, jnp.float32) for shape, mean in zip(shapes, means)]
    sizes = [math.prod(shape) for shape in shapes]
    groups: list[list[int]] = []
    room = 0
    for i in (i for i, std in enumerate(stds) if std):
        if sizes[i] > room:
            groups.append([])
            room = LONGEST_DRAW
        groups[-1].append(i)
        room -= sizes[i]
    for number, group in enumerate(groups):
        alone = len(group) == 1  # a large array keeps its shape, and so its sharding
        whole = shapes[group[0]] if alone else (sum(sizes[i] for i in group),)
        drawn = jax.random.normal(jax.random.fold_in(key, number), whole, jnp.float32)
        ends = np.cumsum([sizes[i] for i in group])[:-1]
        for i, part in zip(group, [drawn] if alone else jnp.split(drawn, ends)):
            values[i] = values[i] + stds[i] * part.reshape(shapes[i])
    return values


def stacked(make: Callable[[], nnx.Module], count: int) -> nnx.Module:
    """`count` copies of a module as one, every parameter with a leading layer dimension."""
    return jax.vmap(lambda _: make())(jnp.arange(count))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def project(x: jax.Array, kernel: jax.Array, inputs: int, dtypes: tuple[str, str]) -> jax.Array:
    """x [..., *inputs] times kernel [*inputs, *outputs] -> [..., *outputs].

    The kernel's gradient is summed in float32 and comes out in the kernel's layout (the automatic
    rule would transpose it). Float32 products ask for full precision, so that they mean the same
    on TPU and GPU as on CPU.

    Args:
      x: any float type.
      kernel: any float type.
      inputs: number of contracted dimensions.
      dtypes: of the multiplied numbers and of the result.
    """
    return _project_forward(x, kernel, inputs, dtypes)[0]


def _project_forward(x: jax.Array, kernel: jax.Array, inputs: int, dtypes: tuple[str, str]) -> Any:
    """The product; keeps x in the dtype it is multiplied in."""
    dtype, out = dtypes
    lead = x.ndim - inputs
    low = x.astype(dtype)
    dims = tuple(range(lead, x.ndim)), tuple(range(inputs))
    return product(low, kernel.astype(dtype), dims, out), (low, kernel, jnp.zeros(0, x.dtype))


def _project_backward(inputs: int, dtypes: tuple[str, str], saved: Any, ct: jax.Array) -> Any:
    """Gradients of x and of the kernel."""
    x, kernel, like = saved
    lead = x.ndim - inputs
    ct, every = ct.astype(x.dtype), tuple(range(lead))
    outer = tuple(range(lead, ct.ndim)), tuple(range(inputs, kernel.ndim))
    dx = product(ct, kernel.astype(x.dtype), outer, like.dtype)
    return dx, product(x, ct, (every, every), "float32").astype(kernel.dtype)


project.defvjp(_project_forward, _project_backward)


def product(a: jax.Array, b: jax.Array, contract: Any, out: Any) -> jax.Array:
    """dot_general over the contracted axes, accumulated in float32, result in dtype `out`."""
    dims = (contract, ((), ()))
    mode = precision(a.dtype)

    def direct(a: jax.Array, b: jax.Array, preferred: Any = out) -> jax.Array:
        return jax.lax.dot_general(a, b, dims, precision=mode, preferred_element_type=preferred)

    def widened(a: jax.Array, b: jax.Array) -> jax.Array:
        return direct(a, b, jnp.float32).astype(out)  # bf16 results take a slow path on CPU

    if jnp.dtype(out) == jnp.float32:
        return direct(a, b)
    return jax.lax.platform_dependent(a, b, cpu=widened, default=direct)


class Projection(nnx.Module):
    """An affine map over the trailing axes: kernel [*inputs, *outputs], bias [*outputs].

    The product runs in `dtype` and the result has it too, unless `out_dtype` is given. The kernel
    may be kept in few bits (`models.quantized`), and have an adapter beside it (`models.lora`).
    """

    def __init__(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        *,
        axes: Sequence[str],
        dtype: str,
        bias: bool = False,
        scale: float = 1.0,
    ):
        """Kernel ~ N(0, scale / sqrt(fan in)), bias zero; `axes` names inputs then outputs."""
        self.inputs = len(inputs)
        self.dtype = dtype
        std = scale / math.sqrt(math.prod(inputs))
        self.kernel = parameter((*inputs, *outputs), axes, std=std)
        self.bias = parameter(outputs, axes[self.inputs :]) if bias else None
        self.lora = nnx.data(None)

    def __call__(self, x: jax.Array, out_dtype: str | None = None) -> jax.Array:
        """[..., *inputs] -> [..., *outputs]."""
        out = out_dtype or self.dtype
        y = self._product(x, out)
        if self.lora is not None:
            y = y + self.lora(x, out)
        return y if self.bias is None else y + self.bias[...].astype(out)

    def _product(self, x: jax.Array, out: str) -> jax.Array:
        """x times the kernel; one of few bits is unpacked again for the gradient of x."""

        def multiply(x: jax.Array) -> jax.Array:
            return project(x, self.kernel[...], self.inputs, (self.dtype, out))

        packed = not isinstance(self.kernel, nnx.Variable)
        return jax.checkpoint(multiply, prevent_cse=False)(x) if packed else multiply(x)

    @property
    def weight(self) -> jax.Array:
        """The kernel [*inputs, *outputs] that the map has in all, with its adapter."""
        kernel = self.kernel[...]
        return kernel if self.lora is None else kernel + self.lora.delta.astype(kernel.dtype)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, in float32 (Zhang and Sennrich, 2019)."""

    def __init__(self, size: int, *, axis: str, eps: float):
        """Scale one; `axis` names the normalised dimension."""
        self.eps = eps
        self.scale = parameter((size,), (axis,), fill=1.0)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., size] of any float type -> float32 of the same shape."""
        x = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x * inverse * self.scale[...]


class LayerNorm(nnx.Module):
    """(x - mean) / std * scale + bias over the last axis, in float32."""

    def __init__(self, size: int, *, axis: str, eps: float):
        """Scale one, bias zero."""
        self.eps = eps
        self.scale = parameter((size,), (axis,), fill=1.0)
        self.bias = parameter((size,), (axis,))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., size] of any float type -> float32 of the same shape."""
        x = x.astype(jnp.float32)
        x = x - jnp.mean(x, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + self.eps)
        return x * inverse * self.scale[...] + self.bias[...]


def precision(dtype: jnp.dtype) -> jax.lax.Precision:
    """Matmul precision: float32 inputs are multiplied as float32 on every platform."""
    highest = jnp.dtype(dtype) == jnp.float32
    return jax.lax.Precision.HIGHEST if highest else jax.lax.Precision.DEFAULT


def rotary(positions: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of position * theta^(-2i / H), the rotary embedding (RoFormer).

    Args:
      positions: [B, T] int32.
      head_dim: head size H.
      theta: base of the angles.

    Returns:
      Two float32 arrays [B, T, 1, H / 2].
    """
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    frequencies = np.asarray(theta**-exponent, np.float32)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates x [B, T, heads, H] in float32; dimension i pairs with i + H / 2 (as in Qwen2)."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def sincos_row(side: int, width: int) -> np.ndarray:
    """One axis of the fixed table: [side, width / 2] float32, sines then cosines.

    Frequencies are 10000^(-i / (width / 4)), computed in float64 and stored as float32.
    """
    frequencies = 10000.0 ** (-np.arange(width // 4, dtype=np.float64) / (width // 4))
    angles = np.arange(side, dtype=np.float64)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def sincos_positions(positions: jax.Array, side: int, width: int) -> jax.Array:
    """Fixed 2-D sin-cos embedding of row * side + column, column half first (as in BAGEL).

    Args:
      positions: [...] int32 in [0, side * side).
      side: cells per side of the grid.
      width: size of the embedding, a multiple of 4.

    Returns:
      [..., width] float32; exactly the rows of the table that the released checkpoints store.
    """
    row = jnp.asarray(sincos_row(side, width))
    return jnp.concatenate([row[positions % side], row[positions // side]], axis=-1)


def timestep_features(t: jax.Array, size: int = 256) -> jax.Array:
    """Cosines then sines of t * 10000^(-i / (size / 2)): [...] in [0, 1] -> [..., size] float32.

    Flow time enters unscaled (no factor of 1000).
    """
    half = size // 2
    frequencies = np.exp(-math.log(10000.0) * np.arange(half, dtype=np.float64) / half)
    angles = t[..., None].astype(jnp.float32) * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
