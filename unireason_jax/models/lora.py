"""Low-rank adapters: y = x W + scale * (x A) B, where W stays and A and B learn (Hu et al., 2021).

An adapter's matrices are leaves of the model's parameters beside the kernel they belong to:
".../query/kernel" has ".../query/lora/a" [*inputs, rank] and ".../query/lora/b" [rank, *outputs],
stacked over layers like it. Whatever walks the tree (shardings, checkpoints, the optimizer) meets
them as any other leaf.

This is not qwix's LoRA (0.1.8), which finds a weight by the module that multiplies it: under a
scan over stacked layers, and inside a product with a backward rule of its own, there is no such
module, and applying it to this model fails.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unireason_jax.models.layers import Projection, project
from unireason_jax.models.sizes import LoraConfig

PARTS = ("lora/a", "lora/b")


class Lora(nnx.Module):
    """The adapter of one projection.

    Attributes:
      a: [*inputs, rank]; drawn from N(0, 1 / fan in).
      b: [rank, *outputs]; zero at first, so that an adapter begins with changing nothing.
      key: of the dropout; None for none.
    """

    def __init__(self, config: LoraConfig, beside: Projection):
        """Shapes and names follow the kernel, which may have a leading dimension of layers."""
        kernel, self.inputs, self.dtype = beside.kernel, beside.inputs, beside.dtype
        axes = kernel.get_metadata()["axes"]
        lead = kernel.ndim - len(axes)
        layers, into, out = _cut(kernel.shape, lead, self.inputs)
        fan_in = 1
        for size in into:
            fan_in *= size
        self.scale, self.rate = config.scale, config.dropout
        self.a = nnx.Param(
            jnp.zeros((*layers, *into, config.rank)),
            axes=(*axes[: self.inputs], None),
            std=fan_in**-0.5,
            fill=0.0,
        )
        self.b = nnx.Param(
            jnp.zeros((*layers, config.rank, *out)),
            axes=(None, *axes[self.inputs :]),
            std=0.0,
            fill=0.0,
        )
        self.key = nnx.data(None)

    def __call__(self, x: jax.Array, out: str) -> jax.Array:
        """[..., *inputs] -> [..., *outputs] in dtype `out`."""
        if self.key is not None:
            kept = jax.random.bernoulli(self.key, 1 - self.rate, x.shape)
            x = jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)
        low = project(x, self.a[...], self.inputs, (self.dtype, self.dtype))
        return project(low, self.b[...], 1, (self.dtype, out)) * self.scale

    @property
    def delta(self) -> jax.Array:
        """scale * A B [*inputs, *outputs]."""
        a, b = self.a[...], self.b[...]
        return self.scale * _multiplied(a, b, 0)


def _cut(shape: tuple[int, ...], lead: int, inputs: int) -> tuple[tuple[int, ...], ...]:
    """(layers, inputs, outputs) of a kernel's shape."""
    return shape[:lead], shape[lead : lead + inputs], shape[lead + inputs :]


def install(model: nnx.Module, config: LoraConfig) -> None:
    """Gives every kernel that `targets` name an adapter, in place.

    Raises:
      ValueError: a target that matches no kernel.
    """
    found = list(_kernels(model))
    paths = sorted({path for path, _ in found})
    for target in config.targets:
        if not any(re.search(target, path) for path in paths):
            raise ValueError(
                f"lora.targets: {target!r} matches no kernel; paths look like "
                f"{', '.join(paths[:3])}."
            )
    for path, projection in found:
        if any(re.search(target, path) for target in config.targets):
            projection.lora = Lora(config, projection)


def _kernels(model: nnx.Module) -> Iterator[tuple[str, Projection]]:
    """Projections by the path of their kernel; layers that lie apart have that of the stack."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, Projection):
            named = [str(part) for part in path if not isinstance(part, int)]
            yield "/".join((*named, "kernel")), module


def give_keys(model: nnx.Module, key: jax.Array) -> None:
    """Switches the dropout of every adapter on, in place; each layer has draws of its own."""
    modules = [module for _, module in nnx.iter_modules(model) if isinstance(module, Lora)]
    for number, module in enumerate(modules):
        own, lead = jax.random.fold_in(key, number), module.a.ndim - module.inputs - 1
        module.key = jax.random.split(own, module.a.shape[:lead]) if lead else own


def is_part(path: str) -> bool:
    """Whether a parameter of this path is an adapter's."""
    return path.endswith(PARTS)


def kernel_of(path: str) -> str:
    """Path of the kernel that an adapter's parameter belongs to."""
    return path[: -len(PARTS[0])] + "kernel"


def parts_of(kernel: str) -> tuple[str, str]:
    """Paths of the two parameters of a kernel's adapter."""
    module = kernel.removesuffix("kernel")
    return module + PARTS[0], module + PARTS[1]


def merged(kernel: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """The kernel [L?, *inputs, *outputs] with its adapter, in float32."""
    lead = a.ndim + b.ndim - kernel.ndim - 2
    return kernel.astype(jnp.float32) + scale * _multiplied(a, b, lead)


def _multiplied(a: jax.Array, b: jax.Array, lead: int) -> jax.Array:
    """A [L?, *inputs, rank] times B [L?, rank, *outputs], in float32."""
    batch = tuple(range(lead))
    dims = (((a.ndim - 1,), (lead,)), (batch, batch))
    highest = jax.lax.Precision.HIGHEST
    low = a.astype(jnp.float32), b.astype(jnp.float32)
    return jax.lax.dot_general(*low, dims, precision=highest)


def own(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The adapters among parameters by path."""
    return {path: leaf for path, leaf in flat.items() if is_part(path)}
