"""Trains the autoencoder that lies beside this file, on the photographs in scikit-image's wheel.

Command:  python notebooks/autoencoder/train.py notebooks/autoencoder
Hardware: one CPU core.
Time:     some 0.2 CPU-seconds a step; the file that lies here has seen 9,000 (the command goes on
          from what lies in the folder).
Result:   FLUX's architecture with 32 channels: stride 8, 16 channels of a latent, whose spread is
          brought to 1 by vae_config.json. It has seen a dozen photographs and is good for those:
          at 128 pixels nine of them correlate with their reconstruction by 0.84 to 0.96.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image
from safetensors.numpy import save_file

from tests.photographs import CAPTIONS, source
from unireason_jax.models import vae
from unireason_jax.models.config import VAEConfig

CONFIG = VAEConfig(channels=32, multipliers=(1, 1, 2, 2), blocks=1, scale=1.0, shift=0.0)
STEPS, BATCH, SIDE, LR = 6000, 1, 64, 1e-3


def pictures() -> list[np.ndarray]:
    """The photographs at two sizes, uint8 [H, W, 3]."""
    found = []
    for name in CAPTIONS:
        with Image.open(source() / name) as opened:
            whole = opened.convert("RGB")
        for edge in (128, 256):
            small = whole.copy()
            small.thumbnail((edge, edge), Image.Resampling.LANCZOS)
            found.append(np.asarray(small))
    return found


def crops(photographs: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """A batch of squares, float32 [BATCH, SIDE, SIDE, 3] in [-1, 1]."""
    made = []
    for _ in range(BATCH):
        photograph = photographs[rng.integers(len(photographs))]
        top, left = (rng.integers(edge - SIDE + 1) for edge in photograph.shape[:2])
        crop = photograph[top : top + SIDE, left : left + SIDE]
        made.append(crop[:, ::-1] if rng.random() < 0.5 else crop)
    return vae.to_float(np.stack(made))


def loss(params, images, key):
    """Error of pixels, of their differences and of colours by patch, and a little divergence."""
    mean, logvar = vae.moments(params, CONFIG, images)
    made = vae.decode(params, CONFIG, vae.sample(mean, logvar, jax.random.normal(key, mean.shape)))
    error = made - images
    edges = sum(jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (1, 2))
    patches = error.reshape(len(error), SIDE // 8, 8, SIDE // 8, 8, 3).mean((2, 4))
    divergence = (mean**2 + jnp.exp(logvar) - logvar - 1).mean()
    return jnp.abs(error).mean() + 0.5 * edges + jnp.abs(patches).mean() + 1e-4 * divergence


def write(params, photographs: list[np.ndarray], folder: Path) -> None:
    """Writes ae.safetensors (float16), and vae_config.json that brings latents to a spread of 1."""
    rng = np.random.default_rng(1)
    found = [vae.encode(params, CONFIG, crops(photographs, rng)) for _ in range(32)]
    latents = np.concatenate([np.asarray(one).ravel() for one in found])
    told = {"scale_factor": float(1 / latents.std()), "shift_factor": float(latents.mean())}
    (folder / vae.CONFIG).write_text(json.dumps(told) + "\n")
    official = {name: np.asarray(x, np.float16) for name, x in params.items()}
    for name, x in official.items():
        if x.ndim == 4:
            official[name] = np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    save_file(official, folder / "ae.safetensors")


def main(folder: Path) -> None:
    """Trains, from what lies in the folder on; writes averaged weights every hundred steps."""
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(LR))

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params, state, average, images, key):
        value, gradient = jax.value_and_grad(loss)(params, images, key)
        change, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, change)
        return params, state, optax.incremental_update(params, average, 0.02), value

    start = folder / "ae.safetensors"
    params = vae.load(start)[1] if start.exists() else vae.init(CONFIG, jax.random.key(0))
    state, average = optimizer.init(params), jax.tree.map(jnp.copy, params)
    rng, photographs, losses = np.random.default_rng(0), pictures(), []
    for number in range(STEPS):
        images, key = crops(photographs, rng), jax.random.key(number)
        params, state, average, value = step(params, state, average, images, key)
        losses.append(float(value))
        if number % 100 == 99:
            print(number + 1, np.mean(losses[-100:]), flush=True)
            write(average, photographs, folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
