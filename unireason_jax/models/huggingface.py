"""Released checkpoints of BAGEL and UniReason: their configs and weights, in and out.

A folder holds `ema.safetensors` (one file, or shards with an index), `llm_config.json`,
`vit_config.json` and `config.json`. The two fixed position tables are stored there and computed
here; a stored table that differs from the formula is refused.
"""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from unireason_jax.models import functional, released
from unireason_jax.models.archive import DTYPES, Archive, read_json, type_name, write_archive
from unireason_jax.models.config import BagelConfig, LatentConfig
from unireason_jax.models.layers import sincos_row
from unireason_jax.models.official_names import ROOT, VIT, Tensor, at_path, layout
from unireason_jax.storage import atomic

WEIGHTS = {"ema": "ema.safetensors", "model": "model.safetensors"}
LATENT_TABLE = "latent_pos_embed.pos_embed"
VIT_TABLE = "vit_pos_embed.pos_embed"
TABLE_TOLERANCE = 0.005
SHARD_BYTES = 5 << 30
_GLANCE = 1 << 16  # elements that are read of a tensor at a time to see whether it is sound

Read = Callable[[str, int | None], np.ndarray]


def find_weights(folder: epath.PathLike, which: str | None = None) -> epath.Path:
    """The weight file or index of a folder.

    Args:
      folder: a release.
      which: a name in WEIGHTS; None for the first that is there.

    Raises:
      FileNotFoundError: there is none; the message lists what was looked for.
    """
    wanted = [WEIGHTS[which]] if which else WEIGHTS.values()
    names = [n for name in wanted for n in (name, name + ".index.json")]
    for name in names:
        if (epath.Path(folder) / name).exists():
            return epath.Path(folder) / name
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(names)}.")


def read_config(folder: epath.PathLike, which: str | None = None, **policies: Any) -> BagelConfig:
    """The sizes of a released model, from its JSON files and what its tensors imply.

    The vision config on disk counts one layer more than is used. The latent table's side is taken
    from the stored table when there is one: the released config.json says 32 for a table of 64.

    Args:
      folder: the checkpoint folder.
      which: see `find_weights`.
      **policies: `dtype`, `remat`, `attention`, `chunk` of BagelConfig.

    Raises:
      FileNotFoundError, ValueError: a file or a field is missing or contradicts the tensors.
    """
    folder = epath.Path(folder)
    archive = Archive(find_weights(folder, which))
    main = read_json(folder / "config.json")
    at = folder / "config.json"
    released.expect(main, at, connector_act="gelu_pytorch_tanh")
    file = folder / "llm_config.json"
    llm = read_json(file)
    if ROOT["embed"] in archive:  # a resized vocabulary leaves the field behind
        llm["vocab_size"] = archive.shape(ROOT["embed"], 2)[0]
    normed = any(name.endswith("self_attn.q_norm.weight") for name in archive)
    weight = ROOT["latent_in"] + ".weight"
    patch = released.size(main, "latent_patch_size", at, 2)
    latent = LatentConfig(
        channels=archive.shape(weight, 2)[1] // patch**2,
        patch=patch,
        side=_side(archive, LATENT_TABLE) or released.size(main, "max_latent_size", at, 32),
    )
    vit = None
    if any(name.startswith(VIT) for name in archive):
        side = _side(archive, VIT_TABLE) or 70
        side = released.size(main, "vit_max_num_patch_per_side", at, side)
        file = folder / "vit_config.json"
        vit = released.vit_config(read_json(file), file, side=side)
    elif main.get("visual_und", (folder / "vit_config.json").exists()):
        raise ValueError(
            f"{folder / 'config.json'}: says that the model looks at images, but {archive.path} "
            f"has no tensor {VIT}*; get the whole release, or set 'visual_und' to false there."
        )
    language = released.llm_config(llm, folder / "llm_config.json", qk_norm=normed)
    return BagelConfig(llm=language, latent=latent, vit=vit, **policies)


def tables(config: BagelConfig) -> dict[str, int]:
    """Sides of the fixed position tables by official name."""
    vit = {VIT_TABLE: config.vit.side} if config.vit else {}
    return {LATENT_TABLE: config.latent.side} | vit


def check(archive: Archive, config: BagelConfig) -> None:
    """Compares names, shapes and types of all tensors, and the values of the fixed tables.

    Raises:
      ValueError: naming the first tensor that is missing, extra, misshaped, not floating point,
        holds nothing but NaN, or a table that does not hold the formula.
    """
    wanted = {name: t.shape for t in layout(config).values() for name in t.names}
    fixed = {name: (side**2, config.llm.width) for name, side in tables(config).items()}
    present = {name: shape for name, shape in fixed.items() if name in archive}
    for name, shape in (wanted | present).items():
        if name not in archive:
            raise ValueError(f"{archive.path}: tensor {name!r} {list(shape)} is missing.")
        if archive.shape(name) != shape:
            raise ValueError(
                f"{archive.path}: tensor {name!r} has shape {list(archive.shape(name))}, "
                f"but the configs ask for {list(shape)}."
            )
        if archive.dtype(name) not in ("F32", "BF16", "F16"):
            raise ValueError(
                f"{archive.path}: tensor {name!r} is {archive.dtype(name)}; "
                "weights must be F32, BF16 or F16."
            )
    if extra := sorted(set(archive) - set(wanted) - set(fixed)):
        raise ValueError(
            f"{archive.path}: tensor {extra[0]!r} is not part of the model that the configs "
            f"describe ({len(extra)} such)."
        )
    for name in present:
        for row, formula in enumerate(_table(tables(config)[name], config.llm.width)):
            stored = archive.read(name, (slice(row * len(formula), (row + 1) * len(formula)),))
            if np.abs(stored.astype(np.float32) - formula).max() > TABLE_TOLERANCE:
                raise ValueError(f"{archive.path}: {name!r} is not the fixed sin-cos table.")


def check_values(archive: Archive) -> None:
    """Raises ValueError naming the tensors that hold nothing but NaN.

    Of the others little is read.
    """
    empty = [name for name in archive if _is_nan(archive, name)]
    if empty:
        more = f" ({len(empty)} such)" if len(empty) > 1 else ""
        raise ValueError(
            f"{archive.path}: tensor {empty[0]!r} holds nothing but NaN{more}; this file is "
            "damaged, or of a training that diverged. Get it again, or another with --weights."
        )


def _is_nan(archive: Archive, name: str) -> bool:
    """Whether all of a tensor is NaN: its first rows, then, if they are, the others."""
    shape = archive.shape(name)
    if not shape or 0 in shape:
        return bool(shape == () and np.isnan(archive.read(name)).all())
    rows = max(1, _GLANCE // math.prod(shape[1:]))
    return all(
        np.isnan(archive.read(name, (slice(start, start + rows),)).astype(np.float32)).all()
        for start in range(0, shape[0], rows)
    )


def _table(side: int, width: int) -> Iterator[np.ndarray]:
    """The fixed table, one row of cells [side, width] at a time."""
    line = sincos_row(side, width)
    for row in range(side):
        yield np.concatenate([line, np.broadcast_to(line[row], line.shape)], axis=1)


def load(
    folder: epath.PathLike,
    config: BagelConfig,
    *,
    shardings: Any = None,
    dtype: str = "float32",
) -> functional.Params:
    """Parameters from a released checkpoint, read slice by slice into their sharding.

    Every process reads only what its devices hold, one shard at a time.

    Args:
      folder: the checkpoint folder.
      config: from `read_config`.
      shardings: a tree of Sharding like the parameters; None puts all on the first device.
      dtype: element type of the result.

    Raises:
      FileNotFoundError, ValueError: see `check`.
    """
    archive = Archive(find_weights(folder))
    check(archive, config)
    table = layout(config)
    shapes = functional.abstract(config)
    if shardings is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: here, shapes)

    def place(path: Any, leaf: Any, sharding: Any) -> jax.Array:
        tensor = table[jax.tree_util.keystr(path, simple=True, separator="/")]
        read = leaf_reader(archive, tensor, DTYPES[type_name(dtype)])
        return jax.make_array_from_callback(leaf.shape, sharding, read)

    return jax.tree_util.tree_map_with_path(place, shapes, shardings)


def leaf_reader(archive: Archive, tensor: Tensor, dtype: np.dtype) -> Callable[..., np.ndarray]:
    """A function from an index (a tuple of slices) into our leaf to that part of it."""

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not tensor.stacked:
            return _part(archive, tensor, tensor.names[0], index).astype(dtype)
        chosen = tensor.names[index[0]]
        parts = (_part(archive, tensor, name, index[1:]) for name in chosen)
        first = next(parts)
        out = np.empty((len(chosen), *first.shape), dtype)
        out[0] = first
        for i, part in enumerate(parts, 1):
            out[i] = part
        return out

    return read


def _part(archive: Archive, tensor: Tensor, name: str, index: tuple[slice, ...]) -> np.ndarray:
    """The part of our (unstacked) leaf that an index selects, read from one official tensor."""
    window, rest = tensor.window(index)
    return tensor.ours(archive.read(name, window), rest)


def save(
    folder: epath.PathLike,
    config: BagelConfig,
    read: Read,
    *,
    dtype: str = "bfloat16",
    shard_bytes: int = SHARD_BYTES,
) -> list[str]:
    """Writes weights and JSON configs as released, so that the official code loads them.

    Args:
      folder: where to; made if missing.
      config: the sizes.
      read: (path, layer) -> that leaf, or that layer of a stacked leaf, as an array; layer is
        None for a leaf that is not stacked. One leaf at a time is asked for.
      dtype: "bfloat16" as released, or "float32".
      shard_bytes: size of a file; a model that fits gets a single one.

    Returns:
      Names of the files written.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind, table = type_name(dtype), layout(config)
    where = {
        name: (path, i if tensor.stacked else None)
        for path, tensor in table.items()
        for i, name in enumerate(tensor.names)
    }
    shapes = {name: t.shape for t in table.values() for name in t.names}
    shapes |= {name: (side**2, config.llm.width) for name, side in tables(config).items()}

    def produce(name: str) -> Iterator[np.ndarray]:
        if name in where:
            path, layer = where[name]
            yield table[path].official(read(path, layer)).astype(DTYPES[kind], copy=False)
            return
        for rows in _table(tables(config)[name], config.llm.width):
            yield rows.astype(DTYPES[kind])

    announced = {name: (shape, kind) for name, shape in shapes.items()}
    files = write_archive(folder, "ema", announced, produce, shard_bytes=shard_bytes)
    for name, value in released.json_configs(config).items():
        atomic.write_text(folder / name, json.dumps(value, indent=1) + "\n")
        files.append(name)
    return files


def reader_of(params: functional.Params) -> Read:
    """`save`'s view of parameters in memory, gathered from all devices a layer at a time."""

    def read(path: str, layer: int | None) -> np.ndarray:
        leaf = at_path(params, path)
        leaf = leaf if layer is None else leaf[layer]
        if jax.process_count() > 1:
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return read


def _side(archive: Archive, name: str) -> int | None:
    """Side of a square table, if it is stored."""
    return math.isqrt(archive.shape(name, 2)[0]) if name in archive else None
