"""Recorded tensors, the model they belong to, and the training batch in split-packed form."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.data import images
from unireason_jax.inference.cache import Markers
from unireason_jax.models import huggingface, vae
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.models.bagel import Bagel
from unireason_jax.models.config import VAEConfig
from unireason_jax.rules import flow
from unireason_jax.rules.visibility import Visibility, build


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a recording and its JSON metadata."""
    archive = Archive(path)
    tensors = {name: archive.read(name) for name in archive}
    return tensors, json.loads(archive.metadata.get("meta", "{}"))


def relative(found: Any, wanted: Any) -> float:
    """|found - wanted| / |wanted| in the L2 norm, in float64. ValueError on another shape."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    if found.shape != wanted.shape:
        raise ValueError(f"shape {found.shape} instead of {wanted.shape}")
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30))


def patchify(image: np.ndarray, patch: int) -> np.ndarray:
    """[C, H, W] -> [tokens, patch * patch * C], ordered (row, column, channel) in a patch."""
    return images.patchify(image.transpose(1, 2, 0), patch)


def unpatchify(tokens: np.ndarray, patch: int, height: int, width: int) -> np.ndarray:
    """Inverse of `patchify`: [tokens, patch * patch * C] -> [C, height, width]."""
    size = {"rows": height // patch, "columns": width // patch, "patch": patch}
    return images.unpatchify(tokens, **size).transpose(2, 0, 1)


class Golden:
    """A folder of recordings and the model that they were made with."""

    def __init__(self, folder: Path, dtype: str = "float32", **policies: Any):
        """Loads the checkpoint through the converter. Errors name the file and the tensor."""
        self.folder = Path(folder)
        self.config = huggingface.read_config(folder, dtype=dtype, **policies)
        self.params = huggingface.load(folder, self.config)
        self.settings = read_json(self.folder / "config.json")
        self.shift = float(self.settings.get("timestep_shift", 1.0))

    def places(self, rows: int, columns: int, side: int) -> np.ndarray:
        """Position ids of an image's tokens in reading order, int32, as the folder places them."""
        stretched = bool(self.settings.get("interpolate_pos", False))
        return images.positions(rows, columns, side, stretched)

    @functools.cached_property
    def markers(self) -> Markers:
        """Ids of the control tokens."""
        ids = self.settings["new_token_ids"]
        names = ("bos_token_id", "eos_token_id", "start_of_image", "end_of_image")
        return Markers(*(ids[name] for name in names))

    @functools.cached_property
    def autoencoder(self) -> tuple[VAEConfig, vae.Params]:
        """Sizes and weights of the autoencoder."""
        return vae.load(self.folder / "ae.safetensors")

    def latent(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Scaled latents [B, C, h, w] of images [B, 3, H, W] with recorded posterior noise."""
        config, params = self.autoencoder
        mean, logvar = jax.jit(vae.moments, static_argnums=1)(params, config, rows(image))
        return columns(vae.sample(mean, logvar, rows(noise)))

    @functools.cached_property
    def step(self) -> "TrainStep":
        """The recorded training batch."""
        return TrainStep(self.folder / "train_step.safetensors", self.config.latent.patch)


def rows(x: np.ndarray) -> jax.Array:
    """[B, C, H, W] -> [B, H, W, C]."""
    return jnp.asarray(np.asarray(x, np.float32).transpose(0, 2, 3, 1))


def columns(x: jax.Array) -> np.ndarray:
    """[B, H, W, C] -> [B, C, H, W]."""
    return np.asarray(x).transpose(0, 3, 1, 2)


class TrainStep:
    """The recorded training batch, permuted from true order to [text | vit | latent]."""

    def __init__(self, path: Path, latent_patch: int):
        """Reads `train_step.safetensors`."""
        t, self.meta = read(path)
        self.tensors = t
        none = {"tokens": (0, 1), "position_ids": 0, "token_indexes": 0, "token_seqlens": 0}
        for name, shape in none.items():  # a folder without a vision tower records none of them
            prefix = "in.vit_" if name == "token_seqlens" else "in.packed_vit_"
            t.setdefault(prefix + name, np.zeros(shape, np.int64))
        order = [t[f"in.packed_{name}_indexes"] for name in ("text", "vit_token", "vae_token")]
        self.order = np.concatenate(order)
        self.text, self.vit, self.latent = (len(x) for x in order)
        self.place = np.argsort(self.order)
        seen = build(t["in.split_lens"], t["in.attn_modes"], t["in.sample_lens"])
        self.visibility = Visibility(*(jnp.asarray(x[self.order])[None] for x in seen))
        self.positions = jnp.asarray(t["in.packed_position_ids"][self.order], jnp.int32)[None]
        lengths = t["in.vit_token_seqlens"]
        self.images = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        grids = zip(t["in.padded_latent"], t["in.patchified_vae_latent_shapes"] * latent_patch)
        self.x0 = np.concatenate([patchify(x[:, :h, :w], latent_patch) for x, (h, w) in grids])
        self.noised = np.isin(t["in.packed_vae_token_indexes"], t["in.mse_loss_indexes"])

    def int32(self, name: str) -> jax.Array:
        """An integer input with a leading row dimension."""
        return jnp.asarray(self.tensors[name], jnp.int32)[None]

    def batch(self, *, reweighted: bool = False) -> dict[str, Any]:
        """The row as the data pipeline yields it, with the recorded noise.

        Args:
          reweighted: weight the text loss as recorded in `in.ce_loss_weights`, else by one.
        """
        t = self.tensors
        place = np.searchsorted(t["in.packed_text_indexes"], t["in.ce_loss_indexes"])
        labels, weights = np.full((1, self.text), -1, np.int32), np.zeros((1, self.text))
        labels[0, place] = t["in.packed_label_ids"]
        weights[0, place] = t["in.ce_loss_weights"] if reweighted else 1.0
        return {
            "text_ids": self.int32("in.packed_text_ids"),
            "text_labels": jnp.asarray(labels),
            "text_weights": jnp.asarray(weights, jnp.float32),
            "vit_patches": jnp.asarray(t["in.packed_vit_tokens"])[None],
            "vit_positions": self.int32("in.packed_vit_position_ids"),
            "vit_images": jnp.asarray(self.images)[None],
            "latents": jnp.asarray(self.x0)[None],
            "latent_positions": self.int32("in.packed_latent_position_ids"),
            "latent_weights": jnp.asarray(self.noised, jnp.float32)[None],
            "latent_logits": jnp.asarray(t["in.packed_timesteps"])[None],
            "noise": jnp.asarray(t["in.noise"])[None],
            "positions": self.positions,
            **{f"vis_{name}": x for name, x in zip(Visibility._fields, self.visibility)},
        }

    def forward(
        self, model: Bagel, shift: float, *, detach_und: bool = False
    ) -> dict[str, jax.Array]:
        """Every recorded output of the forward pass by name, tokens in true order."""
        t, batch, found = self.tensors, self.batch(), {}
        und = model.embed_text(batch["text_ids"])
        if self.vit:
            inputs = (batch["vit_patches"], batch["vit_positions"], batch["vit_images"])
            found["vit_last_hidden"] = model.vit(*inputs)[0]
            und = jnp.concatenate([und, model.embed_vit(*inputs)], axis=1)
        time = flow.timesteps(batch["latent_logits"], shift)
        x_t = flow.interpolate(batch["latents"], batch["noise"], time)
        gen = model.embed_latents(x_t, time, batch["latent_positions"])
        flags = {"detach_und": detach_und, "keep_kv": False}
        und_h, gen_h, _ = model.decode(und, gen, self.positions, self.visibility, **flags)
        hidden = jnp.concatenate([und_h, gen_h], axis=1)[0][self.place]
        logits = model.logits(hidden[t["in.ce_loss_indexes"]])
        labels = t["in.packed_label_ids"][:, None]
        ce = jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels, -1)[:, 0]
        velocity = model.velocity(hidden[t["in.mse_loss_indexes"]])
        target = flow.velocity(batch["latents"], batch["noise"])[0]
        mse = jnp.square(velocity - target[self.noised])
        return found | {
            "time_embed": model.embed_time(time)[0],
            "vae2llm": model.latent_in(x_t, "float32")[0],
            "packed_sequence_in": jnp.concatenate([und, gen], axis=1)[0][self.place],
            "last_hidden": hidden,
            "ce_logits": logits,
            "ce": ce,
            "ce_mean": ce.mean(),
            "t_shifted": time[0],
            "x_t": x_t[0],
            "pred_velocity": velocity,
            "mse": mse,
            "mse_mean": mse.mean(),
            "loss": ce.mean() + mse.mean(),
        }


def truncated(golden: Golden, llm: int | None = None, vit: int | None = None) -> tuple[Any, Any]:
    """(config, parameters) of the same model with only its first layers, in either stack."""
    config, params = golden.config, golden.params
    if llm is not None:
        config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, layers=llm))
        blocks = jax.tree.map(lambda x: x[:llm], params["stack"]["blocks"])
        params = {**params, "stack": {**params["stack"], "blocks": blocks}}
    if vit is not None:
        config = dataclasses.replace(config, vit=dataclasses.replace(config.vit, layers=vit))
        blocks = jax.tree.map(lambda x: x[:vit], params["vit"]["blocks"])
        params = {**params, "vit": {**params["vit"], "blocks": blocks}}
    return config, params
