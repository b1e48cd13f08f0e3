"""The weights of a checkpoint, as a whole or leaf by leaf: of a run, converted, or adapters.

Adapters are put beside the weights that they belong to, or into them where the model that is
expected has none.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.models import functional, lora, quantized
from unireason_jax.models.archive import Archive, place
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.sizes import LoraConfig
from unireason_jax.pods import sharding
from unireason_jax.training import adapter_base
from unireason_jax.training.checkpoint_leaves import (
    OTHER_MODEL,
    CheckpointMismatch,
    compare,
    describe,
    read_arrays,
)
from unireason_jax.training.checkpoint_manifest import find, read_manifest
from unireason_jax.training.optim import Params, flatten, unflatten

CONVERTED = ("params.safetensors", "params.safetensors.index.json")  # instead of Orbax trees


class Adapter(NamedTuple):
    """Adapters (arrays of NumPy) by the path of their parameters, and what their products count."""

    leaves: Mapping[str, np.ndarray]
    scale: float
    config: LoraConfig | None = None


def load_params(
    path: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    expected: Params | None = None,
    shardings: Params | None = None,
    dtype: Any = None,
    adapter: Adapter | None = None,
) -> Params:
    """The weights of a checkpoint, nothing else of it.

    Args:
      path: a workdir, or one step's directory.
      which: "ema" for the moving average (frozen leaves come from the weights), or "params".
        Converted weights are one set, and given for both.
      step: a certain step; by default the newest sound one.
      expected: tree of ShapeDtypeStruct of the model; checked leaf by leaf when given. Where it
        has no adapters but the checkpoint does, they are merged into the kernels (float32 unless
        `dtype` says otherwise).
      shardings: NamedSharding per leaf; by default everything on the first local device.
      dtype: dtype to cast floating leaves to, as they are read; or one by path.
      adapter: put beside the weights, or into them; instead of the checkpoint's own.

    Raises:
      CheckpointMissing: there is none.
      CheckpointMismatch: another model, or `which="ema"` where no average was kept.
    """
    options = {"which": which, "step": step, "expected": expected, "adapter": adapter}
    names, load = leaf_loader(path, **options, shardings=shardings, dtype=dtype)
    return unflatten(load(names))


def load_model(
    path: epath.PathLike,
    model: ModelConfig,
    *,
    which: str = "ema",
    step: int | None = None,
    mesh: Any = None,
    dtypes: Mapping[str, Any] | None = None,
    merged_dtype: str | None = None,
    adapter: Adapter | None = None,
) -> Params:
    """The parameters of a checkpoint as a model keeps them, kernels of few bits included.

    Args:
      path, which, step, adapter: as `load_params`; adapters that the checkpoint and the model
        have stay beside their kernels.
      model: what the parameters are for.
      mesh: lays them out; None puts them on the first local device.
      dtypes: of floating leaves, by path; by default as they are stored.
      merged_dtype: of kernels that adapters are merged into, where `dtypes` does not say.
    """
    plain = functional.unquantized(model)
    shapes, places = functional.abstract(plain), None
    if mesh is not None:
        places = sharding.shardings(mesh, shapes, functional.logical_axes(plain))
    options = {"which": which, "step": step, "expected": shapes, "adapter": adapter}
    options |= {"merged_dtype": merged_dtype or "float32"}
    names, load = leaf_loader(path, **options, shardings=places, dtype=dtypes)
    packed = functional.quantized_kernels(model)
    found = load([name for name in names if name not in packed])
    for name in packed:  # one at a time: what is given up for it is the largest there is
        found |= functional.encoded(model, load([name]))
    if mesh is None or not packed:
        return unflatten(found)
    shapes, axes = functional.abstract(model), functional.logical_axes(model)
    return jax.device_put(unflatten(found), sharding.shardings(mesh, shapes, axes))


def leaf_loader(
    path: epath.PathLike,
    *,
    which: str = "ema",
    step: int | None = None,
    expected: Params | None = None,
    shardings: Params | None = None,
    dtype: Any = None,
    merged_dtype: str = "float32",
    adapter: Adapter | None = None,
) -> tuple[list[str], Callable[[Collection[str]], dict[str, jax.Array]]]:
    """`load_params` in parts: the paths of all leaves, and a function that loads some of them."""
    if which not in ("ema", "params"):
        raise ValueError(f"which={which!r}: choose 'ema' or 'params'.")
    directory = find(path, step)
    stored = _Stored(directory, which)
    if base := read_manifest(directory).get("base"):
        adapter = adapter or Adapter(adapters_of(directory, which), base["scale"])
        stored = _Stored(adapter_base.locate(base, directory), base["which"])
    apart = adapter.leaves if adapter else {}
    there = stored.leaves | describe(apart)
    names = list(there if expected is None else flatten(expected))
    merging = bool(apart) and not any(map(lora.is_part, names))
    if expected is not None:
        stays = {k: v for k, v in there.items() if not (merging and lora.is_part(k))}
        compare(directory, "params", stays, describe(expected), OTHER_MODEL)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    places = flatten(shardings) if shardings is not None else {}

    def is_changed(name: str) -> bool:
        return merging and lora.parts_of(name)[0] in apart

    def target(name: str) -> jax.ShapeDtypeStruct:
        shape, kept = there[name]
        floating = jnp.issubdtype(jnp.dtype(kept), jnp.floating)
        asked = dtype.get(name) if isinstance(dtype, Mapping) else dtype
        asked = asked or (merged_dtype if is_changed(name) else None)
        wanted = jnp.dtype(asked if asked and floating else kept)
        return jax.ShapeDtypeStruct(tuple(shape), wanted, sharding=places.get(name, here))

    def load(names: Collection[str]) -> dict[str, jax.Array]:
        wanted = {name: target(name) for name in names}
        own = {name for name in names if name in apart}
        changed = set(filter(is_changed, names))
        found = stored.load({n: t for n, t in wanted.items() if n not in own | changed})
        for name in own:
            leaf = apart[name].astype(wanted[name].dtype)
            found[name] = jax.device_put(leaf, wanted[name].sharding)
        for name in changed:
            found[name] = _merged(stored, name, wanted[name], adapter)
        return found

    return names, load


def _merged(
    stored: "_Stored", name: str, target: jax.ShapeDtypeStruct, adapter: Adapter
) -> jax.Array:
    """A kernel of the stored weights with its adapter in it."""
    kernel = stored.load({name: target})[name]
    parts = [adapter.leaves[part] for part in lora.parts_of(name)]
    merge = jax.jit(
        lambda kernel, a, b: lora.merged(kernel, a, b, adapter.scale).astype(target.dtype),
        out_shardings=target.sharding,
    )
    return merge(kernel, *parts)


def _whole(leaves: Mapping[str, list]) -> tuple[dict[str, list], dict[str, Any]]:
    """Leaves with kernels of few bits as whole ones, and {"codes", "scale"} of each of these."""
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    found, packed = dict(leaves), {}
    for path in [path for path in leaves if path.endswith("/kernel/codes")]:
        kernel = path.removesuffix("/codes")
        parts = {part: found.pop(f"{kernel}/{part}") for part in ("codes", "scale")}
        shapes = [tuple(parts[part][0]) for part in ("codes", "scale")]
        kind = quantized.kind_of(parts["codes"][1])
        found[kernel] = [list(quantized.shape_of(*shapes, kind)), "float32"]
        packed[kernel] = {
            part: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype), sharding=here)
            for part, (shape, dtype) in parts.items()
        }
    return found, packed


def _unpacked(codes: jax.Array, scale: jax.Array, target: jax.ShapeDtypeStruct) -> jax.Array:
    """The kernel that codes and scales stand for."""
    kind = quantized.kind_of(codes.dtype)
    lead, inputs = quantized.axes_of(codes.shape, scale.shape, kind)
    kernel = quantized.decode(codes, scale, kind=kind, lead=lead, inputs=inputs)
    return jax.device_put(kernel.astype(target.dtype), target.sharding)


class _Stored:
    """The leaves in one step's directory, as `which` of its weights."""

    def __init__(self, directory: epath.Path, which: str):
        """Raises CheckpointMismatch where an average is wanted and none was kept."""
        kept = read_manifest(directory)["leaves"]
        self.leaves, self._packed = _whole(kept["params"])
        self._directory, self._converted = directory, _converted(directory)
        averaged = kept.get("ema") or {}
        if which == "ema" and not averaged and self._converted is None:
            raise CheckpointMismatch(
                f"{directory}: no moving average was kept; ask for 'params' instead of 'ema' "
                "(--config.init_which when training, --which when sampling)."
            )
        self._averaged = averaged if which == "ema" else {}

    def targets(self) -> dict[str, jax.ShapeDtypeStruct]:
        """All leaves as they are stored, for the first local device."""
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return {
            name: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(kind), sharding=here)
            for name, (shape, kind) in self.leaves.items()
        }

    def load(self, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Leaves by path as arrays of a dtype and sharding; kernels of few bits whole again."""
        if self._converted is not None:
            return place(self._converted, targets)
        packed = {name: self._packed[name] for name in targets if name in self._packed}
        parts = {
            f"{name}/{part}": leaf
            for name, kernel in packed.items()
            for part, leaf in kernel.items()
        }
        found = self._read({n: t for n, t in targets.items() if n not in packed} | parts)
        for name in packed:
            pair = [found.pop(f"{name}/{part}") for part in ("codes", "scale")]
            found[name] = _unpacked(*pair, targets[name])
        return found

    def _read(self, targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        """Leaves as they are stored."""
        own = {name: "ema" if name in self._averaged else "params" for name in targets}
        wanted = {
            part: unflatten({name: t for name, t in targets.items() if own[name] == part})
            for part in set(own.values())
        }
        loaded = read_arrays(self._directory, wanted, partly=True) if wanted else {}
        return {k: v for part in loaded.values() for k, v in flatten(part).items()}


def converted_weights(path: epath.PathLike, step: int | None = None) -> Archive | None:
    """The weights that `convert` wrote, by leaf path; None for a checkpoint of a training run, and
    for adapters."""
    directory = find(path, step)
    return None if "base" in read_manifest(directory) else _converted(directory)


def adapters_of(directory: epath.Path, which: str) -> dict[str, np.ndarray]:
    """The adapters in a step's directory by path, without what they stand beside."""
    stored = _Stored(directory, which)
    return {name: np.asarray(x) for name, x in stored.load(stored.targets()).items()}


def _converted(directory: epath.Path) -> Archive | None:
    """The archive in a step's directory, if that is how its weights are kept."""
    present = [directory / name for name in CONVERTED if (directory / name).exists()]
    return Archive(present[0]) if present else None
