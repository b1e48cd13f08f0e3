"""Recordings of a small folder's autoencoder, vision tower, text and image generation."""

import itertools
import math

import numpy as np

from tests.recording import MARKERS, Folder, patchify
from tests.rules.test_flow import slow_guide
from tests.slow import Item, SlowAutoencoder

GUIDANCE = {"num_timesteps": 4, "timestep_shift": 3.0, "cfg_text_scale": 4.0}
GUIDANCE |= {"cfg_img_scale": 2.0, "cfg_interval": [0.4, 1.0], "cfg_renorm_min": 0.0}
STEPS = 5


def autoencoder(folder: Folder) -> SlowAutoencoder:
    """Draws and stores ae.safetensors; the slow model of it."""
    config, widths = folder.vae, [folder.vae["ch"] * m for m in folder.vae["ch_mult"]]
    table, inner = {}, widths[0]

    def conv(name, size, inner, outer):
        table[f"{name}.weight"] = (outer, inner, size, size)
        table[f"{name}.bias"] = (outer,)

    def norm(name, width):
        table.update({f"{name}.{part}": (width,) for part in ("weight", "bias")})

    def residual(name, inner, outer):
        norm(f"{name}.norm1", inner)
        norm(f"{name}.norm2", outer)
        conv(f"{name}.conv1", 3, inner, outer)
        conv(f"{name}.conv2", 3, outer, outer)
        if inner != outer:
            conv(f"{name}.nin_shortcut", 1, inner, outer)

    conv("encoder.conv_in", 3, 3, inner)
    for level, width in enumerate(widths):
        for i in range(config["num_res_blocks"]):
            residual(f"encoder.down.{level}.block.{i}", inner, width)
            inner = width
        if level < len(widths) - 1:
            conv(f"encoder.down.{level}.downsample.conv", 3, width, width)
    for side in ("encoder", "decoder"):
        for i in (1, 2):
            residual(f"{side}.mid.block_{i}", inner, inner)
        norm(f"{side}.mid.attn_1.norm", inner)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{side}.mid.attn_1.{part}", 1, inner, inner)
    norm("encoder.norm_out", inner)
    conv("encoder.conv_out", 3, inner, 2 * folder.channels)
    conv("decoder.conv_in", 3, folder.channels, inner)
    for level, width in reversed(list(enumerate(widths))):
        for i in range(config["num_res_blocks"] + 1):
            residual(f"decoder.up.{level}.block.{i}", inner, width)
            inner = width
        if level:
            conv(f"decoder.up.{level}.upsample.conv", 3, width, width)
    norm("decoder.norm_out", inner)
    conv("decoder.conv_out", 3, inner, 3)
    tensors = {}
    for name, size in table.items():
        value = folder.rng.normal(size=size)
        scale = math.sqrt(math.prod(size[1:])) if len(size) > 1 else 10
        tensors[name] = (value / scale + ("norm" in name and "weight" in name)).astype("f4")
    folder.save("ae", tensors, {})
    return SlowAutoencoder(tensors, config)


def record_autoencoder(folder: Folder, slow: SlowAutoencoder) -> None:
    """vae.safetensors: two images."""
    s = folder.stride
    images, noise = folder.normal(2, 3, 4 * s, 2 * s), folder.normal(2, folder.channels, 4, 2)
    mean, logvar = (np.stack(x) for x in zip(*(slow.moments(x) for x in images)))
    z = mean + np.exp(0.5 * logvar) * noise
    latent, other = slow.scale * (z - slow.shift), folder.normal(1, folder.channels, 3, 2)
    tensors = {
        "in.image": images,
        "in.noise": noise,
        "in.latent_for_decode": other,
        "out.mean": mean,
        "out.logvar": logvar,
        "out.posterior_sample": z,
        "out.latent_scaled": latent,
        "out.decoded": np.stack([slow.decode(x) for x in latent]),
        "out.decoded_from_in_latent": slow.decode(other[0])[None],
    }
    folder.save("vae", tensors, {})


def record_vit(folder: Folder) -> None:
    """vit.safetensors: two images of different size in one row."""
    shown = [folder.patches(3, 2), folder.patches(2, 4)]
    slow, full = folder.slow, folder.slow.vit
    states = {}
    for layer in range(full["num_hidden_layers"] - 1):
        slow.vit = full | {"num_hidden_layers": layer + 2}
        states[f"out.layer_{layer}"] = np.concatenate([_raw(slow, x) for x in shown])
    slow.vit = full
    features = np.concatenate([slow.tower(x.data, x.places) for x in shown])
    embedded = np.concatenate([slow.tokens(x)[0][1:-1] for x in shown])
    tensors = states | {
        "in.vit_token_seqlens": np.array([len(x.data) for x in shown]),
        "in.packed_vit_position_ids": np.concatenate([x.places for x in shown]),
        "in.packed_vit_tokens": np.concatenate([x.data for x in shown]),
        "out.vit_last_hidden": features,
        "out.connector": slow.connect(features),
        "out.connector_plus_pos": embedded,
        "out.pos_embed": embedded - slow.connect(features),
    }
    folder.save("vit", tensors, {})


def _raw(slow, item):
    """States of the tower before its final norm."""
    norm, slow.layer_norm = slow.layer_norm, lambda n, x: x if "post" in n else norm(n, x)
    states = slow.tower(item.data, item.places)
    slow.layer_norm = norm
    return states


class Scene:
    """An image shown to a folder's model in both ways, and the tensors that say so."""

    def __init__(self, folder: Folder, slow: SlowAutoencoder):
        """Draws pixels for the vision tower and for the autoencoder."""
        p, rows, columns = folder.vit["patch_size"], 2, 3
        pixels = folder.stride * folder.patch
        vit, vae = folder.normal(3, rows * p, columns * p), folder.normal(3, 2 * pixels, pixels)
        noise = folder.normal(1, folder.channels, 2 * folder.patch, folder.patch)
        latent = slow.encode(vae, noise[0])
        self.vit = Item("vit", patchify(vit, p), folder.grid("vit", rows, columns))
        self.latent = folder.latent(latent, 2, 1)
        names = ("in.image_vit_0", "in.image_vae_0", "in.vae_noise_0")
        self.tensors = dict(zip(names, (vit, vae, noise)))


def _cache(folder, items, key, prefix=""):
    """Lengths, next position, keys and values of a context."""
    tensors = {f"{key}.kv_lens": np.array([0]), f"{key}.ropes": np.array([0])}
    if items:
        rope = sum(len(i.data) + 2 if i.kind == "text" else 1 for i in items)
        states, layers = folder.slow.decode(items)
        tensors = {f"{key}.kv_lens": np.array([len(states)]), f"{key}.ropes": np.array([rope])}
        for layer, (_, k, v) in enumerate(layers):
            tensors[f"{key}{prefix}.k_layer{layer}"] = k
            tensors[f"{key}{prefix}.v_layer{layer}"] = v
    return tensors


def record_text(folder: Folder, slow: SlowAutoencoder) -> None:
    """textgen.safetensors: greedy text after text, and after an image shown in both ways."""
    scene = Scene(folder, slow)
    prompts = [folder.ids(4), folder.ids(6)]
    contexts = {
        "text_only": [Item("text", prompts[0])],
        "vae_vit_text": [scene.latent, scene.vit, Item("text", prompts[1])],
    }
    words = [{"op": "text", "ids": ids.tolist()} for ids in prompts]
    image = {"op": "image", "image": 0, "vae": True, "vit": True}
    cases = {"text_only": words[:1], "vae_vit_text": [image, words[1]]}
    tensors = scene.tensors | {f"in.prompt_p{i}": ids for i, ids in enumerate(prompts)}
    for case, items in contexts.items():
        tokens = [MARKERS[0]]
        for _ in range(STEPS):
            states, _ = folder.slow.decode([*items, Item("raw", np.array(tokens))])
            logits = folder.slow.logits(states[-len(tokens) :])
            tokens.append(int(logits[-1].argmax()))
        tensors |= _cache(folder, items, f"out.{case}", ".prefill")
        tensors[f"out.{case}.tokens"] = np.array(tokens[:STEPS])[:, None]
        tensors[f"out.{case}.logits"] = logits[:, None]
    folder.save("textgen", tensors, {"cases": cases})


def record_images(folder: Folder, slow: SlowAutoencoder) -> None:
    """imagegen.safetensors: a drawing and an edit under three kinds of guidance."""
    scene, f = Scene(folder, slow), folder.channels * folder.patch**2
    prompts = {"t2i": folder.ids(5), "edit": folder.ids(3)}
    said = {name: Item("text", ids) for name, ids in prompts.items()}
    seen = [scene.latent, scene.vit]
    contexts = {
        "t2i": [[said["t2i"]], [], [said["t2i"]]],
        "edit": [[*seen, said["edit"]], seen, [said["edit"]]],
    }
    pixels = folder.stride * folder.patch
    grids = {"t2i": (2, 3), "edit": (2, 2)}
    tensors = scene.tensors | {f"in.prompt_{name}": ids for name, ids in prompts.items()}
    meta = {"settings": GUIDANCE, "prompts": {n: x.tolist() for n, x in prompts.items()}}
    for task, branches in contexts.items():
        for name, items in zip(("gen", "cfg_text", "cfg_img"), branches):
            tensors |= _cache(folder, items, f"out.{task}.{name}")
        rows, columns = grids[task]
        meta[f"shape_{task}"] = [rows * pixels, columns * pixels]
        noise = folder.normal(rows * columns, f)
        tensors[f"in.init_noise_{task}"] = noise
        places = folder.grid("latent", rows, columns)
        for renorm in ("global", "channel", "text_channel"):
            found = _integrate(folder, branches, noise, places, renorm)
            for name, value in found.items():
                tensors[f"out.{task}.{renorm}.{name}"] = value
    folder.save("imagegen", tensors, meta)


def _integrate(folder, branches, x, places, renorm):
    """Euler steps of guided velocities."""
    grid = np.linspace(1, 0, GUIDANCE["num_timesteps"])
    shift = GUIDANCE["timestep_shift"]
    grid = shift * grid / (1 + (shift - 1) * grid)
    found = {"timesteps": [], "velocity": [], "x_t": [], "num_branches": []}
    for t, after in itertools.pairwise(grid):
        on = t > GUIDANCE["cfg_interval"][0]
        target = Item("latent", x, places, t)
        v, u, w = (
            folder.slow.velocity(folder.slow.decode([*items, target])[0][-len(x) - 1 : -1])
            for items in branches
        )
        scales = GUIDANCE["cfg_text_scale"] if on else 1.0, GUIDANCE["cfg_img_scale"]
        velocity = slow_guide(v, u, w, *scales, renorm, GUIDANCE["cfg_renorm_min"])
        for name, value in zip(found, (t, velocity, x, 3 if on else 1)):
            found[name].append(value)
        x = x - velocity * (t - after)
    return {name: np.array(value) for name, value in found.items()} | {"final_latent": x}
