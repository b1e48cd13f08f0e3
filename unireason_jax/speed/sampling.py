"""`unireason bench decode|image`: writing and drawing at the sizes of the official CPU baseline.

Model: width 512, 8 layers, two experts, no ViT (59.74 M parameters as the reference counts them).
decode: batch 1, a prompt of 128 tokens, then 128 greedy (or sampled) tokens; the prompt is not
        timed.
image:  256 x 256 pixels (256 latent tokens), a prompt of 32 tokens, 19 Euler steps of which 16 are
        guided at shift 3 and interval (0.4, 1]: 35 passes with text guidance 4, 51 with image
        guidance 2 as well; the prompt is timed, the autoencoder is not. With another solver,
        step cache or number of steps, the same in fewer passes.

What the official code takes for the same is in `speed.reference`.
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
from unireason_jax.inference import sampler, writing
from unireason_jax.inference.cache import Cache, Markers
from unireason_jax.inference.settings import FlowSettings
from unireason_jax.models import functional
from unireason_jax.models.config import BagelConfig, ModelConfig, variant
from unireason_jax.rules import flow
from unireason_jax.speed import reference

SIZES = ("small", "nano")  # nano: to try the benchmark itself
GUIDANCE = ("text", "text_image")
TEXTS = {"greedy": (0.0, 1.0), "sampled": (1.0, 1.0), "nucleus": (1.0, 0.9)}
"""Temperature and top_p by name."""
PROMPT, WRITTEN = 128, 128
IMAGE_PROMPT, STEPS = 32, 19


def decode(
    size: str, *, dtype: str = "float32", text: str = "greedy", batch: int = 1, repeats: int = 3
) -> dict:
    """Times the writing of a text.

    Args:
      size: "small", or "nano" (to try the benchmark itself).
      dtype: of the matmuls and the weights they read, "float32" or "bfloat16".
      text: how tokens are chosen, a name in TEXTS.
      batch: rows written together.
      repeats: timed runs, after one that compiles.

    Returns:
      Plain numbers, with tokens a second, the share of this machine's matrix rate, and the
      official code's figures (greedy text, batch 1) where there are any.

    Raises:
      ValueError: unknown size.
    """
    model, params, markers = _model(size, dtype)
    prompt = _prompt(model, params, batch, PROMPT, PROMPT + WRITTEN + 2)
    fixed = {"config": model, "markers": dataclasses.replace(markers, eos=-1)}
    fixed |= {"vocab": model.llm.vocab, "max_tokens": WRITTEN, "greedy": text == "greedy"}
    temperature, top_p = map(np.float32, TEXTS[text])

    def write() -> Any:
        cache = jax.tree.map(jnp.copy, prompt)
        ones, seeds = jnp.ones(batch, bool), jnp.zeros(batch, jnp.uint32)
        settings = np.int32(WRITTEN - 2), temperature, top_p
        return writing.write_text(params, cache, ones, seeds, *settings, **fixed)[1]

    found = measure(write, repeats)
    done = {"tokens": WRITTEN, "tokens_per_cpu_s": batch * WRITTEN / found["cpu_median_s"]}
    llm = model.llm
    useful = forward_flops(model, WRITTEN, PROMPT + WRITTEN / 2)
    useful += 2.0 * WRITTEN * llm.width * llm.vocab
    name = "decode" if text == "greedy" else f"decode_{text}"
    return result(name, None, model, size, batch, found | done, useful)


def image(
    size: str,
    *,
    dtype: str = "float32",
    guidance: str = "text",
    batch: int = 1,
    repeats: int = 3,
    **drawing: Any,
) -> dict:
    """Times a guided image from its prompt to its latents; arguments and result as `decode`.

    Args:
      size, dtype, batch, repeats: see `decode`.
      guidance: "text" or "text_image".
      **drawing: `timesteps`, `solver` and `cache` of `FlowSettings`, where they are not the
        baseline's.

    Raises:
      ValueError: unknown size, or a value that cannot be.
    """
    model, params, markers = _model(size, dtype)
    side = min(16, model.latent.side)
    places = (np.arange(side)[:, None] * model.latent.side + np.arange(side)).ravel()
    positions = jnp.asarray(np.broadcast_to(places, (batch, side * side)), jnp.int32)
    counts = jnp.full(batch, side * side, jnp.int32)
    seeds = jnp.broadcast_to(jnp.arange(batch, dtype=jnp.uint32)[:, None], positions.shape)
    noise = jax.jit(flow.token_noise, static_argnums=2)(seeds, positions, model.latent.features)
    settings = FlowSettings(**{"timesteps": STEPS + 1} | drawing)
    scales = tuple(jnp.full(batch, scale, jnp.float32) for scale in (4.0, 2.0))
    branches = 1 + len(GUIDANCE[: GUIDANCE.index(guidance) + 1])
    fixed = {"config": model, "markers": markers, "settings": settings}

    def draw() -> Any:
        full = _prompt(model, params, batch, IMAGE_PROMPT, 64)
        poorer = [caches.empty(model, batch, 64) for _ in range(branches - 1)]
        return sampler.draw_image(
            params, (full, *poorer), noise, positions, counts, scales, **fixed
        )

    found = measure(draw, repeats)
    passes = settings.forwards(branches)
    done = {"timesteps": settings.timesteps, "solver": settings.solver}
    done |= {
        "cache": drawing.get("cache", "none"),
        "passes": passes,
        "cpu_s_per_pass": found["cpu_median_s"] / passes / batch,
    }
    tokens = side * side + 2
    useful = passes * forward_flops(model, tokens, tokens + IMAGE_PROMPT)
    name = "image_faster" if drawing else "image"  # the official figures are of the baseline
    return result(name, guidance, model, size, batch, found | done, useful)


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


def measure(run: Callable[[], Any], repeats: int) -> dict:
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
    bench: str,
    guidance: str | None,
    model: BagelConfig,
    size: str,
    batch: int,
    found: dict,
    useful: float,
) -> dict:
    """What was measured, with its names, the share of the ceiling, and the official figures.

    Args:
      bench, guidance, model, size, batch: what ran.
      found: seconds of `measure` and what else was counted.
      useful: FLOP that a row needs.
    """
    out = {"bench": bench, "size": size, "dtype": model.dtype, "batch": batch}
    out |= ({"guidance": guidance} if guidance else {}) | {"backend": jax.default_backend()}
    a_row = found["cpu_median_s"] / batch
    out |= found | {"cpu_s_per_row": a_row}
    out |= reference.share_of_ceiling(useful, a_row, model.dtype)
    case = f"{size}, {guidance} guidance" if guidance else size
    return out | {"official": reference.official(bench, case, model.dtype)}


def forward_flops(model: ModelConfig, tokens: int, context: float) -> float:
    """FLOP of a forward pass of `tokens` tokens of one expert, each of which sees `context` keys.

    Heads on text or latents are left out.
    """
    llm = model.llm
    attention = llm.width * llm.head_dim * (2 * llm.heads + 2 * llm.kv_heads)
    weights = attention + 3 * llm.width * llm.mlp
    seen = 2 * context * llm.heads * llm.head_dim
    return 2.0 * tokens * llm.layers * (weights + seen)
