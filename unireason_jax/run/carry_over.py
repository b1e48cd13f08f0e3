"""What sampling needs of a workdir beside weights and config, taken along to another."""

from pathlib import Path

from unireason_jax.models import vae
from unireason_jax.run.drawing_assets import AUTOENCODER, PICTURES
from unireason_jax.run.first_checkpoint import copy
from unireason_jax.run.janus_release import CODES, KEPT
from unireason_jax.run.run import CODEC, TOKENIZER

FILES = (CODEC, AUTOENCODER, vae.CONFIG, PICTURES, CODES, KEPT)


def carry(workdir: Path, target: Path) -> list[str]:
    """Copies the files that are there; returns their names."""
    files = copy(workdir, target, FILES)
    words = sorted(path.name for path in (workdir / TOKENIZER).glob("*"))
    return files + copy(workdir / TOKENIZER, target / TOKENIZER, words)
