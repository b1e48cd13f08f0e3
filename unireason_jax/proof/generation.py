"""Text and images through the cache: contexts, logits of every step, velocities and latents."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler, writing
from unireason_jax.inference.cache import Cache
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional, vae
from unireason_jax.proof.golden import Golden, columns, patchify, read, rows, unpatchify
from unireason_jax.proof.verdicts import Report

CASES: dict[str, dict[str, Any]] = {
    "global": {"renorm": "global"},
    "channel": {"renorm": "channel"},
    "text_channel": {"renorm": "text_channel"},
    "text_only_cfg": {"image_scale": 1.0, "renorm": "global"},
    "no_cfg": {"text_scale": 1.0, "image_scale": 1.0},
    "renorm_min": {"renorm": "channel", "renorm_min": 0.7},
}


class Contexts:
    """Builds caches from the prompts and images of one recording."""

    def __init__(self, golden: Golden, file: str):
        """Reads the recording; every cache has room for its longest context."""
        self.golden = golden
        self.file = file
        self.tensors, self.meta = read(golden.folder / f"{file}.safetensors")
        longest = [int(x.max()) for n, x in self.tensors.items() if n.endswith(".kv_lens")]
        written = [len(x) for n, x in self.tensors.items() if ".tokens" in n]
        self.slots = max(longest) + max(written, default=0) + 16
        self.text_slots = max(len(x) for n, x in self.tensors.items() if "in.prompt" in n) + 2

    def empty(self, count: int = 1) -> Cache:
        """Rows that have seen nothing."""
        return caches.empty(self.golden.config, count, self.slots)

    def text(self, cache: Cache, prompts: Sequence[Sequence[int]]) -> Cache:
        """One more turn in every row."""
        markers = self.golden.markers
        ids = np.zeros((len(prompts), self.text_slots), np.int32)
        counts = np.array([len(prompt) + 2 for prompt in prompts], np.int32)
        for row, prompt in zip(ids, prompts):
            row[: len(prompt) + 2] = [markers.bos, *prompt, markers.eos]
        cache = jax.tree.map(jnp.copy, cache)
        return sampler.prefill_text(
            self.golden.params, cache, ids, counts, config=self.golden.config
        )

    def vit(self, cache: Cache, number: int) -> Cache:
        """An image for the und expert."""
        image, vit = self.tensors[f"in.image_vit_{number}"], self.golden.config.vit
        tokens = patchify(image, vit.patch)
        grid = self.golden.places(*(n // vit.patch for n in image.shape[1:]), vit.side)
        return self._image(sampler.prefill_vit, cache, tokens, grid)

    def latents(self, cache: Cache, number: int) -> Cache:
        """A clean image for the gen expert, with the recorded posterior noise."""
        names = (f"in.image_vae_{number}", f"in.vae_noise_{number}")
        image, noise = (self.tensors[name] for name in names)
        latent = self.golden.latent(image[None], noise)[0]
        size = self.golden.config.latent
        grid = self.golden.places(*(n // size.patch for n in latent.shape[1:]), size.side)
        return self._image(sampler.prefill_latents, cache, patchify(latent, size.patch), grid)

    def _image(self, prefill: Any, cache: Cache, tokens: np.ndarray, grid: np.ndarray) -> Cache:
        """A prefill of one row."""
        arrays = tokens[None], grid[None], np.array([len(grid)], np.int32)
        fixed = {"config": self.golden.config, "markers": self.golden.markers}
        cache = jax.tree.map(jnp.copy, cache)
        return prefill(self.golden.params, cache, *arrays, **fixed)[0]

    def compare(self, report: Report, key: str, cache: Cache) -> None:
        """Lengths, next rotary positions, keys and values of every layer."""
        t = self.tensors
        if f"{key}.kv_lens" not in t or not report.wants(self.file, f"{key}.kv_lens"):
            return
        lengths = np.asarray(cache.lengths)
        report.add(self.file, f"{key}.kv_lens", lengths, t[f"{key}.kv_lens"])
        report.add(self.file, f"{key}.ropes", np.asarray(cache.positions), t[f"{key}.ropes"])
        for layer in range(self.golden.config.llm.layers):
            for side in ("k", "v"):
                name = next(
                    (n for n in (f"{key}.{side}_layer{layer}", f"{key}.prefill.{side}_layer{layer}")
                     if n in t), None
                )  # fmt: skip
                if name:
                    stored = np.asarray(getattr(cache, side)[layer], np.float32).swapaxes(1, 2)
                    found = [row[:n] for row, n in zip(stored, lengths)]
                    report.add(self.file, name, np.concatenate(found), t[name])


def compare_text(golden: Golden, report: Report) -> None:
    """Prefilled caches, logits along the recorded tokens, and greedy tokens."""
    made = Contexts(golden, "textgen")
    for case, operations in made.meta["cases"].items():
        cache = made.empty()
        for operation in operations:
            if operation["op"] == "text":
                cache = made.text(cache, [operation["ids"]])
                continue
            if operation["vae"]:
                cache = made.latents(cache, operation["image"])
            if operation["vit"]:
                cache = made.vit(cache, operation["image"])
        _follow(made, report, f"out.{case}", cache)
        if case == "text_only":
            _stop(made, report, cache)
    if "batch2" in made.meta and report.wants("textgen", "out.batch2.logits"):
        cache = made.text(made.empty(len(made.meta["batch2"])), made.meta["batch2"])
        _follow(made, report, "out.batch2", cache)
    report.exclude(
        "textgen", "out.*.prepare.*, out.*.start.*", "indices of the official packed layout"
    )
    report.exclude(
        "textgen",
        "out.stop_*.tokens_logits_last, out.stop_unireason.tokens*",
        "UniReason's look-ahead attends to a zero key; the correct logits are compared",
    )
    report.exclude("textgen", "out.stop_*.*_id, out.stop_*.*_used", "what the replay is told")


def _follow(made: Contexts, report: Report, key: str, cache: Cache) -> None:
    """Logits after each recorded token, then the tokens that greedy decoding writes."""
    made.compare(report, key, cache)
    tokens = made.tensors[f"{key}.tokens"]
    logits = _logits(made.golden, cache, tokens)
    report.add("textgen", f"{key}.logits", logits, made.tensors[f"{key}.logits"])
    if report.envelope is not None:
        recorded = made.tensors[f"{key}.logits"][0]
        report.add("textgen", f"{key.removeprefix('out.')}.first_logits", logits[0], recorded)
        return
    written, _ = _greedy(made.golden, cache, eos=-1, limit=len(tokens) - 1)
    report.add("textgen", f"{key}.tokens", np.stack(written, axis=1), tokens[1:])


def _stop(made: Contexts, report: Report, cache: Cache) -> None:
    """Text that ends at a given token, and what is predicted after it."""
    t = made.tensors
    if "out.stop_bagel.tokens" not in t or report.envelope is not None:
        return
    eos = int(t["out.stop_bagel.end_token_id"])
    before = t["out.stop_bagel.tokens"]
    written, _ = _greedy(made.golden, cache, eos=eos, limit=len(before) + 8)
    report.add("textgen", "out.stop_bagel.tokens", written[0], before[1:, 0])
    after = "out.stop_unireason.post_eos_logits_if_computed_correctly"
    tokens = t["out.stop_unireason.tokens"]
    report.add("textgen", after, _logits(made.golden, cache, tokens)[-1], t[after])


def _logits(golden: Golden, cache: Cache, tokens: np.ndarray) -> np.ndarray:
    """What is predicted after each token [steps, B], one by one through the cache."""

    @jax.jit
    def follow(params: Any, cache: Cache, tokens: jax.Array) -> jax.Array:
        model = functional.bind(golden.config, params)

        def step(cache: Cache, token: jax.Array) -> tuple[Cache, jax.Array]:
            ones = jnp.ones(token.shape, jnp.int32)
            cache, hidden = caches.append_text(model, cache, token[:, None], ones)
            return cache, model.logits(hidden[:, 0])

        return jax.lax.scan(step, cache, tokens)[1]

    return np.asarray(follow(golden.params, cache, jnp.asarray(tokens, jnp.int32)))


def _greedy(
    golden: Golden, cache: Cache, *, eos: int, limit: int
) -> tuple[list[np.ndarray], writing.Drawn]:
    """Tokens between bos and `eos` of every row, most likely first."""
    rows_ = cache.rows
    _, drawn = writing.write_text(
        golden.params,
        jax.tree.map(jnp.copy, cache),
        jnp.ones(rows_, bool),
        jnp.zeros(rows_, jnp.uint32),
        jnp.int32(limit),
        jnp.float32(0),
        jnp.float32(1),
        config=golden.config,
        markers=dataclasses.replace(golden.markers, eos=eos, soi=-1),  # written, not obeyed
        vocab=golden.config.llm.vocab,
        max_tokens=limit + 1,
        greedy=True,
    )
    return [np.asarray(drawn.ids[i, : drawn.counts[i]]) for i in range(rows_)], drawn


def compare_images(golden: Golden, report: Report) -> None:
    """Every recorded guidance and renormalisation: velocities of all steps and the result."""
    made = Contexts(golden, "imagegen")
    prompts = made.meta["prompts"]
    text = made.text(made.empty(), [prompts["t2i"]])
    seen = made.vit(made.latents(made.empty(), 0), 0)
    edit = made.text(seen, [prompts["edit"]])
    alone = made.text(made.empty(), [prompts["edit"]])
    tasks = {"t2i": [text, made.empty(), text], "edit": [edit, seen, alone]}
    for task, branches in tasks.items():
        for branch, cache in zip(("gen", "cfg_text", "cfg_img"), branches):
            made.compare(report, f"out.{task}.{branch}", cache)
        for case, changes in CASES.items():
            name = f"out.{task}.{case}.final_latent"
            if name in made.tensors and report.wants("imagegen", name):
                sizes = [made.meta[f"shape_{task}"]]
                _draw(made, report, f"{task}.{case}", branches, sizes, changes)
    if report.envelope is None:
        _without_image_guidance(made, report)
    report.exclude("imagegen", "out.*.prepare*", "indices of the official packed layout")


def _without_image_guidance(made: Contexts, report: Report) -> None:
    """A plan in the context, with either of two poorer contexts; and two prompts in one batch."""
    prompts, off = made.meta["prompts"], {"image_scale": 1.0}
    if "out.think.cfgtext_cache_none.final_latent" in made.tensors:
        system = made.text(made.empty(), [prompts["sys"]])
        thought, sizes = made.text(system, [prompts["t2i"]]), [made.meta["shape_t2i"]]
        for name, without in (("none", made.empty()), ("sys", system)):
            key = f"think.cfgtext_cache_{name}"
            _draw(made, report, key, [thought, without], sizes, off, noise="t2i")
    if "out.batch2.channel_text_only.final_latent_0" in made.tensors:
        full = made.text(made.empty(2), [prompts["b0"], prompts["b1"]])
        sizes, branches = made.meta["shapes_batch2"], [full, made.empty(2)]
        for branch, cache in zip(("gen", "cfg_text", "cfg_img"), [*branches, made.empty(2)]):
            made.compare(report, f"out.batch2.{branch}", cache)
        changes = off | {"renorm": "channel"}
        _draw(made, report, "batch2.channel_text_only", branches, sizes, changes)


def _draw(
    made: Contexts,
    report: Report,
    key: str,
    branches: list[Cache],
    sizes: Sequence[Sequence[int]],
    changes: dict[str, Any],
    noise: str | None = None,
) -> None:
    """One guided integration, of as many images as there are sizes (height, width in pixels)."""
    golden, t, s = made.golden, made.tensors, made.meta["settings"]
    base = {
        "timesteps": s["num_timesteps"],
        "shift": s["timestep_shift"],
        "text_scale": s["cfg_text_scale"],
        "image_scale": s["cfg_img_scale"],
        "interval": tuple(s["cfg_interval"]),
        "renorm_min": s["cfg_renorm_min"],
    }
    settings = FlowSettings(**(base | changes))
    count = 1 + (settings.text_scale > 1) + (settings.text_scale > 1 and settings.image_scale > 1)
    branches = branches[:count]
    pixels = golden.autoencoder[0].stride * golden.config.latent.patch
    grids = [(height // pixels, width // pixels) for height, width in sizes]
    counts = np.array([a * b for a, b in grids], np.int32)
    live = np.arange(counts.max()) < counts[:, None]
    grid = np.zeros(live.shape, np.int32)
    start = t[f"in.init_noise_{noise or key.split('.')[0]}"]
    x1 = np.zeros((*live.shape, start.shape[-1]), np.float32)
    x1[live] = start
    grid[live] = np.concatenate([golden.places(*g, golden.config.latent.side) for g in grids])
    scales = tuple(jnp.full(len(sizes), x) for x in (settings.text_scale, settings.image_scale))
    fixed = {"config": golden.config, "markers": golden.markers, "settings": settings}
    arrays = x1, grid, counts, scales
    latents, velocities = _integrate(golden.params, tuple(branches), *arrays, **fixed)
    found = np.asarray(velocities)[:, live]
    report.add("imagegen", f"out.{key}.timesteps", settings.times()[:-1], t[f"out.{key}.timesteps"])
    used = [len(branches) if on else 1 for a, b, on in settings.segments() for _ in range(a, b)]
    report.add("imagegen", f"out.{key}.num_branches", used, t[f"out.{key}.num_branches"])
    report.add("imagegen", f"out.{key}.velocity", found, t[f"out.{key}.velocity"])
    steps = np.diff(settings.times())[:, None, None]
    states = x1[live] + np.concatenate([0 * found[:1], np.cumsum(found * steps, axis=0)[:-1]])
    report.add("imagegen", f"out.{key}.x_t", states, t[f"out.{key}.x_t"])
    final = [np.asarray(latents)[i, :n] for i, n in enumerate(counts)]
    for i, tokens in enumerate(final):
        name = f"out.{key}.final_latent" + (f"_{i}" if len(sizes) > 1 else "")
        report.add("imagegen", name, tokens, t[name])
    if report.envelope is not None:
        recorded = t[f"out.{key}.velocity"][0]
        report.add("imagegen", f"{key}.velocity[0]", found[0], recorded)
    elif f"out.{key}.v_cond" in t:
        _raw_branches(made, report, key, branches, settings, grid, counts)
        _picture(made, report, key, final[0], sizes[0])


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings"))
def _integrate(
    params: Any, *arrays: Any, config: Any, markers: Any, settings: FlowSettings
) -> tuple[jax.Array, jax.Array]:
    """Final latents and the velocities of all steps."""
    model = functional.bind(config, params)
    return sampler.integrate(model, *arrays, markers=markers, settings=settings)[:2]


def _raw_branches(
    made: Contexts,
    report: Report,
    key: str,
    branches: list[Cache],
    settings: FlowSettings,
    grid: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Each branch's own velocity at the recorded states, before guidance."""
    golden, t = made.golden, made.tensors

    @jax.jit
    def velocities(params: Any, cache: Cache, states: jax.Array, times: jax.Array) -> jax.Array:
        model = functional.bind(golden.config, params)

        def step(_: None, pair: Any) -> tuple[None, jax.Array]:
            x, time = pair
            arrays = x[None], time[None], grid, counts
            return None, caches.read_noised(model, cache, *arrays, golden.markers)[0]

        return jax.lax.scan(step, None, (states, times))[1]

    for name, cache in zip(("v_cond", "v_cfg_text", "v_cfg_img"), branches):
        wanted = t[f"out.{key}.{name}"]
        steps = len(wanted)  # guided steps come first: the interval ends at t = 1
        times = settings.times()[:steps]
        found = velocities(golden.params, cache, t[f"out.{key}.x_t"][:steps], times)
        report.add("imagegen", f"out.{key}.{name}", found, wanted)


def _picture(
    made: Contexts, report: Report, key: str, tokens: np.ndarray, size: Sequence[int]
) -> None:
    """The latent's layout, the decoded picture and its bytes."""
    golden, t = made.golden, made.tensors
    config, params = golden.autoencoder
    height, width = (side // config.stride for side in size)
    latent = unpatchify(tokens, golden.config.latent.patch, height, width)[None]
    report.add("imagegen", f"out.{key}.vae_latent", latent, t[f"out.{key}.vae_latent"])
    decode = jax.jit(vae.decode, static_argnums=1)
    pixels = columns(decode(params, config, rows(latent)))
    report.add("imagegen", f"out.{key}.decoded", pixels, t[f"out.{key}.decoded"])
    name = f"out.{key}.decoded_uint8"
    recorded = t[name].astype(np.float32)
    found = vae.to_uint8(pixels[0].transpose(1, 2, 0))
    report.add("imagegen", name, found, recorded, limit=1e-3, label=f"{name} (truncated)")
