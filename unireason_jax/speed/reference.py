"""What a CPU-second can do here, and what the official code takes elsewhere.

CPU-seconds compare runs on one machine, quiet or busy. They do not carry over to another: a
processor without AVX-512 takes half as long again for the same step. So a benchmark's own figure
is its share of the ceiling, the rate of matrix products on this machine; the official code's
figures are printed with the machine on which they were taken, beside ours and not divided by them.
"""

import time

import jax
import jax.numpy as jnp

AVX512 = "2 cores AMD EPYC (family 26), AVX-512 and bfloat16 instructions"
AVX2 = "2 cores AMD EPYC (family 25), AVX2, no AVX-512"

# machine -> (bench, case, dtype) -> seconds of BAGEL's PyTorch code with two threads: CPU, wall.
# Medians, but the first machine was busy: its wall seconds are the least.
OFFICIAL = {
    AVX512: {
        ("train", "small", "float32"): (5.95, 6.15),
        ("train", "small", "bfloat16"): (2.66, 3.43),
        ("train", "small, full loop", "float32"): (7.52, 7.22),
        ("train", "small, full loop", "bfloat16"): (3.48, 3.13),
        ("train", "small_vit", "float32"): (5.85, 5.63),
        ("decode", "small", "float32"): (1.81, 1.47),
        ("decode", "small", "bfloat16"): (1.57, 1.38),
        ("image", "small, text guidance", "float32"): (7.04, 6.38),
        ("image", "small, text_image guidance", "float32"): (10.11, 9.35),
        ("image", "small, text guidance", "bfloat16"): (2.92, 2.78),
        ("image", "small, text_image guidance", "bfloat16"): (4.31, 3.98),
    },
    AVX2: {
        ("train", "small", "float32"): (8.92, 5.21),
        ("decode", "small", "float32"): (3.00, 3.11),
        ("image", "small, text guidance", "float32"): (12.18, 8.67),
    },
}
# Rows of the benchmarks' sizes times their widths: [2048, 512] x [512, 1536].
PRODUCT = (2048, 512, 1536)


def official(bench: str, case: str, dtype: str) -> list[dict]:
    """The official code's figures for a benchmark, one entry a machine; [] where there are none."""
    key = (bench, case, dtype)
    found = [(machine, times[key]) for machine, times in OFFICIAL.items() if key in times]
    return [{"machine": name, "cpu_s": cpu, "wall_s": wall} for name, (cpu, wall) in found]


def ceiling(dtype: str, *, calls: int = 12) -> float:
    """FLOP a CPU-second of matrix products in `dtype` on this process's cores, their median."""
    rows, inner, columns = PRODUCT
    left, right = jax.random.split(jax.random.key(0))
    a = jax.random.normal(left, (rows, inner), jnp.dtype(dtype))
    b = jax.random.normal(right, (inner, columns), jnp.dtype(dtype))
    product = jax.jit(jnp.dot).lower(a, b).compile()
    product(a, b).block_until_ready()
    rates = []
    for _ in range(calls):
        start = time.process_time()
        product(a, b).block_until_ready()
        rates.append(2 * rows * inner * columns / max(time.process_time() - start, 1e-9))
    return sorted(rates)[calls // 2]


def share_of_ceiling(useful: float, cpu_seconds: float, dtype: str) -> dict[str, float]:
    """How much of this machine's matrix rate a benchmark reaches; {} on anything but a CPU.

    Args:
      useful: FLOP that the work needs, padding and recomputation left out.
      cpu_seconds: that it took.
      dtype: of its matmuls.
    """
    if jax.default_backend() != "cpu":
        return {}
    limit = ceiling(dtype)
    return {
        "useful_gflop": useful / 1e9,
        "gflop_per_cpu_s": useful / cpu_seconds / 1e9,
        "ceiling_gflop_per_cpu_s": limit / 1e9,
        "share_of_ceiling": useful / cpu_seconds / limit,
    }
