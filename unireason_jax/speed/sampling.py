"""`unireason bench decode|image`: writing and drawing at the sizes of the official CPU baseline.

Model: width 512, 8 layers, two experts, no ViT (59.74 M parameters as the reference counts them).
decode: batch 1, a prompt of 128 tokens, then 128 greedy tokens; the prompt is not timed.
image:  256 x 256 pixels (256 latent tokens), a prompt of 32 tokens, 19 Euler steps of which 16 are
        guided at shift 3 and interval (0.4, 1]: 35 passes with text guidance 4, 51 with image
        guidance 2 as well; the prompt is timed, the autoencoder is not.

`OFFICIAL` holds what BAGEL's PyTorch code takes for the same on two cores of an AVX-512 CPU
(medians, seconds). CPU-seconds are comparable between quiet and busy machines, wall seconds not.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.inference.cache import Cache, Markers
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional
from unireason_jax.models.config import BagelConfig, variant
from unireason_jax.rules import flow

SIZES = ("small", "nano")  # nano: to try the benchmark itself
GUIDANCE = ("text", "text_image")
PROMPT, WRITTEN = 128, 128
IMAGE_PROMPT, STEPS = 32, 19

# (bench, guidance, dtype) -> CPU-seconds with 2 threads and with 1, wall seconds minimum, median
OFFICIAL = {
    ("decode", None, "float32"): (1.81, 1.54, 1.47, 2.52),
    ("decode", None, "bfloat16"): (1.57, 1.28, 1.38, 2.17),
    ("image", "text", "float32"): (7.04, 6.32, 6.38, 9.96),
    ("image", "text_image", "float32"): (10.11, 9.38, 9.35, 14.60),
    ("image", "text", "bfloat16"): (2.92, 2.58, 2.78, 4.13),
    ("image", "text_image", "bfloat16"): (4.31, 3.90, 3.98, 6.08),
}


def decode(size: str, *, dtype: str = "float32", batch: int = 1, repeats: int = 3) -> dict:
    """Times greedy decoding.

    Args:
      size: "small", or "nano" (to try the benchmark itself).
      dtype: of the matmuls and the weights they read, "float32" or "bfloat16".
      batch: rows written together.
      repeats: timed runs, after one that compiles.

    Returns:
      Plain numbers, with tokens a second and the ratio to the official figures where there are
      any (ours / official for batch 1, so 0.5 is twice as fast).

    Raises:
      ValueError: unknown size.
    """
    model, params, markers = _model(size, dtype)
    prompt = _prompt(model, params, batch, PROMPT, PROMPT + WRITTEN + 2)
    fixed = {"config": model, "markers": dataclasses.replace(markers, eos=-1)}
    fixed |= {"vocab": model.llm.vocab, "max_tokens": WRITTEN, "greedy": True}

    def write() -> Any:
        cache = jax.tree.map(jnp.copy, prompt)
        ones, seeds = jnp.ones(batch, bool), jnp.zeros(batch, jnp.uint32)
        settings = np.int32(WRITTEN - 2), np.float32(0), np.float32(1)
        return sampler.write_text(params, cache, ones, seeds, *settings, **fixed)[1]

    found = _measure(write, repeats)
    done = {"tokens": WRITTEN, "tokens_per_cpu_s": batch * WRITTEN / found["cpu_median_s"]}
    return result("decode", None, size, dtype, batch, found | done)


def image(
    size: str,
    *,
    dtype: str = "float32",
    guidance: str = "text",
    batch: int = 1,
    repeats: int = 3,
) -> dict:
    """Times a guided image from its prompt to its latents; arguments and result as `decode`.

    Args:
      size, dtype, batch, repeats: see `decode`.
      guidance: "text" or "text_image".
    """
    model, params, markers = _model(size, dtype)
    side = min(16, model.latent.side)
    places = (np.arange(side)[:, None] * model.latent.side + np.arange(side)).ravel()
    positions = jnp.asarray(np.broadcast_to(places, (batch, side * side)), jnp.int32)
    counts = jnp.full(batch, side * side, jnp.int32)
    seeds = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.uint32)[:, None], positions.shape)
    noise = jax.jit(flow.token_noise, static_argnums=2)(seeds, positions, model.latent.features)
    settings = FlowSettings(timesteps=STEPS + 1)
    scales = tuple(jnp.full(batch, scale, jnp.float32) for scale in (4.0, 2.0))
    branches = 1 + len(GUIDANCE[: GUIDANCE.index(guidance) + 1])
    fixed = {"config": model, "markers": markers, "settings": settings}

    def draw() -> Any:
        full = _prompt(model, params, batch, IMAGE_PROMPT, 64)
        poorer = [caches.empty(model, batch, 64) for _ in range(branches - 1)]
        return sampler.draw_image(
            params, (full, *poorer), noise, positions, counts, scales, **fixed
        )

    found = _measure(draw, repeats)
    passes = settings.forwards(branches)
    done = {"passes": passes, "cpu_s_per_pass": found["cpu_median_s"] / passes / batch}
    return result("image", guidance, size, dtype, batch, found | done)


def _model(size: str, dtype: str) -> tuple[BagelConfig, Any, Markers]:
    """A model of a benchmark size without ViT, random weights in `dtype`, and control ids."""
    if size not in SIZES:
        raise ValueError(f"no benchmark size {size!r}; use one of {', '.join(SIZES)}")
    model = variant(size, vit=None, dtype=dtype)
    params = jax.jit(functional.init, static_argnums=0)(model, jax.random.key(0))
    model, params = functional.for_sampling(model, params)
    vocab = model.llm.vocab
    return model, params, Markers(bos=vocab - 4, eos=vocab - 3, soi=vocab - 2, eoi=vocab - 1)


def _prompt(model: BagelConfig, params: Any, batch: int, tokens: int, slots: int) -> Cache:
    """A cache of `batch` rows that have read `tokens` random tokens."""
    ids = np.random.default_rng(0).integers(0, model.llm.vocab - 4, (batch, tokens))
    counts = jnp.full(batch, tokens, jnp.int32)
    cache = caches.empty(model, batch, slots)
    return sampler.prefill_text(params, cache, jnp.asarray(ids, jnp.int32), counts, config=model)


def _measure(run: Callable[[], Any], repeats: int) -> dict:
    """Seconds of the first call (which compiles) and of the others."""
    walls, cpus = [], []
    for _ in range(1 + repeats):
        start, start_cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(run())
        walls.append(time.perf_counter() - start)
        cpus.append(time.process_time() - start_cpu)
    return {
        "wall_min_s": min(walls[1:]),
        "wall_median_s": statistics.median(walls[1:]),
        "cpu_min_s": min(cpus[1:]),
        "cpu_median_s": statistics.median(cpus[1:]),
        "compile_s": walls[0] - min(walls[1:]),
        "compile_cpu_s": cpus[0] - min(cpus[1:]),
    }


def result(
    bench: str, guidance: str | None, size: str, dtype: str, batch: int, found: dict
) -> dict:
    """What was measured, with its names, and the official figures where there are any."""
    out = {"bench": bench, "size": size, "dtype": dtype, "batch": batch}
    out |= ({"guidance": guidance} if guidance else {}) | {"backend": jax.default_backend()}
    out |= found | {"cpu_s_per_row": found["cpu_median_s"] / batch}
    key = (bench, guidance, dtype)
    if size != "small" or key not in OFFICIAL or jax.default_backend() != "cpu":
        return out
    cpu, cpu_one_thread, wall_min, wall_median = OFFICIAL[key]
    return out | {
        "official_cpu_s": cpu,
        "official_cpu_one_thread_s": cpu_one_thread,
        "official_wall_min_s": wall_min,
        "official_wall_median_s": wall_median,
        "cpu_ratio": out["cpu_s_per_row"] / cpu,
    }
