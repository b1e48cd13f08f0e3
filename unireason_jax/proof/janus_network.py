"""The recorded tower, VQ model, conversations and drawings of Janus-Pro."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.inference import cache as caches
from unireason_jax.inference.code_drawing import Step, drawing
from unireason_jax.models.janus import vq
from unireason_jax.models.janus.model import Janus
from unireason_jax.models.layers import rotary
from unireason_jax.proof.golden import columns, rows
from unireason_jax.proof.janus import FORWARD, LOOSE, JanusGolden
from unireason_jax.proof.verdicts import Report
from unireason_jax.rules.visibility import PADDING, Visibility


def compare_tower(golden: JanusGolden, report: Report) -> None:
    """Every layer of the vision tower and of the aligner, branch by branch."""
    recorded, meta = golden.file("vision")
    report.check("vision", "layers_built", golden.config.vit.layers == meta["layers_built"])
    patches, places, images = golden.patches(recorded["in.pixel_values"])

    def run(params: Any) -> dict[str, jax.Array]:
        model = golden.model(params)
        tower, found = model.vit, {"patch_embed": model.vit.patch(patches, "float32")}
        x = found["embeddings"] = tower.embed(patches, places)
        for i in range(golden.config.vit.layers):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], tower.blocks)
            found[f"block_{i}.attn"] = block.attended(x, images)
            found[f"block_{i}.mlp"] = block.mlp(x + found[f"block_{i}.attn"])
            x = found[f"block_{i}"] = block(x, images)
        x = found["vision_features"] = tower(patches, places, images)
        x = found["aligner.layers_0"] = model.aligner.into(x, "float32")
        x = found["aligner.layers_1"] = jax.nn.gelu(x, approximate=False)
        found["aligner.layers_2"] = model.aligner.out(x, "float32")
        return found | {"aligned": model.embed_vit(patches, places, images)}

    for name, value in jax.jit(run)(golden.params).items():
        report.add("vision", f"out.{name}", value, recorded[f"out.{name}"], limit=FORWARD)


def compare_vq(golden: JanusGolden, report: Report) -> None:
    """Encoder, codebook and decoder of the VQ model, and codes as tokens."""
    t, _ = golden.file("vq")
    config, taps = golden.tokenizer_config, {}

    def encoded(params: vq.Params) -> Any:
        inner: dict[str, jax.Array] = {}
        return vq.encode(params, config, rows(t["in.pixels"]), inner), inner

    def decoded(params: vq.Params, given: jax.Array) -> Any:
        inner: dict[str, jax.Array] = {}
        return vq.decode(params, config, given, inner), inner

    found, taps = jax.jit(encoded)(golden.vq)
    through = found.unit + (found.rows - found.unit)
    image, inner = jax.jit(decoded)(golden.vq, through)
    taps |= inner
    codebook, commitment = vq.losses(found)
    entries = vq.rows_of(golden.vq, t["in.codes"].reshape(found.codes.shape))
    drawn = jax.jit(decoded)(golden.vq, entries)[0]
    maps = {
        "prequant": found.latents,
        "prequant_unit": found.unit,
        "quantized": through,
        "reconstruction": image,
        "codebook_entries": entries,
        "decoded_codes": drawn,
        "enc_z_channels": taps["enc_z_channels"],
        "post_quant_conv": taps["post_quant_conv"],
    }
    for name, value in maps.items():
        report.add("vq", f"out.{name}", columns(value), t[f"out.{name}"], limit=LOOSE)
    for name in sorted(key.removeprefix("out.") for key in t if "_image0" in key):
        tap, _, channels = name.partition("_image0")
        value = columns(taps[tap])[:1]
        if channels:
            value = value[:, : int(channels.rpartition("to")[2]) + 1]
        report.add("vq", f"out.{name}", value, t[f"out.{name}"], limit=LOOSE)
    codes = np.asarray(found.codes).reshape(len(image), -1)
    report.add("vq", "out.indices", codes, t["out.indices"])
    pixels = vq.to_pixels(np.asarray(drawn))
    report.add("vq", "out.decoded_codes_uint8", pixels, t["out.decoded_codes_uint8"], level=1)
    embedded = golden.model().embed_codes(jnp.asarray(t["in.codes"], jnp.int32))
    report.add("vq", "out.gen_img_embeds", embedded, t["out.gen_img_embeds"], limit=LOOSE)
    for name, value in {"vq": codebook, "commit": commitment, "entropy": 0.0}.items():
        name = f"out.train_{name}_loss"
        report.add("vq", name, np.reshape(value, (1,)), t[name], limit=LOOSE)


def inputs_of(
    golden: JanusGolden, model: Janus, ids: np.ndarray, shown: np.ndarray, pixels: np.ndarray
) -> jax.Array:
    """Embedded rows: words, with the features of pictures at their marks.

    Args:
      golden: the model.
      model: bound, or bound to other parameters.
      ids: [B, T].
      shown: [B, T] bool, the marks.
      pixels: [N, 3, S, S], the pictures in the order of their marks.
    """
    x = model.embed_text(jnp.asarray(ids, jnp.int32))
    if not len(pixels):
        return x
    features = model.embed_vit(*golden.patches(pixels)).reshape(-1, x.shape[-1])
    place = np.clip(np.cumsum(shown).reshape(shown.shape) - 1, 0, None)
    return jnp.where(shown[..., None], features[place], x)


def causal(mask: np.ndarray) -> Visibility:
    """Who sees whom in left-padded rows [B, T]: every token those before it, pads nobody."""
    order = np.where(mask > 0, np.cumsum(mask, axis=1) - 1, PADDING).astype(np.int32)
    lo = np.where(mask > 0, 0, PADDING).astype(np.int32)
    return Visibility(*map(jnp.asarray, (order, lo, order, np.full_like(order, -1))))


def layers_of(golden: JanusGolden, model: Janus, x: jax.Array, mask: np.ndarray) -> list[jax.Array]:
    """The residual stream after every layer, then after the final norm."""
    positions = jnp.asarray(np.maximum(np.cumsum(mask, axis=1) - 1, 0), jnp.int32)
    llm, seen, found = golden.config.llm, causal(mask), []
    turn = rotary(positions, llm.head_dim, llm.rope_theta)
    for i in range(llm.layers):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], model.stack.blocks)
        fixed = {"turn": turn, "visibility": seen, "past": None, "detach_und": False}
        x = block(x, x[:, :0], **fixed)[0]
        found.append(x)
    return [*found, model.stack.und_norm(x)]


def compare_conversations(golden: JanusGolden, report: Report) -> None:
    """Embedded prompts, hidden states and logits of one row, two pictures and a batch; answers."""
    t, _ = golden.file("understanding")
    pictures = {run: _pictures(t, run) for run in ("one", "two")}
    pictures["batch"] = np.concatenate([pictures["one"], pictures["two"]])
    for run, pixels in pictures.items():
        get = {name: t[f"in.{run}.{name}"] for name in ("input_ids", "attention_mask")}
        mask, shown = get["attention_mask"], t[f"in.{run}.images_seq_mask"]
        ids = np.maximum(get["input_ids"], 0)

        def forward(params: Any, given: Any = (ids, shown, pixels, mask)) -> dict[str, Any]:
            model = golden.model(params)
            x = inputs_of(golden, model, *given[:3])
            *between, last = layers_of(golden, model, x, given[3])
            names = {f"hidden_after_layer_{i}": value for i, value in enumerate(between)}
            logits = model.logits(last)
            return names | {"inputs_embeds": x, "hidden_final": last, "logits": logits}

        found = jax.jit(forward)(golden.params)
        for name, value in found.items():
            if f"out.{run}.{name}" in t:
                if run == "batch":
                    value = value * mask[..., None]
                key = f"out.{run}.{name}"
                report.add("understanding", key, value, t[key], limit=FORWARD)
        if report.wants("understanding", f"out.{run}.generated"):
            count = t[f"out.{run}.generated"].shape[1]
            written = _written(golden, found["inputs_embeds"], mask, count)
            for name, value in written.items():
                key = f"out.{run}.{name}"
                report.add("understanding", key, value, t[key], limit=FORWARD)


def _pictures(t: dict[str, np.ndarray], run: str) -> np.ndarray:
    """The pictures of a run that are there, in the order of their marks."""
    present = t[f"in.{run}.images_emb_mask"].any(-1)
    return t[f"in.{run}.pixel_values"][present]


def _written(
    golden: JanusGolden, x: jax.Array, mask: np.ndarray, count: int
) -> dict[str, np.ndarray]:
    """What the model writes after left-padded rows: the likeliest tokens, and their logits."""
    lengths = mask.sum(1)
    order = np.argsort(-mask, axis=1, kind="stable")  # to the left, as a cache is filled
    cache = caches.empty(golden.config, len(x), x.shape[1] + count)
    stop = golden.tokenizer.eos

    @jax.jit
    def write(params: Any) -> tuple[jax.Array, jax.Array]:
        model = golden.model(params)
        left = jnp.take_along_axis(x, order[..., None], axis=1)
        filled, hidden = caches.append_causal(model, cache, left, jnp.asarray(lengths))
        last = jnp.take_along_axis(hidden, lengths[:, None, None] - 1, axis=1)[:, 0]

        def step(state: Any, _: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            filled, hidden, ended = state
            logits = model.logits(hidden)
            token = jnp.where(ended, stop, jnp.argmax(logits, axis=-1).astype(jnp.int32))
            ended = ended | (token == stop)
            one = jnp.ones(len(token), jnp.int32)
            filled, after = caches.append_text(model, filled, token[:, None], one)
            return (filled, after[:, 0], ended), (token, logits)

        start = (filled, last, jnp.zeros(len(x), bool))
        _, out = jax.lax.scan(step, start, None, length=count)
        return out

    tokens, logits = write(golden.params)
    return {
        "generated": np.asarray(tokens).T,
        "generated_logits": np.asarray(logits).transpose(1, 0, 2),
    }


def compare_drawings(golden: JanusGolden, report: Report) -> None:
    """The official loop: hidden states, logits with and without the prompt, codes and pictures."""
    t, meta = golden.file("t2i")
    ids, codes = t["in.prompt_ids"], golden.config.codes
    prompt = golden.tokenizer.encode_prompt(meta["prompt"])
    report.check("t2i", "in.prompt_ids", prompt == ids.tolist())
    blank = np.array([ids[0], *[golden.tokenizer.pad] * (len(ids) - 2), ids[-1]])
    for run, setting in meta.items():
        if not isinstance(setting, dict):
            continue
        count, steps = t[f"out.{run}.tokens"].shape
        noise = t.get(f"in.{run}.gumbel", np.zeros((steps, count, codes.size), np.float32))
        greedy = f"in.{run}.gumbel" not in t
        heat = 0.0 if greedy else setting["temperature"]
        both = np.repeat(np.stack([ids, blank]), count, axis=0)
        scale = setting["cfg_weight"]

        def draw(params: Any, given: Any = (both, noise, scale, heat)) -> tuple[jax.Array, Step]:
            both, noise, scale, heat = given
            model, prompts = golden.model(params), jnp.asarray(both, jnp.int32)
            cache = caches.empty(golden.config, len(both), both.shape[1] + len(noise))
            every = jnp.full(len(both), both.shape[1] - 1, jnp.int32)
            cache, _ = caches.append_text(model, cache, prompts[:, :-1], every)
            fixed = (jnp.float32(scale), jnp.float32(heat))
            made = drawing(model, cache, prompts[0, -1], jnp.asarray(noise), *fixed)[1]
            return model.embed_text(prompts), made

        embedded, made = jax.jit(draw)(golden.params)
        pairs = np.arange(2 * count).reshape(2, count).T.reshape(-1)  # conditional, without, ...
        tokens = np.asarray(made.code).T
        side = codes.side
        rows_of = vq.rows_of(golden.vq, tokens.reshape(count, side, side))
        pixels = jax.jit(vq.decode, static_argnums=1)(golden.vq, golden.tokenizer_config, rows_of)
        found = {
            "prompt_embeds": embedded[pairs],
            "hidden_last": made.hidden[:, pairs],
            "logits_cond": made.logits[:, :count],
            "logits_uncond": made.logits[:, count:],
            "logits_guided": made.guided,
            "tokens": tokens,
            "pixels": columns(pixels),
            "uint8": vq.to_pixels(np.asarray(pixels)),
        }
        if f"out.{run}.teacher_forced_logits" in t:
            found["teacher_forced_logits"] = _forced(golden, both[::count], tokens[0])
        for name, value in found.items():
            key = f"out.{run}.{name}"
            if key in t:
                limit = LOOSE if name == "pixels" else FORWARD
                level = 1 if name == "uint8" else 0
                report.add("t2i", key, value, t[key], limit=limit, level=level)


def _forced(golden: JanusGolden, both: np.ndarray, tokens: np.ndarray) -> jax.Array:
    """Code logits [2, N, codes] of one pass over the two prompts and all codes but the last."""

    @jax.jit
    def run(params: Any) -> jax.Array:
        model = golden.model(params)
        fed = jnp.broadcast_to(jnp.asarray(tokens[:-1], jnp.int32), (2, len(tokens) - 1))
        words = model.embed_text(jnp.asarray(both, jnp.int32))
        x = jnp.concatenate([words, model.embed_codes(fed)], axis=1)
        hidden = layers_of(golden, model, x, np.ones(x.shape[:2], np.int64))[-1]
        return model.code_logits(hidden[:, both.shape[1] - 1 :])

    return run(golden.params)
