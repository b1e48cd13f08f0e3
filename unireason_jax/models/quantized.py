"""Kernels in few bits, for weights that never move: int8 by output, or NF4 in blocks of inputs.

int8: one scale per output (and layer), the largest magnitude over its inputs / 127.
nf4: the 16 levels of QLoRA (Dettmers et al., 2023, appendix E), each block of at most 64 inputs
scaled by its largest magnitude. Two codes share a byte: the low half belongs to the first half of
the block. They are unpacked by comparisons instead of a table, which accelerators read slowly.

A quantized kernel has the leaves ".../kernel/codes" and ".../kernel/scale" in place of ".../kernel"
and reads as one: `kernel[...]` is what it stands for. (qwix keeps one NF4 code per uint4 array
element and looks levels up, and wants modules rather than parameters.)
"""

import functools
import itertools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unireason_jax.models.layers import Projection
from unireason_jax.models.sizes import QuantizedConfig

BLOCK = 64
LAYERS = "stack/blocks/"  # whose kernels are quantized
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


class Quantized(nnx.Module):
    """A kernel [*inputs, *outputs] as codes and scales."""

    def __init__(self, kind: str, of: Projection):
        """Shapes and names follow the kernel, which may have a leading dimension of layers."""
        self.kind, self.inputs, self.dtype = kind, of.inputs, of.dtype
        made = of.kernel.get_metadata()
        axes, fixed = made["axes"], {"std": 0.0, "fill": 0.0}
        lead = of.kernel.ndim - len(axes)
        shapes = jax.eval_shape(
            functools.partial(encode, kind=kind, lead=lead, inputs=of.inputs),
            jax.ShapeDtypeStruct(of.kernel.shape, jnp.float32),
        )
        empty = {name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
        self.codes = nnx.Param(empty["codes"], axes=axes, **fixed)
        by_output = (*(None,) * of.inputs, *axes[of.inputs :])
        self.scale = nnx.Param(empty["scale"], axes=by_output if kind == "int8" else axes, **fixed)

    def __getitem__(self, _: Any) -> jax.Array:
        """The kernel, in the dtype that it is multiplied in."""
        codes, scale = self.codes[...], self.scale[...]
        return decode(codes, scale, kind=self.kind, lead=0, inputs=self.inputs).astype(self.dtype)


def install(model: nnx.Module, config: QuantizedConfig) -> dict[str, tuple[int, int]]:
    """Quantizes the kernels of the layers that `among` names, in place.

    Returns:
      (leading dimensions, inputs) of each, by its path.
    """
    found = {}
    for parts, module in nnx.iter_modules(model):
        path = "/".join(str(part) for part in (*parts, "kernel") if not isinstance(part, int))
        is_kernel = isinstance(module, Projection) and path.startswith(LAYERS)
        if is_kernel and any(re.search(one, path) for one in config.among):
            lead = module.kernel.ndim - len(module.kernel.get_metadata()["axes"])
            found[path] = lead, module.inputs
            module.kernel = Quantized(config.kind, module)
    return found


@functools.partial(jax.jit, static_argnames=("kind", "lead", "inputs"))
def encode(kernel: jax.Array, *, kind: str, lead: int, inputs: int) -> dict[str, jax.Array]:
    """{"codes", "scale"} of a kernel [lead.., *inputs, *outputs].

    int8: codes like the kernel, scale float32 with inputs of size 1. nf4: codes uint8 with half of
    the last input, scale float32 with as many as it has blocks.

    Raises:
      ValueError: nf4 of a kernel whose last input has an odd size.
    """
    kernel = kernel.astype(jnp.float32)
    if kind == "int8":
        over = tuple(range(lead, lead + inputs))
        scale = _nonzero(jnp.max(jnp.abs(kernel), axis=over, keepdims=True) / 127)
        return {"codes": jnp.round(kernel / scale).astype(jnp.int8), "scale": scale}
    axis = lead + inputs - 1
    size = kernel.shape[axis]
    if size % 2:
        raise ValueError(f"nf4: {size} inputs of a kernel cannot be paired; use int8.")
    block = _block(size)
    parts = kernel.reshape(*kernel.shape[:axis], size // block, block, *kernel.shape[axis + 1 :])
    scale = _nonzero(jnp.max(jnp.abs(parts), axis=axis + 1, keepdims=True))
    middles = [(low + high) / 2 for low, high in itertools.pairwise(LEVELS)]
    codes = sum((parts / scale > middle).astype(jnp.uint8) for middle in middles)
    low, high = jnp.split(codes, 2, axis=axis + 1)
    packed = (low | (high << 4)).reshape(*kernel.shape[:axis], size // 2, *kernel.shape[axis + 1 :])
    return {"codes": packed, "scale": jnp.squeeze(scale, axis + 1)}


def decode(codes: jax.Array, scale: jax.Array, *, kind: str, lead: int, inputs: int) -> jax.Array:
    """Inverse of `encode`, in float32."""
    if kind == "int8":
        return codes.astype(jnp.float32) * scale
    axis = lead + inputs - 1
    blocks, size = scale.shape[axis], 2 * codes.shape[axis]
    before, after = codes.shape[:axis], codes.shape[axis + 1 :]
    packed = codes.reshape(*before, blocks, size // blocks // 2, *after)
    halves = jnp.concatenate([packed & 15, packed >> 4], axis=axis + 1)
    values = _level(halves) * jnp.expand_dims(scale, axis + 1)
    return values.reshape(*before, size, *after)


def _block(size: int) -> int:
    """The largest even block of at most `BLOCK` that divides a size."""
    return max(n for n in range(2, min(size, BLOCK) + 1, 2) if size % n == 0)


def _nonzero(scale: jax.Array) -> jax.Array:
    """Scales, 1 where everything is 0."""
    return jnp.where(scale > 0, scale, 1.0)


def _level(codes: jax.Array) -> jax.Array:
    """The level of every code, as a tree of choices by its bits."""
    values: list[Any] = [jnp.float32(level) for level in LEVELS]
    for bit in range(4):
        is_set = (codes >> bit) & 1 == 1
        values = [jnp.where(is_set, high, low) for low, high in zip(values[::2], values[1::2])]
    return values[0]


def axes_of(codes: tuple[int, ...], scale: tuple[int, ...], kind: str) -> tuple[int, int]:
    """(leading dimensions, inputs) of a layers' kernel, by the shapes of its codes and scales."""
    if kind == "nf4":
        return 1, next(i for i, (c, s) in enumerate(zip(codes, scale)) if c != s)
    return 1, next(i for i, size in enumerate((*scale[1:], 0)) if size != 1)


def kind_of(dtype: Any) -> str:
    """What codes of this dtype are."""
    return "int8" if jnp.dtype(dtype) == jnp.int8 else "nf4"


def shape_of(codes: tuple[int, ...], scale: tuple[int, ...], kind: str) -> tuple[int, ...]:
    """Shape of the kernel that codes and scales stand for."""
    if kind == "int8":
        return codes
    lead, inputs = axes_of(codes, scale, kind)
    axis = lead + inputs - 1
    return (*codes[:axis], 2 * codes[axis], *codes[axis + 1 :])
