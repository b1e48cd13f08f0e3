"""Files of the official layout with random weights."""

import json
import shutil

import jax
import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

from unireason_jax.data.text.tokenizer import CONTROLS
from unireason_jax.models import functional, huggingface, vae
from unireason_jax.models.archive import type_name, write_archive
from unireason_jax.models.config import VAEConfig, variant

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


OWN = variant(
    "nano",
    llm={"width": 64, "layers": 3, "heads": 4, "head_dim": 16, "mlp": 192, "vocab": 264},
    vit={"width": 32, "patch": 14, "side": 70},
    latent={"channels": 16, "side": 64},
)
"""A model of BAGEL's patches, latents and tables, and of its tokenizer without merges."""


def write_release(folder, config=OWN, autoencoder=None, key=0):
    """Every file of a small BAGEL release whose vocabulary is bytes; returns the folder.

    Args:
      folder: new.
      config: of the model.
      autoencoder: folder with ae.safetensors and vae_config.json; random weights without.
      key: seed of the weights.
    """
    folder.mkdir(parents=True)
    params = jax.jit(functional.init, static_argnums=0)(config, jax.random.key(key))
    last = params["latent_out"]["kernel"]  # begins at zero, where nothing before it would learn
    params["latent_out"]["kernel"] = 0.1 * jax.random.normal(jax.random.key(key), last.shape)
    huggingface.save(folder, config, huggingface.reader_of(params))
    if autoencoder is None:
        write_autoencoder(folder)
    else:
        for name in ("ae.safetensors", vae.CONFIG):
            shutil.copyfile(autoencoder / name, folder / name)
    alphabet = sorted(ByteLevel.alphabet())
    (folder / "vocab.json").write_text(json.dumps({x: i for i, x in enumerate(alphabet)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    added = {str(256 + i): {"content": x, "special": True} for i, x in enumerate(CONTROLS)}
    words = {"added_tokens_decoder": added, "model_max_length": 131072}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder
