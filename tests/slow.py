"""BAGEL written down once more: slow, in float64 NumPy, by official tensor names.

Nothing of the package is used, so that an error would have to be made twice. Formulas are those of
BAGEL's Qwen2 with two experts, SigLIP on packed patches, and the FLUX autoencoder; a sequence is a
plain list of items in true order, and the mask a full matrix.
"""

import dataclasses
import math

import numpy as np

LLM, VIT = "language_model.model.", "vit_model.vision_model."
_TANH = math.sqrt(2 / math.pi)


@dataclasses.dataclass
class Item:
    """A part of a sample.

    Attributes:
      kind: "text" (bos ids eos), "raw" (ids as they are), "vit" or "latent" (between markers).
      data: ids, or tokens [n, features].
      places: position ids of image tokens.
      t: flow time of latent tokens; above 0 they are noised, and seen by nothing after them.
    """

    kind: str
    data: np.ndarray
    places: np.ndarray | None = None
    t: float = 0.0


def shapes(llm, vit, main, features, tables=True):
    """Official name -> official shape, from the JSON configs (None: without a vision tower)."""
    d, f = llm["hidden_size"], llm["intermediate_size"]
    h = d // llm["num_attention_heads"]
    kv = llm["num_key_value_heads"] * h
    found = {LLM + "embed_tokens.weight": (llm["vocab_size"], d)}
    found["language_model.lm_head.weight"] = (llm["vocab_size"], d)
    for gen in ("", "_moe_gen"):
        found[f"{LLM}norm{gen}.weight"] = (d,)
        for i in range(llm["num_hidden_layers"]):
            at = f"{LLM}layers.{i}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"{at}{norm}{gen}.weight"] = (d,)
            for name, out in (("q", d), ("k", kv), ("v", kv)):
                found[f"{at}self_attn.{name}_proj{gen}.weight"] = (out, d)
                found[f"{at}self_attn.{name}_proj{gen}.bias"] = (out,)
            found[f"{at}self_attn.o_proj{gen}.weight"] = (d, d)
            if llm["qk_norm"]:
                found |= {f"{at}self_attn.{name}_norm{gen}.weight": (h,) for name in "qk"}
            found |= {f"{at}mlp{gen}.{name}_proj.weight": (f, d) for name in ("gate", "up")}
            found[f"{at}mlp{gen}.down_proj.weight"] = (d, f)
    pairs = {"vae2llm": (d, features), "llm2vae": (features, d)}
    pairs |= {"time_embedder.mlp.0": (d, 256), "time_embedder.mlp.2": (d, d)}
    if vit:
        e, m, patch = vit["hidden_size"], vit["intermediate_size"], vit["patch_size"]
        pairs |= {"connector.fc1": (d, e), "connector.fc2": (d, d)}
        pairs[VIT + "embeddings.patch_embedding"] = (e, 3 * patch**2)
        for i in range(vit["num_hidden_layers"] - 1):
            at = f"{VIT}encoder.layers.{i}."
            pairs |= {f"{at}self_attn.{n}_proj": (e, e) for n in ("q", "k", "v", "out")}
            pairs |= {f"{at}mlp.fc1": (m, e), f"{at}mlp.fc2": (e, m)}
            for n in (1, 2):
                found |= {f"{at}layer_norm{n}.{part}": (e,) for part in ("weight", "bias")}
        found |= {f"{VIT}post_layernorm.{part}": (e,) for part in ("weight", "bias")}
        rows = (vit["image_size"] // patch) ** 2
        found[VIT + "embeddings.position_embedding.weight"] = (rows, e)
    for name, shape in pairs.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    if tables:
        found["latent_pos_embed.pos_embed"] = (main["max_latent_size"] ** 2, d)
        if vit:
            found["vit_pos_embed.pos_embed"] = (main["vit_max_num_patch_per_side"] ** 2, d)
    return found


def table(side, width):
    """The fixed 2-D table: sines and cosines of the column, then of the row."""
    omega = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    line = np.arange(side)[:, None] * omega
    line = np.concatenate([np.sin(line), np.cos(line)], 1)
    row, column = np.divmod(np.arange(side * side), side)
    return np.concatenate([line[column], line[row]], 1)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(_TANH * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def allowed(splits):
    """Who sees whom in one sample, from (length, mode) of its splits: [T, T] bool."""
    owner = np.repeat(np.arange(len(splits)), [n for n, _ in splits])
    modes = [mode for _, mode in splits]
    seen = np.zeros((len(owner), len(owner)), bool)
    for q, i in enumerate(owner):
        for k, j in enumerate(owner):
            same = i == j and (modes[i] != "causal" or k <= q)
            seen[q, k] = same or (j < i and modes[j] != "noise")
    return seen


class Slow:
    """The model of a folder: official tensors, its JSON configs and the ids of its markers."""

    def __init__(self, tensors, llm, vit, main, markers):
        self.w = {name: np.asarray(x, np.float64) for name, x in tensors.items()}
        self.llm, self.vit, self.main, self.markers = llm, vit, main, markers

    def linear(self, name, x):
        y = x @ self.w[f"{name}.weight"].T
        return y + self.w[f"{name}.bias"] if f"{name}.bias" in self.w else y

    def rms(self, name, x):
        eps = self.llm.get("rms_norm_eps", 1e-6)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * self.w[f"{name}.weight"]

    def layer_norm(self, name, x):
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.vit.get("layer_norm_eps", 1e-6))
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def tower(self, patches, places):
        """One image through the vision tower."""
        x = self.linear(VIT + "embeddings.patch_embedding", patches)
        x = x + self.w[VIT + "embeddings.position_embedding.weight"][places]
        heads = self.vit["num_attention_heads"]
        for i in range(self.vit["num_hidden_layers"] - 1):
            at = f"{VIT}encoder.layers.{i}."
            h = self.layer_norm(at + "layer_norm1", x)
            q, k, v = (
                self.linear(f"{at}self_attn.{n}_proj", h).reshape(len(x), heads, -1) for n in "qkv"
            )
            scores = np.einsum("qnh,knh->nqk", q, k) / math.sqrt(q.shape[-1])
            mixed = np.einsum("nqk,knh->qnh", softmax(scores), v).reshape(len(x), -1)
            x = x + self.linear(at + "self_attn.out_proj", mixed)
            h = gelu(self.linear(at + "mlp.fc1", self.layer_norm(at + "layer_norm2", x)))
            x = x + self.linear(at + "mlp.fc2", h)
        return self.layer_norm(VIT + "post_layernorm", x)

    def connect(self, features):
        return self.linear("connector.fc2", gelu(self.linear("connector.fc1", features)))

    def time(self, t):
        angles = t * np.exp(-math.log(10000.0) * np.arange(128) / 128)
        features = np.concatenate([np.cos(angles), np.sin(angles)])
        return self.linear(
            "time_embedder.mlp.2", silu(self.linear("time_embedder.mlp.0", features))
        )

    def tokens(self, item):
        """(embeddings [n, D], which of them go through the gen expert)."""
        embed, width = self.w[LLM + "embed_tokens.weight"], self.llm["hidden_size"]
        bos, eos, soi, eoi = self.markers
        if item.kind in ("text", "raw"):
            ids = [bos, *item.data, eos] if item.kind == "text" else list(item.data)
            return embed[ids], np.zeros(len(ids), bool)
        if item.kind == "vit":
            side = self.main["vit_max_num_patch_per_side"]
            inner = self.connect(self.tower(item.data, item.places))
        else:
            side = self.main["max_latent_size"]
            inner = self.linear("vae2llm", item.data) + self.time(item.t)
        inner = inner + table(side, width)[item.places]
        gen = np.full(len(inner) + 2, item.kind == "latent")
        gen[[0, -1]] = False
        return np.concatenate([embed[[soi]], inner, embed[[eoi]]]), gen

    def sample(self, items):
        """One sample: (embeddings, gen, rotary positions, splits)."""
        parts = [self.tokens(item) for item in items]
        rope, at, splits = [], 0, []
        for item, (x, _) in zip(items, parts):
            words = item.kind in ("text", "raw")
            rope += [at + i for i in range(len(x))] if words else [at] * len(x)
            at += len(x) if words else item.t == 0
            splits.append((len(x), "causal" if words else "noise" if item.t > 0 else "full"))
        embedded, gen = (np.concatenate(x) for x in zip(*parts))
        return embedded, gen, np.array(rope), splits

    def expert(self, name, function, x, gen):
        """Each token through its own copy of a module; `name` has a place for the suffix."""
        both = [function(name.replace("*", suffix), x) for suffix in ("", "_moe_gen")]
        return np.where(gen.reshape(-1, *[1] * (both[0].ndim - 1)), both[1], both[0])

    def decode(self, items):
        """One sample through the stack: (normed states, states and keys and values by layer)."""
        x, gen, rope, splits = self.sample(items)
        seen, layers = allowed(splits), []
        size = self.llm["hidden_size"] // self.llm["num_attention_heads"]
        theta = self.llm.get("rope_theta", 10000.0)
        angles = rope[:, None] * theta ** (-np.arange(0, size, 2) / size)
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        for i in range(self.llm["num_hidden_layers"]):
            at = f"{LLM}layers.{i}."
            h = self.expert(at + "input_layernorm*", self.rms, x, gen)
            q, k, v = (
                self.expert(f"{at}self_attn.{n}_proj*", self.linear, h, gen).reshape(
                    len(x), -1, size
                )
                for n in "qkv"
            )
            if self.llm["qk_norm"]:
                q = self.expert(at + "self_attn.q_norm*", self.rms, q, gen)
                k = self.expert(at + "self_attn.k_norm*", self.rms, k, gen)
            q, k = (
                np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)
                for a, b in (np.split(y, 2, -1) for y in (q, k))
            )
            mixed = np.zeros_like(q)
            for head in range(q.shape[1]):
                own = head // (q.shape[1] // k.shape[1])
                scores = np.where(seen, q[:, head] @ k[:, own].T / math.sqrt(size), -np.inf)
                mixed[:, head] = softmax(scores) @ v[:, own]
            mixed = mixed.reshape(len(x), -1)
            x = x + self.expert(at + "self_attn.o_proj*", self.linear, mixed, gen)
            h = self.expert(at + "post_attention_layernorm*", self.rms, x, gen)
            x = x + self.expert(at + "mlp*", self.mlp, h, gen)
            layers.append((x, k, v))
        return self.expert(LLM + "norm*", self.rms, x, gen), layers

    def mlp(self, name, x):
        gate, up = (self.linear(f"{name}.{part}_proj", x) for part in ("gate", "up"))
        return self.linear(f"{name}.down_proj", silu(gate) * up)

    def logits(self, hidden):
        return self.linear("language_model.lm_head", hidden)

    def velocity(self, hidden):
        return self.linear("llm2vae", hidden)


class SlowAutoencoder:
    """The FLUX autoencoder on one image [C, H, W]."""

    def __init__(self, tensors, config):
        self.w = {name: np.asarray(x, np.float64) for name, x in tensors.items()}
        self.levels, self.blocks = len(config["ch_mult"]), config["num_res_blocks"]
        self.scale, self.shift = config["scale_factor"], config["shift_factor"]

    def conv(self, name, x, stride=1, pad=None):
        weight = self.w[f"{name}.weight"]
        size = weight.shape[-1]
        pad = pad or [(0, 0), *[(size // 2, size // 2)] * 2]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, pad), (size, size), (1, 2))
        y = np.einsum("chwyx,ocyx->ohw", windows[:, ::stride, ::stride], weight, optimize=True)
        return y + self.w[f"{name}.bias"][:, None, None]

    def norm(self, name, x):
        groups = x.reshape(32, -1)
        groups = groups - groups.mean(1, keepdims=True)
        x = (groups / np.sqrt((groups**2).mean(1, keepdims=True) + 1e-6)).reshape(x.shape)
        scale, bias = (self.w[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
        return x * scale + bias

    def residual(self, name, x):
        y = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        y = self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", y)))
        short = f"{name}.nin_shortcut"
        return y + (self.conv(short, x) if f"{short}.weight" in self.w else x)

    def middle(self, side, x):
        x = self.residual(f"{side}.mid.block_1", x)
        h, shape = self.norm(f"{side}.mid.attn_1.norm", x), x.shape
        parts = (self.conv(f"{side}.mid.attn_1.{n}", h).reshape(shape[0], -1) for n in "qkv")
        q, k, v = parts
        mixed = v @ softmax(q.T @ k / math.sqrt(shape[0])).T
        x = x + self.conv(f"{side}.mid.attn_1.proj_out", mixed.reshape(shape))
        return self.residual(f"{side}.mid.block_2", x)

    def head(self, side, x):
        return self.conv(f"{side}.conv_out", silu(self.norm(f"{side}.norm_out", x)))

    def moments(self, image):
        """Mean and log-variance before scaling."""
        x = self.conv("encoder.conv_in", image)
        for level in range(self.levels):
            for i in range(self.blocks):
                x = self.residual(f"encoder.down.{level}.block.{i}", x)
            if level < self.levels - 1:
                down = f"encoder.down.{level}.downsample.conv"
                x = self.conv(down, x, 2, [(0, 0), (0, 1), (0, 1)])
        return np.split(self.head("encoder", self.middle("encoder", x)), 2)

    def encode(self, image, noise):
        mean, logvar = self.moments(image)
        return self.scale * (mean + np.exp(0.5 * logvar) * noise - self.shift)

    def decode(self, latent):
        x = self.middle("decoder", self.conv("decoder.conv_in", latent / self.scale + self.shift))
        for level in reversed(range(self.levels)):
            for i in range(self.blocks + 1):
                x = self.residual(f"decoder.up.{level}.block.{i}", x)
            if level:
                x = self.conv(f"decoder.up.{level}.upsample.conv", x.repeat(2, 1).repeat(2, 2))
        return self.head("decoder", x)
