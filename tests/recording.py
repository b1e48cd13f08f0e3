"""Small checkpoints of any shape in the released format, with recordings of the slow model.

`SHAPES` vary what other folders vary: head counts, query-key norms, table sizes, patch sizes,
autoencoders, shards, missing keys. `Folder` writes one, with recordings laid out as the official
ones are, so that the parity command can be tried on it.
"""

import dataclasses
import json
import math
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from tests.slow import Item, Slow, shapes

MARKERS = (3, 4, 5, 6)
LLM = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "qk_norm": True,
    "layer_module": "Qwen2MoTDecoderLayer",
}
VIT = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 64,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}
MAIN = {
    "latent_patch_size": 2,
    "max_latent_size": 8,
    "vit_max_num_patch_per_side": 8,
    "timestep_shift": 3.0,
    "new_token_ids": dict(
        zip(("bos_token_id", "eos_token_id", "start_of_image", "end_of_image"), MARKERS)
    ),
}
VAE = {
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "z_channels": 4,
    "scale_factor": 0.3611,
    "shift_factor": 0.1159,
}


@dataclasses.dataclass(frozen=True)
class Shape:
    """Changes to the four configs; a value of None removes the key from the file."""

    llm: dict[str, Any] = dataclasses.field(default_factory=dict)
    vit: dict[str, Any] | None = dataclasses.field(default_factory=dict)
    main: dict[str, Any] = dataclasses.field(default_factory=dict)
    vae: dict[str, Any] = dataclasses.field(default_factory=dict)
    shards: int = 1
    tables: bool = True
    dtype: str = "float32"


SHAPES = {
    "plain heads, no norms": Shape(
        llm={"num_key_value_heads": 4, "qk_norm": False, "rms_norm_eps": 1e-5, "rope_theta": None},
        vit={"num_hidden_layers": 4, "num_attention_heads": 3, "patch_size": 4, "image_size": 20,
             "layer_norm_eps": 1e-3},
        main={"max_latent_size": 32, "vit_max_num_patch_per_side": 5, "latent_patch_size": None},
        tables=False,
    ),
    "one key head, shards": Shape(
        llm={"num_attention_heads": 8, "num_key_value_heads": 1, "num_hidden_layers": 3},
        vit={"num_attention_heads": 4},
        main={"latent_patch_size": 1, "max_latent_size": 11, "vit_max_num_patch_per_side": 6,
              "timestep_shift": None},
        vae={"ch_mult": [1, 1, 2], "z_channels": 6, "num_res_blocks": 2, "scale_factor": 0.5,
             "shift_factor": -0.2},
        shards=4,
    ),
    "no vision tower": Shape(vit=None, main={"max_latent_size": 9}, dtype="float16"),
}  # fmt: skip
DEFAULTS = {"rope_theta": 1e4, "latent_patch_size": 2, "timestep_shift": 1.0}


class Folder:
    """A checkpoint of a shape, and the slow model of it."""

    def __init__(self, path, shape, seed=0):
        """Writes weights and configs into a new folder."""
        self.path, self.rng = path, np.random.default_rng(seed)
        path.mkdir(parents=True)
        changed = [LLM | shape.llm, shape.vit is not None and VIT | shape.vit]
        changed += [MAIN | shape.main, VAE | shape.vae]
        names = ("llm_config.json", "vit_config.json", "config.json", "vae_config.json")
        for name, values in zip(names, changed):
            if values:
                kept = {k: v for k, v in values.items() if v is not None}
                (path / name).write_text(json.dumps(kept))
        full = [v and {k: DEFAULTS[k] if x is None else x for k, x in v.items()} for v in changed]
        self.llm, self.vit, self.main, self.vae = full
        self.patch = self.main["latent_patch_size"]
        self.stride = 2 ** (len(self.vae["ch_mult"]) - 1)
        self.channels = self.vae["z_channels"]
        table = shapes(self.llm, self.vit, self.main, self.channels * self.patch**2)
        self.tensors = self._weights(table, shape)
        self.slow = Slow(self.tensors, self.llm, self.vit, self.main, MARKERS)

    def _weights(self, table, shape):
        """Draws and stores the tensors."""
        from tests.slow import table as fixed

        width, tensors = self.llm["hidden_size"], {}
        for name, size in table.items():
            value = self.rng.normal(size=size) / math.sqrt(size[-1] if len(size) > 1 else 1)
            if len(size) == 1:
                value = 1 + 0.2 * value if "norm" in name and "bias" not in name else 0.1 * value
            if name.endswith("pos_embed"):
                value = fixed(math.isqrt(size[0]), width)
            tensors[name] = np.ascontiguousarray(value.astype(shape.dtype))
        stored = {n: x for n, x in tensors.items() if shape.tables or "pos_embed" not in n}
        names = sorted(stored)
        if shape.shards == 1:
            save_file(stored, self.path / "ema.safetensors")
            return tensors
        groups = {f"ema-{i}.safetensors": names[i :: shape.shards] for i in range(shape.shards)}
        for file, group in groups.items():
            save_file({n: stored[n] for n in group}, self.path / file)
        index = {"weight_map": {n: file for file, group in groups.items() for n in group}}
        (self.path / "ema.safetensors.index.json").write_text(json.dumps(index))
        return tensors

    def normal(self, *size):
        return self.rng.normal(size=size).astype(np.float32)

    def ids(self, count):
        return self.rng.integers(8, self.llm["vocab_size"], count)

    def grid(self, kind, rows, columns):
        """Position ids of an image's tokens."""
        side = self.main["vit_max_num_patch_per_side" if kind == "vit" else "max_latent_size"]
        return (np.arange(rows)[:, None] * side + np.arange(columns)).reshape(-1)

    def patches(self, rows, columns):
        """A random image for the vision tower."""
        tokens = self.normal(rows * columns, 3 * self.vit["patch_size"] ** 2)
        return Item("vit", tokens, self.grid("vit", rows, columns))

    def latent(self, x0, rows, columns, noise=None, t=0.0):
        """Clean latents [C, h, w], or a point on the path to a noise [tokens, features]."""
        tokens = patchify(x0, self.patch)
        tokens = tokens if noise is None else (1 - t) * tokens + t * noise
        return Item("latent", tokens, self.grid("latent", rows, columns), t)

    def save(self, name, tensors, meta):
        """Writes a recording, floats as float32."""
        kept = {}
        for key, value in tensors.items():
            value = np.asarray(value)
            kind = np.float32 if np.issubdtype(value.dtype, np.floating) else value.dtype
            kept[key] = np.array(value, kind, order="C")
        save_file(kept, self.path / f"{name}.safetensors", metadata={"meta": json.dumps(meta)})

    def record_training(self):
        """train_step.safetensors: two samples with text, both kinds of latents, ViT copies."""
        f = self.channels * self.patch**2
        sizes = [(2, 3), (3, 2)]
        x0 = self.normal(2, self.channels, 3 * self.patch, 3 * self.patch)
        logit, noise = np.float32(0.4), self.normal(12, f)
        t = 1 / (1 + np.exp(-np.float64(logit)))
        shift = self.main["timestep_shift"]
        t = shift * t / (1 + (shift - 1) * t)
        cut = [x[:, : h * self.patch, : w * self.patch] for x, (h, w) in zip(x0, sizes)]
        clean = self.latent(cut[0], *sizes[0])
        noised = self.latent(cut[1], *sizes[1], noise[6:], t)
        shown = [self.patches(2, 3), self.patches(4, 2)] if self.vit else []
        samples = [
            [Item("text", self.ids(5)), *shown[:1], Item("text", self.ids(4))],
            [Item("text", self.ids(3)), clean, *shown[1:], Item("text", self.ids(6)), noised],
        ]
        parts = [self.slow.sample(sample) for sample in samples]
        found = [self.slow.decode(sample) for sample in samples]
        hidden = np.concatenate([states for states, _ in found])
        where = {"text": [], "vit": [], "latent": []}
        ids, at = [], 0
        for item in (item for sample in samples for item in sample):
            words = [MARKERS[0], *item.data, MARKERS[1]] if item.kind == "text" else MARKERS[2:]
            ids += words
            if item.kind == "text":
                where["text"] += range(at, at + len(words))
            else:
                inner = len(item.data)
                where["text"] += [at, at + inner + 1]
                where[item.kind] += range(at + 1, at + 1 + inner)
            at += len(words) + (0 if item.kind == "text" else len(item.data))
        splits = [split for *_, part in parts for split in part]
        labels = [0, 1, 2, 3]  # the first tokens of the first sample predict the next ones
        targets = np.array(ids)[1:5]
        logits = self.slow.logits(hidden[labels])
        logp = logits - logits.max(-1, keepdims=True)
        logp = logp - np.log(np.exp(logp).sum(-1, keepdims=True))
        mse_at = where["latent"][6:]
        velocity = self.slow.velocity(hidden[mse_at])
        mse = (velocity - (noise[6:] - patchify(cut[1], self.patch))) ** 2
        ce = -logp[np.arange(4), targets]
        modes = {"causal": 0, "full": 1, "noise": 2}
        tensors = {
            "in.packed_text_ids": np.array(ids),
            "in.packed_text_indexes": np.array(where["text"]),
            "in.packed_vit_token_indexes": np.array(where["vit"], np.int64),
            "in.packed_vae_token_indexes": np.array(where["latent"]),
            "in.packed_vit_tokens": joined([x.data for x in shown]),
            "in.packed_vit_position_ids": joined([x.places for x in shown]),
            "in.vit_token_seqlens": np.array([len(x.data) for x in shown]),
            "in.packed_latent_position_ids": np.concatenate([clean.places, noised.places]),
            "in.packed_position_ids": np.concatenate([rope for _, _, rope, _ in parts]),
            "in.padded_latent": x0,
            "in.patchified_vae_latent_shapes": np.array(sizes),
            "in.noise": noise,
            "in.packed_timesteps": np.repeat([-np.inf, logit], 6),
            "in.split_lens": np.array([n for n, _ in splits]),
            "in.attn_modes": np.array([modes[mode] for _, mode in splits]),
            "in.sample_lens": np.array([len(states) for states, _ in found]),
            "in.ce_loss_indexes": np.array(labels),
            "in.packed_label_ids": targets,
            "in.ce_loss_weights": np.ones(4),
            "in.mse_loss_indexes": np.array(mse_at),
            "out.packed_sequence_in": np.concatenate([x for x, *_ in parts]),
            "out.last_hidden": hidden,
            "out.ce_logits": logits,
            "out.ce": ce,
            "out.ce_mean": ce.mean(),
            "out.pred_velocity": velocity,
            "out.mse": mse,
            "out.mse_mean": mse.mean(),
            "out.loss": ce.mean() + mse.mean(),
            "out.t_shifted": np.repeat([0, t], 6),
            "out.x_t": np.concatenate([clean.data, noised.data]),
            "out.vae2llm": self.slow.linear("vae2llm", np.concatenate([clean.data, noised.data])),
            "out.time_embed": np.repeat([self.slow.time(0), self.slow.time(t)], 6, axis=0),
        }
        for layer in range(self.llm["num_hidden_layers"]):
            states = [layers[layer][0] for _, layers in found]
            tensors[f"out.hidden_layer_{layer}"] = np.concatenate(states)
        if not shown:
            tensors = {name: x for name, x in tensors.items() if "vit" not in name}
        else:
            towers = [self.slow.tower(x.data, x.places) for x in shown]
            tensors["out.vit_last_hidden"] = np.concatenate(towers)
        self.save("train_step", tensors, {})


def joined(parts):
    """Arrays one after another; none where there is none."""
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def patchify(x, patch):
    """[C, H, W] -> [tokens, patch * patch * C], features ordered (row, column, channel)."""
    c, h, w = x.shape
    x = x.reshape(c, h // patch, patch, w // patch, patch)
    return x.transpose(1, 3, 2, 4, 0).reshape(-1, patch * patch * c)
