"""`unireason bench attention`: the attention of one layer on a full row, by backend or by plan.

The row is that of `compilation.reference_row`. FLOPs are those of visible pairs only, so that a
backend that walks fewer masked ones reaches more.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from unireason_jax.compilation.reference_row import reference_row
from unireason_jax.models.attention import Keys, Queries, attend
from unireason_jax.models.chunked import Ids
from unireason_jax.models.flash_gpu import Tilings, default_tilings, gpu_attention
from unireason_jax.models.flash_gpu_kernels import Kernel
from unireason_jax.models.flash_kernels import Tiles
from unireason_jax.models.sizes import ATTENTION
from unireason_jax.run import configuration
from unireason_jax.speed.step import budgets_of
from unireason_jax.training import metrics

# What `--sweep` tries on a GPU, each with the other two kernels as they are.
TRIED = [
    Kernel(Tiles(queries, keys), warps, stages)
    for queries, keys in ((64, 64), (64, 128), (128, 64), (128, 128))
    for warps in (4, 8)
    for stages in (2, 3)
]


def run(
    path: str,
    overrides: Mapping[str, Any],
    *,
    tokens: int,
    backends: Sequence[str],
    sweep: bool,
    repeats: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Times the queries of a whole row, forward alone and with the backward pass.

    Args:
      path: config file, for heads and the shares of the streams.
      overrides: of its leaves, by dotted key.
      tokens: of a row.
      backends: of `attend`.
      sweep: also every plan of `TRIED` of the GPU kernels.
      repeats: timed calls.
      seed: of the random tensors.

    Returns:
      A dict of plain numbers each: "forward_s", and with the backward pass "both_s" (a plan has
      only that of the pass it changes); what does not compile here has "error" instead.

    Raises:
      ConfigError, ValueError: config and tokens do not fit together, or an unknown backend.
    """
    unknown = set(backends) - set(ATTENTION)
    if unknown:
        raise ValueError(f"--backend {' '.join(sorted(unknown))}: choose from {ATTENTION}.")
    config = configuration.load(path, overrides)
    model = configuration.model_config(config)
    row = reference_row(model, budgets_of(config, tokens))
    ids = Ids(*(jnp.asarray(row[f"vis_{name}"]) for name in ("lo", "hi", "own", "key")))
    llm, keys = model.llm, jax.random.split(jax.random.key(seed), 4)
    heads = (llm.heads, llm.kv_heads, llm.kv_heads, llm.heads)
    shapes = [(1, ids.lo.shape[1], n, llm.head_dim) for n in heads]
    q, k, v, ct = (jax.random.normal(x, s, jnp.bfloat16) for x, s in zip(keys, shapes))
    flops = 4 * metrics.batch_counts(row)["pairs"] * llm.heads * llm.head_dim
    found = []
    for name, passes, attention in _candidates(backends, sweep):
        result = {"bench": "attention", "device": jax.devices()[0].device_kind, "attention": name}
        result["row_tokens"] = tokens
        for which in passes:
            try:
                seconds = _seconds(_pass(attention, which), ((q, k, v), ids, ct), repeats)
            except (ValueError, jax.errors.JaxRuntimeError) as error:  # not here, or does not fit
                result["error"] = str(error).splitlines()[0]
                break
            work = flops * (1 if which == "forward" else 3.5)
            result |= {f"{which}_s": seconds, f"{which}_flops_per_s": work / seconds}
        found.append(result)
    return found


def _candidates(
    backends: Sequence[str], sweep: bool
) -> Iterator[tuple[str, Sequence[str], Callable]]:
    """(name, passes to time, function of q, k, v and ids)."""
    for backend in backends:

        def attention(q: Any, k: Any, v: Any, ids: Ids, backend: str = backend) -> jax.Array:
            return attend(q, Queries(*ids[:3]), Keys(k, v, ids.key), backend=backend)

        yield backend, ("forward", "both"), attention
    usual = default_tilings(jnp.bfloat16)
    for field in Tilings._fields if sweep else ():
        for kernel in TRIED:
            plan = usual._replace(**{field: kernel})
            name = f"{field} {kernel.tiles.queries}x{kernel.tiles.keys}"
            name += f", {kernel.warps} warps, {kernel.stages} stages"
            passes = ("forward",) if field == "output" else ("both",)
            yield name, passes, functools.partial(_planned, plan=plan)


def _planned(q: jax.Array, k: jax.Array, v: jax.Array, ids: Ids, plan: Tilings) -> jax.Array:
    return gpu_attention(q, k, v, ids, plan)


def _pass(attention: Callable, which: str) -> Callable:
    """The forward pass, or with "both" also the backward pass, of (q, k, v), ids and cotangent."""

    def forward(qkv: tuple, ids: Ids, ct: jax.Array) -> Any:
        return attention(*qkv, ids)

    def both(qkv: tuple, ids: Ids, ct: jax.Array) -> Any:
        out, pull = jax.vjp(lambda qkv: attention(*qkv, ids), qkv)
        return out, pull(ct)

    return jax.jit(forward if which == "forward" else both)


def _seconds(call: Callable, arguments: tuple, repeats: int) -> float:
    """Mean over calls that follow each other, after one that compiles and one more."""
    for _ in range(2):
        jax.block_until_ready(call(*arguments))
    start = time.perf_counter()
    for _ in range(repeats):
        result = call(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / repeats
