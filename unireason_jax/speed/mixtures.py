"""Lengths of the mixtures that packing is measured on.

"quickstart" is measured on the records of configs/quickstart.py; "world" imitates lengths of the
embedded world in no time; "stage2" imitates UniReason's second stage at 1024 pixels.
"""

import numpy as np

from unireason_jax.data.mixture import mix
from unireason_jax.data.packing.lengths import measure
from unireason_jax.data.quarantine import Quarantine
from unireason_jax.run import configuration, corpus
from unireason_jax.run.run import Run

VAE_1024 = 4096  # latent tokens of a 1024 x 1024 picture (stride 8, patch 2)
VIT_532 = 1444  # ViT tokens of a 532 x 532 picture (patch 14)
QUICKSTART = "configs/quickstart.py"

# texts, ViT copies, latent copies of the 12 groups of UniReason's released stage-2 mixture
# (example_sft.yaml): 4 plain t2i, 4 plain edits, refine_edit, refine_t2i, t2i and edit reasoning.
_STAGE2 = np.array(
    [[1, 0, 1]] * 4 + [[1, 1, 2]] * 4 + [[4, 3, 4], [4, 2, 3], [3, 0, 1], [3, 1, 2]], np.int64
)

# Tasks of the embedded world: share, text tokens from and to, ViT and latent tokens.
_WORLD = [
    (0.30, 12, 26, 0, 16),  # t2i
    (0.20, 30, 50, 0, 16),  # t2i with a plan
    (0.20, 18, 34, 16, 32),  # edit
    (0.15, 50, 72, 16, 48),  # refinement of a wrong draft
    (0.10, 60, 82, 32, 48),  # process-driven steps
    (0.05, 12, 24, 16, 0),  # visual questions
]


def mixture(name: str, records: int, seed: int = 0) -> tuple[np.ndarray, int]:
    """Lengths int64 [records, 3] of a mixture, and its wished row length.

    Raises:
      ValueError: another name.
    """
    made = {"quickstart": quickstart, "world": world, "stage2": stage2}
    if name not in made:
        raise ValueError(f"no mixture {name!r}; use one of {sorted(made)}")
    wished = 50_000 if name == "stage2" else configuration.load(QUICKSTART).data.tokens
    return made[name](records, seed), wished


def quickstart(records: int, seed: int = 0) -> np.ndarray:
    """Records of the quickstart's config, measured one by one (0.3 ms each)."""
    config = configuration.load(QUICKSTART, {"data.examples": records})
    sources, _ = corpus.make_sources(config, seed=seed)
    return measure(mix(sources), Run.of(config).spec, Quarantine())


def world(records: int, seed: int = 0) -> np.ndarray:
    """The embedded world at 32 x 32 pixels: 16 tokens a picture and copy."""
    rng = np.random.default_rng(seed)
    share, low, high, vit, latent = (np.array(column) for column in zip(*_WORLD))
    task = rng.choice(len(_WORLD), records, p=share)
    text = rng.integers(low[task], high[task])
    return np.stack([text, vit[task], latent[task]], 1).astype(np.int64)


def stage2(records: int, seed: int = 0) -> np.ndarray:
    """UniReason's stage 2 at 1024 pixels: 12 groups of equal weight.

    The words of a record are log-normal around 100 for each of its texts, 40 to 900 together.
    """
    rng = np.random.default_rng(seed)
    texts, vit, latent = _STAGE2[rng.integers(0, len(_STAGE2), records)].T
    words = np.exp(rng.normal(np.log(100 * texts), 0.6))
    text = np.clip(words, 40, 900).astype(np.int64) + 2 * (texts + vit + latent)  # and markers
    return np.stack([text, vit * VIT_532, latent * VAE_1024], 1)
