"""What the devices here multiply in hardware, and so which dtype is the fast one."""

import functools
from pathlib import Path

import jax

CPU_FACTS = Path("/proc/cpuinfo")
# Instructions that multiply bfloat16: AVX-512 and AMX on x86, the bf16 extension on ARM.
BFLOAT16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def native_dtype(platform: str | None = None) -> str:
    """The dtype that matmuls run fastest in: "bfloat16" or "float32".

    TPUs and GPUs multiply bfloat16. A CPU does if its instructions say so; without them bfloat16
    is emulated, slower than float32.

    Args:
      platform: "cpu", "gpu" or "tpu"; that of the default devices if None.
    """
    if (platform or jax.default_backend()) != "cpu":
        return "bfloat16"
    return "bfloat16" if cpu_flags(CPU_FACTS) & BFLOAT16_FLAGS else "float32"


@functools.cache
def cpu_flags(facts: Path) -> frozenset[str]:
    """Instruction sets of this CPU as Linux names them; empty where the file does not exist."""
    if not facts.exists():
        return frozenset()
    named = ("flags", "Features")
    lines = [line for line in facts.read_text().splitlines() if line.startswith(named)]
    return frozenset(lines[0].partition(":")[2].split()) if lines else frozenset()


def dtype_sentence(dtype: str) -> str:
    """The dtype of a run's matmuls and what this machine makes of it, for the run's first lines."""
    if jax.default_backend() != "cpu":
        return f"matmuls in {dtype}"
    if dtype == native_dtype():
        why = "this CPU multiplies it in hardware"
        return f"matmuls in {dtype}: {why if dtype == 'bfloat16' else 'the fast one on this CPU'}"
    if dtype == "bfloat16":
        return (
            "matmuls in bfloat16, which this CPU emulates: --config.model.dtype=auto takes float32"
        )
    return "matmuls in float32; this CPU also multiplies bfloat16, about twice as fast"
