"""Safetensors files as one mapping from names to tensors, read slice by slice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open


class Archive:
    """Tensors of a safetensors file, or of the shards that an index file lists.

    Raises ValueError naming the file when it is truncated or not safetensors.
    """

    def __init__(self, path: Path):
        """`path` is a .safetensors file or a .safetensors.index.json."""
        self.path = path
        files = [path]
        if path.name.endswith(".index.json"):
            mapped = read_json(path).get("weight_map", {})
            files = [path.parent / name for name in sorted(set(mapped.values()))]
        self._where: dict[str, Any] = {}
        for file in files:
            if not file.exists():
                raise FileNotFoundError(f"{file}: listed in {path.name} but missing.")
            try:
                opened = safe_open(str(file), framework="numpy")
            except SafetensorError as error:
                raise ValueError(
                    f"{file}: truncated or not a safetensors file ({error})."
                ) from error
            self._where.update(dict.fromkeys(opened.keys(), opened))

    def __iter__(self) -> Iterator[str]:
        """Tensor names."""
        return iter(self._where)

    def __contains__(self, name: str) -> bool:
        """Whether the archive holds a tensor."""
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._where[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """Element type of a tensor as written in the file, such as BF16."""
        return self._where[name].get_slice(name).get_dtype()

    def read(self, name: str, window: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part of it that a tuple of slices selects."""
        if not window or self.shape(name) == ():
            return self._where[name].get_tensor(name)
        return self._where[name].get_slice(name)[window]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, with the file's name in errors."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: missing; a BAGEL folder needs it beside the weights.")
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}).") from error
