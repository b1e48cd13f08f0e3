"""Adapters in the form of Hugging Face PEFT, for the modules of the released models.

    adapter_model.safetensors   base_model.model.<module>.lora_A.weight [rank, in]
                                base_model.model.<module>.lora_B.weight [out, rank]
    adapter_config.json         rank, alpha, and the modules as a regular expression

Modules are those of `official_names`, a layer and an expert each: ours are stacked, and heads are
split. Values are neither changed nor rounded, so an adapter that is written and read is the same.
"""

import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from unireason_jax.models import functional, lora
from unireason_jax.models.archive import Archive, ArchiveError, read_json, type_name, write_archive
from unireason_jax.models.config import ModelConfig
from unireason_jax.models.janus import names
from unireason_jax.models.official_names import Tensor, layout
from unireason_jax.models.sizes import LoraConfig
from unireason_jax.storage import atomic

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _ENDS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
_REFUSED = {  # what PEFT can do beside, and we cannot
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "modules_to_save": None,
    "bias": "none",
}


def is_peft(folder: epath.PathLike) -> bool:
    """Whether a folder holds an adapter of PEFT."""
    return (epath.Path(folder) / CONFIG).exists()


def write(
    folder: epath.PathLike,
    model: ModelConfig,
    leaves: Mapping[str, np.ndarray],
    *,
    base: str = "",
) -> list[str]:
    """Writes adapters (float arrays by path); returns the names of the files.

    Args:
      folder: where to; made if missing.
      model: the model, with its `lora`.
      leaves: as `functional.init_adapters` gives them.
      base: what PEFT loads the weights beside them from.

    Raises:
      ValueError: an adapter is of a part of a released matrix, for which PEFT has no name; nothing
        has been written.
    """
    pairs = _pairs(model)
    if parts := [path for path, (a, _) in pairs.items() if names.is_part(a.names[0])]:
        raise ValueError(
            f"the adapter of {parts[0]} is of a part of {_whole(pairs[parts[0]][0].names[0])}, "
            f"which PEFT adapts as a whole ({len(parts)} such in all); leave it out of "
            "config.lora.targets, or write the merged weights with --to janus."
        )
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, tuple[tuple[int, ...], str]] = {}
    where: dict[str, tuple[Tensor, str, int]] = {}
    for path, pair in pairs.items():
        for part, tensor in zip(lora.parts_of(path), pair):
            for layer, name in enumerate(tensor.names):
                tensors[name] = tensor.shape, type_name(leaves[part].dtype)
                where[name] = tensor, part, layer

    def produce(name: str) -> Iterator[np.ndarray]:
        tensor, part, layer = where[name]
        leaf = leaves[part]
        yield np.ascontiguousarray(tensor.official(leaf[layer] if tensor.stacked else leaf))

    atomic.write_text(folder / CONFIG, json.dumps(_config(model, base), indent=2) + "\n")
    return [CONFIG, *write_archive(folder, "adapter_model", tensors, produce, shard_bytes=1 << 62)]


def read(folder: epath.PathLike, model: ModelConfig) -> tuple[LoraConfig, dict[str, np.ndarray]]:
    """The adapters of a folder: what they are, and arrays by path; layers without one get zeros.

    Args:
      folder: with adapter_model.safetensors and adapter_config.json.
      model: the model that they are for.

    Raises:
      FileNotFoundError: a file is missing.
      ArchiveError: a file is damaged, is not of this model, or has what this model cannot have.
    """
    folder = epath.Path(folder)
    made = _read_config(folder / CONFIG)
    archive = Archive(folder / WEIGHTS)
    everywhere = functional.with_adapters(model, LoraConfig(made.rank, targets=("/kernel$",)))
    pairs = {k: p for k, p in _pairs(everywhere).items() if any(_has(archive, t) for t in p)}
    known = {name for pair in pairs.values() for tensor in pair for name in tensor.names}
    if extra := sorted(set(archive) - known):
        a_names = [name for a, _ in _pairs(everywhere).values() for name in a.names]
        split = {_whole(name) for name in a_names if names.is_part(name)}
        why = "is the adapter of another model?"
        if _whole(extra[0]) in split:
            why = "this matrix is several here, each with an adapter of its own; train without it."
        raise ArchiveError(
            f"{archive.path}: tensor {extra[0]!r} belongs to no module of this model "
            f"({len(extra)} in all); {why}"
        )
    leaves = {}
    for path, pair in pairs.items():
        for part, tensor in zip(lora.parts_of(path), pair):
            leaves[part] = _leaf(archive, tensor)
    targets = tuple(f"^{re.escape(path)}$" for path in pairs)
    return LoraConfig(made.rank, made.alpha, made.dropout, made.rslora, targets), leaves


def _has(archive: Archive, tensor: Tensor) -> bool:
    """Whether a file holds one layer of a leaf."""
    return any(name in archive for name in tensor.names)


def _leaf(archive: Archive, tensor: Tensor) -> np.ndarray:
    """A leaf of ours; a layer whose two matrices are missing changes nothing."""
    dtype = next(archive.read(name).dtype for name in tensor.names if name in archive)
    layers = []
    for name in tensor.names:
        other = _other(name)
        if (name in archive) != (other in archive):
            lacks = other if name in archive else name
            raise ArchiveError(f"{archive.path}: tensor {lacks!r} is missing beside its other.")
        if name not in archive:
            layers.append(np.zeros(tensor.inner, dtype))
            continue
        if archive.shape(name) != tensor.shape:
            raise ArchiveError(
                f"{archive.path}: {name!r} has shape {list(archive.shape(name))}, not "
                f"{list(tensor.shape)}; is the adapter of another model, or r of {CONFIG} wrong?"
            )
        layers.append(tensor.ours(archive.read(name)))
    return np.stack(layers) if tensor.stacked else layers[0]


def _whole(name: str) -> str:
    """The released module of a matrix of an adapter, or of a part of it."""
    for end in _ENDS:
        name = name.removesuffix(end)
    return names.whole(name.removeprefix(_PREFIX)).removesuffix(".weight")


def _other(name: str) -> str:
    """Name of the matrix that is multiplied with this one."""
    a, b = _ENDS
    return name.removesuffix(a) + b if name.endswith(a) else name.removesuffix(b) + a


@functools.lru_cache(maxsize=8)
def _pairs(model: ModelConfig) -> dict[str, tuple[Tensor, Tensor]]:
    """Layouts of A and B by the path of the kernel that they belong to."""
    rank, found = model.lora.rank, {}
    adapted = functional.adapted_kernels(model)
    for path, kernel in layout(functional.bare(model)).items():
        if path not in adapted:
            continue
        into, out = kernel.inner[: kernel.inputs], kernel.inner[kernel.inputs :]
        matrices = [
            tuple(_PREFIX + name.removesuffix(".weight") + end for name in kernel.names)
            for end in _ENDS
        ]
        rows, columns = kernel.shape
        found[path] = (
            Tensor(matrices[0], (rank, columns), kernel.stacked, (*into, rank), len(into)),
            Tensor(matrices[1], (rows, rank), kernel.stacked, (rank, *out), 1),
        )
    return found


def _config(model: ModelConfig, base: str) -> dict[str, Any]:
    """adapter_config.json."""
    made, modules = model.lora, set()
    for a, _ in _pairs(model).values():
        module = re.escape(a.names[0].removeprefix(_PREFIX).removesuffix(_ENDS[0]))
        modules.add(module.replace(r"layers\.0\.", r"layers\.\d+\.") if a.stacked else module)
    return {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base,
        "r": made.rank,
        "lora_alpha": made.alpha,
        "lora_dropout": made.dropout,
        "use_rslora": made.rslora,
        "target_modules": "|".join(sorted(modules)),
        "inference_mode": True,
        "init_lora_weights": True,
        **_REFUSED,
    }


def _read_config(path: epath.Path) -> LoraConfig:
    """What adapter_config.json says, without the modules. Raises ArchiveError naming a field."""
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        raise ArchiveError(f"{path}: peft_type is {values.get('peft_type')!r}, not 'LORA'.")
    for field, usual in _REFUSED.items():
        if values.get(field, usual) not in (usual, None):
            raise ArchiveError(f"{path}: {field} is {values[field]!r}; this model knows {usual!r}.")
    try:
        rank, alpha = int(values["r"]), float(values["lora_alpha"])
        dropout, rslora = float(values.get("lora_dropout", 0)), bool(values.get("use_rslora"))
        return LoraConfig(rank, alpha, dropout, rslora)
    except KeyError as error:
        raise ArchiveError(f"{path}: field {error} is missing.") from None
    except (TypeError, ValueError) as error:
        raise ArchiveError(f"{path}: {error}") from None
