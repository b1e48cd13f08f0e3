"""Small synthetic packed batches for tests of the training room."""

import numpy as np

from unireason_jax.models.config import BagelConfig
from unireason_jax.rules import visibility


def packed_batch(
    config: BagelConfig,
    *,
    rows: int = 4,
    text: int = 10,
    vit: int = 4,
    latent: int = 8,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Rows of one sample each: causal text, a ViT image, a noised and a clean image, padding.

    Row r has r padding tokens at the end of its text, and labels on a random part of the rest, so
    rows differ in their numbers of supervised tokens.
    """
    rng = np.random.default_rng(seed)
    half = latent // 2
    total = text + vit + latent
    vis = {name: np.empty((rows, total), np.int32) for name in ("key", "lo", "hi", "own")}
    labels = np.full((rows, text), -1, np.int32)
    for row in range(rows):
        real = text - row % 3
        seen = visibility.build(
            [real, vit, half, latent - half], ["causal", "full", "noise", "full"]
        )
        blank = visibility.padding(text - real)
        for name in vis:
            parts = getattr(seen, name), getattr(blank, name)
            vis[name][row] = np.concatenate([parts[0][:real], parts[1], parts[0][real:]])
        supervised = rng.choice(real, size=2 + row % 4, replace=False)
        labels[row, supervised] = rng.integers(0, config.llm.vocab, len(supervised))
    noised = np.arange(latent) < half
    logits = np.where(noised, rng.normal(size=(rows, 1)), -np.inf)
    vit_features = 3 * config.vit.patch**2 if config.vit else 3
    return {
        "text_ids": rng.integers(0, config.llm.vocab, (rows, text)).astype(np.int32),
        "text_labels": labels,
        "text_weights": ((labels >= 0) * rng.uniform(0.5, 1.5, labels.shape)).astype(np.float32),
        "vit_patches": rng.uniform(-1, 1, (rows, vit, vit_features)).astype(np.float32),
        "vit_positions": np.tile(np.arange(vit, dtype=np.int32), (rows, 1)),
        "vit_images": np.zeros((rows, vit), np.int32),
        "latents": rng.normal(size=(rows, latent, config.latent.features)).astype(np.float32),
        "latent_positions": np.tile(np.arange(latent, dtype=np.int32) % half, (rows, 1)),
        "latent_weights": np.tile(noised.astype(np.float32), (rows, 1)),
        "latent_logits": logits.astype(np.float32),
        "noise_seeds": np.tile(rng.integers(0, 2**31, (rows, 1)), (1, latent)).astype(np.uint32),
        "positions": np.tile(np.arange(total, dtype=np.int32), (rows, 1)),
        **{f"vis_{name}": value for name, value in vis.items()},
    }
