"""The golden contexts replayed through the cache, and how close a result must come."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.models.golden import patchify, read, relative
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.inference.cache import Cache, Markers
from unireason_jax.models import huggingface, vae

SLOTS = 64


@dataclasses.dataclass
class Golden:
    """The golden model, one of its files, and replay of contexts."""

    folder: Path
    name: str

    def __post_init__(self):
        self.tensors, self.meta = read(self.folder / f"{self.name}.safetensors")
        self.config, self.params = _model(self.folder)
        ids = json.loads((self.folder / "config.json").read_text())["new_token_ids"]
        self.markers = Markers(
            ids["bos_token_id"], ids["eos_token_id"], ids["start_of_image"], ids["end_of_image"]
        )

    def close(self, found: Any, key: str) -> None:
        """Within 1e-5 or ten times the official code's own float32 deviation (relative L2)."""
        official = _tolerances(self.folder)[self.name].get(key, (0, 0, 0.0))[2] or 0.0
        error = relative(found, self.tensors[key])
        assert error <= max(1e-5, 10 * official), f"{key}: relative L2 {error:.2e}"

    def empty(self, rows: int = 1) -> Cache:
        return caches.empty(self.config, rows, SLOTS)

    def text(self, cache: Cache, prompts: list[list[int]]) -> Cache:
        """A turn per row; an empty list adds nothing to its row."""
        turns = [[self.markers.bos, *p, self.markers.eos] if p else [] for p in prompts]
        counts = np.array([len(turn) for turn in turns], np.int32)
        ids = np.zeros((len(turns), 24), np.int32)
        for row, turn in zip(ids, turns):
            row[: len(turn)] = turn
        return sampler.prefill_text(
            self.params, cache, jnp.asarray(ids), jnp.asarray(counts), config=self.config
        )

    def vit(self, cache: Cache, key: str) -> Cache:
        image, vit = self.tensors[key], self.config.vit
        return self._image(
            sampler.prefill_vit, cache, image, patchify(image, vit.patch), vit.patch, vit.side
        )

    def latents(self, cache: Cache, image: str, noise: str) -> Cache:
        """The clean latents of an image, with the posterior noise of the recording."""
        latent = _latent(self.folder, self.name, image, noise)
        tokens = patchify(latent, self.config.latent.patch)
        stride = 8 * self.config.latent.patch
        return self._image(
            sampler.prefill_latents,
            cache,
            self.tensors[image],
            tokens,
            stride,
            self.config.latent.side,
        )

    def _image(self, prefill, cache, image, tokens, patch, side) -> Cache:
        grid = positions(image.shape[1] // patch, image.shape[2] // patch, side)
        padded = np.concatenate([tokens, np.full((3, tokens.shape[1]), 7.0)]).astype(np.float32)
        cache, _ = prefill(
            self.params,
            cache,
            jnp.asarray(padded)[None],
            jnp.asarray(np.concatenate([grid, [0, 0, 0]]).astype(np.int32))[None],
            jnp.array([len(grid)], jnp.int32),
            config=self.config,
            markers=self.markers,
        )
        return cache

    def check_context(self, cache: Cache, key: str, row: int = 0) -> None:
        """Lengths, rotary positions and cached keys and values of one row."""
        length = int(self.tensors[f"{key}.kv_lens"][row])
        assert int(cache.lengths[row]) == length
        assert int(cache.positions[row]) == int(self.tensors[f"{key}.ropes"][row])


def positions(rows: int, columns: int, side: int) -> np.ndarray:
    """row * side + column in reading order."""
    return (np.arange(rows)[:, None] * side + np.arange(columns)).reshape(-1)


@functools.cache
def _model(folder: Path):
    config = huggingface.read_config(folder)
    return config, jax.tree.map(jnp.asarray, huggingface.load(folder, config))


@functools.cache
def _tolerances(folder: Path) -> dict[str, dict[str, list]]:
    return json.loads((folder / "tolerances.json").read_text())["files"]


@functools.cache
def _latent(folder: Path, name: str, image: str, noise: str) -> np.ndarray:
    """[C, h, w] of an image with the posterior noise of the recording."""
    tensors, _ = read(folder / f"{name}.safetensors")
    config, params = vae.load(folder / "ae.safetensors")
    pixels = jnp.asarray(tensors[image].transpose(1, 2, 0))[None]
    mean, logvar = jax.jit(vae.moments, static_argnums=1)(params, config, pixels)
    drawn = jnp.asarray(tensors[noise].transpose(0, 2, 3, 1))
    return np.asarray(vae.sample(mean, logvar, drawn))[0].transpose(2, 0, 1)
