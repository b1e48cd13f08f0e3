"""A model ready to sample: where its arrays live, and the few sizes that its programs have."""

import collections
import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.janus import script
from unireason_jax.inference import cache as caches
from unireason_jax.inference.cache import Cache, Markers
from unireason_jax.pods import batches, sharding

PIXELS = 1 << 21
"""Most pixels that a device decodes at a time."""


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A model ready to sample.

    Attributes:
      config: `BagelConfig`.
      params: its parameters.
      spec: tokenizer, codec and sizes, the same as in training.
      mesh: where rows are spread over `data` and `fsdp`, and weights by the table of `sharding`;
        None keeps everything on one device.
      kv_dtype: that keys and values are kept in, one of `cache.KV_DTYPES`; None is the model's.
    """

    config: Any
    params: Any
    spec: SampleSpec
    mesh: Mesh | None = None
    kv_dtype: str | None = None

    @property
    def markers(self) -> Markers:
        """The four control ids."""
        t = self.spec.tokenizer
        first = script.first(t) if self.spec.by_codes else None
        return Markers(bos=t.bos, eos=t.eos, soi=t.soi, eoi=t.eoi, first=first)

    def meshed(self) -> contextlib.AbstractContextManager:
        """While programs are called: attention reaches every device of the mesh, as in training."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def place(self, array: Any) -> jax.Array:
        """A [B, ...] host array on the device or, with its rows spread, on the mesh.

        It is bound to the device of the weights, as they are and all that comes of them: a program
        is compiled once more for arrays that are not.
        """
        if self.mesh is None:  # jnp.asarray compiles a program for every shape
            return jax.device_put(array, self._device)
        there = batches.batch_sharding(self.mesh)
        if not self.spans:
            return jax.device_put(array, there)
        # device_put would have all processes compare what they have, by a program of its own.
        return jax.make_array_from_callback(array.shape, there, array.__getitem__)

    @functools.cached_property
    def _device(self) -> jax.Device:
        """Where the weights are, without a mesh: who makes a model may have put them anywhere."""
        placed = (leaf for leaf in jax.tree.leaves(self.params) if isinstance(leaf, jax.Array))
        first = next(placed, None)
        return jax.local_devices()[0] if first is None else next(iter(first.devices()))

    @property
    def spans(self) -> bool:
        """Whether the mesh has devices of several processes, which all make the same calls."""
        return self.mesh is not None and self.mesh.is_multi_process

    def fetch(self, arrays: Any) -> Any:
        """What a program made, as NumPy's arrays and whole in every process."""

        def whole(array: Any) -> np.ndarray:
            if isinstance(array, jax.Array) and not array.is_fully_addressable:
                array = _gathered(sharding.replicated(self.mesh))(array)
            return np.array(array)

        return jax.tree.map(whole, arrays)

    def spread(self, cache: Cache) -> Cache:
        """A cache with its rows, and its heads on a `tensor` axis, spread over the mesh."""
        if self.mesh is None:
            return self.place(cache)
        return jax.device_put(cache, self._places(cache.k.shape))

    def empty(self, rows: int, slots: int) -> Cache:
        """An empty cache."""
        make = functools.partial(caches.empty, self.config, rows, slots, self.kv_dtype)
        if self.mesh is None:
            return self.place(make())
        shapes = jax.eval_shape(make)
        return jax.tree.map(
            lambda leaf, there: jnp.zeros(leaf.shape, leaf.dtype, device=there),
            shapes,
            self._places(shapes.k.shape),
        )

    def _places(self, shape: tuple[int, ...]) -> Cache:
        """Where the arrays of a cache lie on the mesh, with keys of this shape."""
        names = ("layers", "batch", "kv_heads", None, None)
        spec = sharding.fitted_spec(shape, names, self.mesh.shape)
        wide, flat = NamedSharding(self.mesh, spec), batches.batch_sharding(self.mesh)
        return Cache(k=wide, v=wide, lengths=flat, positions=flat)

    def take(self, cache: Cache, rows: Sequence[int]) -> Cache:
        """Some rows of a cache, in this order; a row may be taken twice."""
        index = np.asarray(rows, np.int32)
        if len(index) == cache.rows and (index == np.arange(cache.rows)).all():
            return cache
        return self.spread(caches.take_rows(cache, index))

    def pictures(self, drawn: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Latents or codes [h, w, ...] as uint8 [H, W, 3].

        A codec that decodes batches gets those of one size together, at most `PIXELS` a device,
        filled up to one of few sizes and spread over the mesh.
        """
        codec = self.spec.codec
        if not hasattr(codec, "decode_batch"):
            return [codec.decode(one) for one in drawn]
        parts = 1 if self.mesh is None else batches.row_parts(self.mesh)
        sizes = collections.defaultdict(list)
        for number, one in enumerate(drawn):
            sizes[one.shape].append(number)
        found = {}
        for shape, numbers in sizes.items():
            fit = max(PIXELS // (shape[0] * shape[1] * codec.stride**2), 1)
            most = parts << fit.bit_length() - 1
            for start in range(0, len(numbers), most):
                chosen = numbers[start : start + most]
                missing = self.rows_for(len(chosen), most) - len(chosen)
                rows = [drawn[number] for number in [*chosen, *chosen[:1] * missing]]
                stack = np.stack(rows)
                # Else it goes where the codec is; in a job every process decodes what it needs.
                if self.mesh is not None and not self.spans:
                    stack = self.place(stack)
                found |= zip(chosen, codec.decode_batch(stack))
        return [found[number] for number in range(len(drawn))]

    def rows_for(self, count: int, most: int) -> int:
        """Rows of a batch for `count` requests, at most `most` (rounded up) at a time.

        A power of two and a multiple of the mesh; few sizes mean few compiled programs.
        """
        parts = 1 if self.mesh is None else batches.row_parts(self.mesh)
        rows = min(bucket(count, 1), bucket(most, 1))
        return -(-rows // parts) * parts


@functools.cache
def _gathered(there: NamedSharding) -> Any:
    """The program that gives every device all of an array."""
    return jax.jit(lambda array: array, out_shardings=there)


def bucket(count: int, lowest: int) -> int:
    """A size of which there are few that holds `count` and `lowest`.

    Powers of two up to 256; above, eighths of the next power of two, so that little is wasted on
    pictures of any aspect (2304 tokens of a wide one take 2560, not 4096).
    """
    whole = 1 << (max(count, lowest, 1) - 1).bit_length()
    if whole <= 256:
        return whole
    step = whole // 8
    return -(-max(count, lowest) // step) * step
