"""`unireason bench train`: one training step at the sizes of the official code's CPU baseline.

The batch is 2 samples of 1024 tokens. Sample: a causal text split that is supervised, and a
noised picture of 512 latent tokens with its two markers; with a ViT, half of the text makes room
for a picture of 256 patches. Model: width 512, 8 layers, two experts, 59.74 M parameters without
ViT. AdamW at 1e-4, betas 0.9 and 0.95, eps 1e-15. (The reference
counts its fixed table of latent positions, 0.52 M, as parameters; here it is computed.)

What the official code takes for the same step is in `speed.reference`.
"""

import functools
import math
import statistics
import time
from types import SimpleNamespace

import jax
import numpy as np

from unireason_jax.data import samples
from unireason_jax.data.rows import Budgets, assemble, stack
from unireason_jax.models import functional
from unireason_jax.models.config import BagelConfig, variant
from unireason_jax.speed import reference
from unireason_jax.training import objective
from unireason_jax.training.metrics import batch_counts, train_flops
from unireason_jax.training.optim import OptimConfig, make_optimizer
from unireason_jax.training.state import new_state

ROWS = 2
SIZES = ("small", "small_vit", "nano")  # nano: to try the benchmark itself


def model_of(size: str, dtype: str, full: bool) -> BagelConfig:
    """The model of a benchmark size; `full` recomputes every layer, as the official loop does."""
    policy = {"dtype": dtype, "remat": "full" if full else "none"}
    if size == "small_vit":
        return variant("small", **policy)
    return variant(size, vit=None, **policy)


def make_batch(model: BagelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Two rows with one sample each, random ids, patches and latents; see the module's text."""
    rng = np.random.default_rng(seed)
    vocab, side = model.llm.vocab, model.latent.side
    controls = SimpleNamespace(bos=vocab - 4, eos=vocab - 3, soi=vocab - 2, eoi=vocab - 1)
    places = (np.arange(side // 2)[:, None] * side + np.arange(side)).ravel().astype(np.int32)
    patch = 3 * model.vit.patch**2 if model.vit else 0
    widths, rows = (patch, model.latent.features), []
    patches = len(places) // 2 if model.vit else 0
    budgets = Budgets(len(places) - patches, patches, len(places))
    words = budgets.text - 4 - 2 * bool(patches)  # bos, eos and the markers of the pictures
    edge = math.isqrt(patches)
    for row in range(ROWS):
        build = samples.Builder(controls, widths)
        ids = rng.integers(0, vocab - 4, words).tolist()
        build.text([controls.bos, *ids, controls.eos], 1.0, "none")
        if patches:
            pixels = rng.uniform(-1, 1, (patches, patch)).astype(np.float32)
            grid = np.arange(edge)[:, None] * model.vit.side + np.arange(edge)
            build.vit(pixels, grid.ravel().astype(np.int32), "none")
        latents = rng.standard_normal((len(places), widths[1]), np.float32)
        build.target(latents, places, "none", weight=1.0, logit=float(rng.normal()), seed=row)
        rows.append(assemble([build.finish(f"row {row}")], budgets, widths))
    return stack(rows)


def run(
    size: str, *, dtype: str = "float32", full: bool = False, steps: int = 20, warmup: int = 2
) -> dict:
    """Times the training step on this process's devices.

    Args:
      size: "small", "small_vit", or "nano" (to try the benchmark itself).
      dtype: of the matmuls, "float32" or "bfloat16"; weights and moments are float32.
      full: the official loop: recomputation of every layer, clipping at norm 1, moving average.
      steps: timed steps.
      warmup: steps before.

    Returns:
      Plain numbers: seconds, tokens a second, compile time, the share of this machine's matrix
      rate, and the official code's figures where there are any.

    Raises:
      ValueError: unknown size or dtype, or no steps.
    """
    if size not in SIZES:
        raise ValueError(f"no benchmark size {size!r}; use one of {', '.join(SIZES)}")
    if steps < 1:
        raise ValueError(f"steps must be >= 1, not {steps}")
    model = model_of(size, dtype, full)
    config = OptimConfig(lr=1e-4, clip_norm=1.0 if full else 0.0, ema=0.9999 if full else 0.0)
    optimizer = make_optimizer(config, functional.logical_axes(model))
    params = jax.jit(lambda: functional.init(model, jax.random.key(0)))()
    count = functional.count(params)
    state = jax.jit(lambda p: new_state(p, optimizer), donate_argnums=0)(params)
    made = make_batch(model)
    batch = jax.device_put(made)
    step = functools.partial(
        objective.train_step, model=model, loss=objective.LossConfig(), optimizer=optimizer
    )
    start, start_cpu = time.perf_counter(), time.process_time()
    compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
    compile_s = time.perf_counter() - start
    compile_cpu_s = time.process_time() - start_cpu
    walls, cpus = [], []
    for number in range(warmup + steps):
        start, start_cpu = time.perf_counter(), time.process_time()
        state, metrics = jax.block_until_ready(compiled(state, batch))
        if number >= warmup:
            walls.append(time.perf_counter() - start)
            cpus.append(time.process_time() - start_cpu)
    tokens, cpu = int(batch["positions"].size), statistics.median(cpus)
    useful = train_flops(model, batch_counts(made))
    return {
        "bench": "train",
        "size": size,
        "dtype": dtype,
        "full_loop": full,
        "backend": jax.default_backend(),
        "parameters": count,
        "tokens": tokens,
        "text_loss_tokens": int(metrics["tokens/text_loss"]),
        "latent_loss_tokens": int(metrics["tokens/latent_loss"]),
        "steps": steps,
        "wall_min_s": min(walls),
        "wall_median_s": statistics.median(walls),
        "cpu_min_s": min(cpus),
        "cpu_median_s": cpu,
        "compile_s": compile_s,
        "compile_cpu_s": compile_cpu_s,
        "tokens_per_wall_s": tokens / min(walls),
        "tokens_per_cpu_s": tokens / cpu,
        "loss": float(metrics["loss"]),
        **reference.share_of_ceiling(useful, cpu, dtype),
        "official": reference.official("train", f"{size}, full loop" if full else size, dtype),
    }
