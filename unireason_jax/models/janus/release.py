"""Released Janus checkpoints: their configs and weights, in and out.

A folder holds the weights (safetensors, or PyTorch's `pytorch_model.bin`), `config.json`, and the
files of the processor and the tokenizer. The tower and the VQ model are looked up by name there;
sizes that the official code has no name for stand in `tiny_overrides`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from unireason_jax.models import convolutional, functional
from unireason_jax.models.archive import DTYPES, Archive, type_name
from unireason_jax.models.huggingface import leaf_reader
from unireason_jax.models.janus import names, vq
from unireason_jax.models.janus.config import JanusConfig, VQConfig
from unireason_jax.models.official_names import layout
from unireason_jax.models.sizes import ViTConfig
from unireason_jax.models.torch_archive import TorchArchive

WEIGHTS = ("model.safetensors", "weights.safetensors", "pytorch_model.bin")


def find_weights(folder: epath.PathLike) -> epath.Path:
    """The weight file or index of a folder. FileNotFoundError lists what was looked for."""
    files = [n for name in WEIGHTS for n in (name, name + ".index.json")]
    for name in files:
        if (epath.Path(folder) / name).exists():
            return epath.Path(folder) / name
    raise FileNotFoundError(f"{folder}: no weights; looked for {', '.join(files)}.")


def open_weights(folder: epath.PathLike) -> Archive | TorchArchive:
    """The weights of a folder, in either format. Errors are those of the two classes."""
    path = find_weights(folder)
    return TorchArchive(path) if ".bin" in path.suffixes else Archive(path)


class Parts:
    """A release's tensors by the names of `names.pattern`; reads like an `Archive`.

    The patch embedding is a matrix [width, patch * patch * 3], ordered (row, column, channel), the
    position table [tokens, width]; thirds of the tower's fused projections are tensors of their
    own. What is no part of the network (`outside`) is left out.
    """

    def __init__(self, archive: Any):
        """`archive`: the official tensors."""
        self.archive = archive
        self.path = archive.path

    def __iter__(self) -> Iterator[str]:
        """Names of all parts."""
        for name in self.archive:
            if not outside(name):
                yield from [f"{name}#{i}" for i in range(3)] if _fused(name) else [name]

    def __contains__(self, name: str) -> bool:
        """Whether there is a part of this name."""
        return names.whole(name) in self.archive

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a part; nothing is read."""
        shape = self.archive.shape(names.whole(name))
        if "#" in name:
            return (shape[0] // 3, *shape[1:])
        if name == names.PATCH:
            return (shape[0], int(np.prod(shape[1:])))
        return shape[1:] if name == names.POSITION else shape

    def dtype(self, name: str) -> str:
        """Element type of a part as the format spells it, such as BF16."""
        return self.archive.dtype(names.whole(name))

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A part, or what a tuple of slices selects of it."""
        if name == names.PATCH:
            value = self.archive.read(name).transpose(0, 2, 3, 1)
            return value.reshape(len(value), -1)[window]
        if name == names.POSITION:
            return self.archive.read(name)[0][window]
        if "#" not in name:
            return self.archive.read(name, window)
        rows = self.shape(name)[0]
        low, high, _ = (window or (slice(None),))[0].indices(rows)
        first = rows * int(name[-1])
        whole = names.whole(name)
        return self.archive.read(whole, (slice(first + low, first + high), *window[1:]))


def outside(name: str) -> bool:
    """Whether a tensor is not read by the network: the VQ model, and the pooling nobody calls."""
    return name.startswith((names.VQ, names.POOL))


def official_shapes(config: JanusConfig, tokenizer: VQConfig) -> dict[str, tuple[int, ...]]:
    """Shape of every official tensor by name, the unused ones included."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in layout(config).values():
        for name in tensor.names:
            whole, fused = names.whole(name), 3 if "#" in name else 1
            shapes[whole] = (fused * tensor.shape[0], *tensor.shape[1:])
    vit = config.vit
    if vit is not None:
        shapes[names.PATCH] = (vit.width, 3, vit.patch, vit.patch)
        shapes[names.POSITION] = (1, *shapes[names.POSITION])
        shapes |= _pool_shapes(vit)
    return shapes | _vq_shapes(tokenizer)


def _pool_shapes(vit: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The pooling that every release holds and nobody calls."""
    width = vit.width
    maps = {
        "q": (width, width),
        "kv": (2 * width, width),
        "proj": (width, width),
        "mlp.fc1": (vit.mlp, width),
        "mlp.fc2": (width, vit.mlp),
    }
    shapes = {names.POOL + "latent": (1, 1, width)}
    for name, shape in maps.items():
        shapes |= {f"{names.POOL}{name}.weight": shape, f"{names.POOL}{name}.bias": shape[:1]}
    norm = {f"{names.POOL}norm.{kind}": (width,) for kind in ("weight", "bias")}
    return shapes | norm


def _vq_shapes(tokenizer: VQConfig) -> dict[str, tuple[int, ...]]:
    """The VQ model, with the counter of its training."""
    shapes = {
        names.VQ + name: convolutional.official(shape)
        for name, shape in vq.shapes(tokenizer).items()
    }
    return shapes | {names.USED: (65536,)}


def check(archive: Any, config: JanusConfig, tokenizer: VQConfig) -> None:
    """Compares names, shapes and types of all tensors. Only unused ones may be missing.

    Raises:
      ValueError: naming the first tensor that is missing, extra, misshaped or not floating point.
    """
    wanted = official_shapes(config, tokenizer)
    for name, shape in wanted.items():
        if name not in archive:
            if unused(name):
                continue
            raise ValueError(f"{archive.path}: tensor {name!r} {list(shape)} is missing.")
        if archive.shape(name) != shape:
            raise ValueError(
                f"{archive.path}: tensor {name!r} has shape {list(archive.shape(name))}, "
                f"but config.json asks for {list(shape)}."
            )
        if archive.dtype(name) not in ("F32", "BF16", "F16"):
            raise ValueError(
                f"{archive.path}: tensor {name!r} is {archive.dtype(name)}; "
                "weights must be F32, BF16 or F16."
            )
    if extra := sorted(set(archive) - set(wanted)):
        raise ValueError(
            f"{archive.path}: tensor {extra[0]!r} is not part of the model that config.json "
            f"describes ({len(extra)} such)."
        )


def unused(name: str) -> bool:
    """Whether nothing ever reads a tensor: the pooling, and the counter of the codebook."""
    return name.startswith(names.POOL) or name == names.USED


def load(archive: Any, config: JanusConfig, *, dtype: str = "float32") -> functional.Params:
    """Parameters of the network on one device; `check` first."""
    parts = Parts(archive)

    def place(path: Any, leaf: Any) -> jax.Array:
        tensor = table[jax.tree_util.keystr(path, simple=True, separator="/")]
        read = leaf_reader(parts, tensor, DTYPES[type_name(dtype)])
        return jnp.asarray(read(tuple(slice(0, n) for n in leaf.shape)))

    table = layout(config)
    return jax.tree_util.tree_map_with_path(place, functional.abstract(config))


def load_vq(archive: Any, tokenizer: VQConfig) -> vq.Params:
    """Parameters of the VQ tokenizer, float32."""
    params = {}
    for name in vq.shapes(tokenizer):
        value = archive.read(names.VQ + name).astype(np.float32)
        params[name] = jnp.asarray(value.transpose(2, 3, 1, 0) if value.ndim == 4 else value)
    return params


def open_codes(path: epath.PathLike) -> tuple[Archive, VQConfig]:
    """The file of a VQ tokenizer that a workdir has (`run.janus_release`), and its sizes.

    Raises:
      FileNotFoundError, ValueError: it is missing or damaged; the message names it.
    """
    archive = Archive(path)
    try:
        values = json.loads(archive.metadata["vq"])
        sizes = VQConfig(**{**values, "multipliers": tuple(values["multipliers"])})
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{archive.path}: its header lacks the tokenizer's sizes.") from None
    return archive, sizes


def load_tokenizer(path: epath.PathLike) -> vq.VQTokenizer:
    """The VQ tokenizer of `open_codes`, ready to use."""
    archive, sizes = open_codes(path)
    return vq.VQTokenizer(sizes, load_vq(archive, sizes))


def official(config: JanusConfig, parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parts by the names of `names.pattern` as official tensors: thirds joined, as released."""
    found: dict[str, list[np.ndarray]] = {}
    for name in sorted(parts):
        found.setdefault(names.whole(name), []).append(parts[name])
    return {name: joined(config, name, given) for name, given in found.items()}


def joined(config: JanusConfig, name: str, parts: Sequence[np.ndarray]) -> np.ndarray:
    """The official tensor of its parts, in order."""
    value = np.concatenate(parts) if len(parts) > 1 else parts[0]
    if name == names.PATCH:
        patch = config.vit.patch
        return value.reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)
    return value[None] if name == names.POSITION else value


def _fused(name: str) -> bool:
    """Whether a tensor holds queries, keys and values."""
    return name.startswith(names.TOWER + "blocks.") and ".attn.qkv." in name
