"""Golden tensors in the split-packed layout; the parity command's own reading of them."""

from unireason_jax.proof.golden import TrainStep, patchify, read, relative

__all__ = ["TrainStep", "patchify", "read", "relative"]
