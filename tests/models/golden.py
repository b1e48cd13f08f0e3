"""Golden tensors in the split-packed layout, and how parity is measured."""

import json
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from unireason_jax import flow
from unireason_jax.visibility import Visibility, build


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All tensors of a golden file and its JSON metadata."""
    with safe_open(str(path), framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads((file.metadata() or {}).get("meta", "{}"))


def relative(found: Any, wanted: Any) -> float:
    """|found - wanted| / |wanted| in the L2 norm, computed in float64."""
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    return float(np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30))


def patchify(image: np.ndarray, patch: int) -> np.ndarray:
    """[C, H, W] -> [tokens, patch * patch * C], ordered (row, column, channel) in a patch."""
    c, h, w = image.shape
    grid = image.reshape(c, h // patch, patch, w // patch, patch)
    return grid.transpose(1, 3, 2, 4, 0).reshape(-1, patch * patch * c)


class TrainStep:
    """The golden training batch, permuted from true order to [text | vit | latent]."""

    def __init__(self, path: Path, latent_patch: int):
        t, self.meta = read(path)
        self.tensors = t
        order = [t[f"in.packed_{name}_indexes"] for name in ("text", "vit_token", "vae_token")]
        self.order = np.concatenate(order)
        self.text, self.vit, self.latent = (len(x) for x in order)
        self.place = np.argsort(self.order)
        seen = build(t["in.split_lens"], t["in.attn_modes"], t["in.sample_lens"])
        self.visibility = Visibility(*(jnp.asarray(x[self.order])[None] for x in seen))
        self.positions = jnp.asarray(t["in.packed_position_ids"][self.order], jnp.int32)[None]
        self.images = np.repeat(
            np.arange(len(t["in.vit_token_seqlens"])), t["in.vit_token_seqlens"]
        )
        grids = zip(t["in.padded_latent"], t["in.patchified_vae_latent_shapes"])
        self.x0 = np.concatenate(
            [
                patchify(x[:, : h * latent_patch, : w * latent_patch], latent_patch)
                for x, (h, w) in grids
            ]
        )

    def int32(self, name: str) -> Any:
        """An integer input with a leading row dimension."""
        return jnp.asarray(self.tensors[name], jnp.int32)[None]

    def forward(self, model: Any, shift: float, *, detach_und: bool = False) -> dict[str, Any]:
        """Every golden output of the forward pass, tokens in true order; `loss` included."""
        t = self.tensors
        text = model.embed_text(self.int32("in.packed_text_ids"))
        vit = model.embed_vit(
            jnp.asarray(t["in.packed_vit_tokens"])[None],
            self.int32("in.packed_vit_position_ids"),
            jnp.asarray(self.images, jnp.int32)[None],
        )
        time = flow.timesteps(jnp.asarray(t["in.packed_timesteps"]), shift)[None]
        noise = jnp.asarray(t["in.noise"])[None]
        x_t = flow.interpolate(jnp.asarray(self.x0)[None], noise, time)
        gen = model.embed_latents(x_t, time, self.int32("in.packed_latent_position_ids"))
        und = jnp.concatenate([text, vit], axis=1)
        und_h, gen_h, _ = model.decode(
            und, gen, self.positions, self.visibility, detach_und=detach_und, keep_kv=False
        )
        hidden = jnp.concatenate([und_h, gen_h], axis=1)[0][self.place]
        logits = model.logits(hidden[t["in.ce_loss_indexes"]])
        top = logits - jnp.max(logits, -1, keepdims=True)
        log_z = jnp.log(jnp.sum(jnp.exp(top), -1))
        labels = t["in.packed_label_ids"]
        ce = log_z - jnp.take_along_axis(top, labels[:, None], -1)[:, 0]
        velocity = model.velocity(hidden[t["in.mse_loss_indexes"]])
        noised = np.isin(t["in.packed_vae_token_indexes"], t["in.mse_loss_indexes"])
        mse = jnp.square(velocity - flow.velocity(self.x0, noise[0])[noised])
        return {
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
