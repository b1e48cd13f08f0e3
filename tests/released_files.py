"""Files of the official layout with random weights."""

import jax
import numpy as np

from unireason_jax.models import vae
from unireason_jax.models.archive import type_name, write_archive
from unireason_jax.models.config import VAEConfig

FLUX = VAEConfig(channels=32, multipliers=(1, 1, 1, 1), blocks=1)
"""FLUX's autoencoder in small: its stride, its channels of a latent."""


def write_all(folder, stem, tensors):
    """One safetensors file of some arrays."""
    table = {name: (x.shape, type_name(x.dtype)) for name, x in tensors.items()}
    write_archive(folder, stem, table, lambda name: [tensors[name]], shard_bytes=1 << 30)


def write_autoencoder(folder, config=FLUX):
    """`ae.safetensors` in a folder; returns the file."""
    made = jax.jit(vae.init, static_argnums=0)(config, jax.random.key(1))
    made = {name: np.asarray(x) for name, x in made.items()}
    made = {name: x.transpose(3, 2, 0, 1) if x.ndim == 4 else x for name, x in made.items()}
    write_all(folder, "ae", made)
    return folder / "ae.safetensors"
