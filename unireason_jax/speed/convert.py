"""`unireason bench convert`: a random release of true width, in and out, bit for bit, in how much
memory.

Each direction is the command itself in a process of its own, so that its peak memory is its own.
"""

import dataclasses
import hashlib
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from unireason_jax.models import functional, huggingface
from unireason_jax.models.archive import Archive
from unireason_jax.models.config import VARIANTS, BagelConfig
from unireason_jax.models.official_names import layout
from unireason_jax.speed.child import measure

GIB = 2**30


def run(
    variant: str = "bagel_7b_mot", *, layers: int | None = 4, folder: Path | None = None
) -> dict[str, Any]:
    """Writes a release, converts it to a workdir and back, and compares every byte.

    Needs about twice the size of the weights on disk, and leaves nothing there.

    Args:
      variant: a key of `VARIANTS`.
      layers: layers of the language model; None for all.
      folder: where the files go meanwhile; by default the system's temporary folder.

    Returns:
      Sizes, seconds and peak resident memory of both directions, and whether all tensors came
      back bit for bit.

    Raises:
      subprocess.CalledProcessError: a conversion failed; its own message is on stderr.
    """
    config = VARIANTS[variant]
    if layers is not None:
        config = dataclasses.replace(config, llm=dataclasses.replace(config.llm, layers=layers))
    place = Path(tempfile.mkdtemp(prefix="unireason-convert-", dir=folder))
    source, workdir, back = (place / name for name in ("source", "workdir", "back"))
    try:
        _say(f"writing a random release of {config.llm.layers} layers to {source}")
        huggingface.save(source, config, _random(config))
        digests = _digests(source)
        size = sum(path.stat().st_size for path in source.iterdir())
        read = _convert("--from", source, workdir)
        shutil.rmtree(source)
        written = _convert("--to", workdir, back)
        _say("comparing")
        identical = _digests(back) == digests
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return {
        "bench": "convert",
        "variant": variant,
        "layers": config.llm.layers,
        "parameters": functional.count(functional.abstract(config)),
        "tensors": len(digests),
        "weights_gib": round(size / GIB, 3),
        "from_bagel": read,
        "to_bagel": written,
        "identical": identical,
    }


def _random(config: BagelConfig) -> huggingface.Read:
    """Weights that differ from tensor to tensor: bfloat16 of random bits, finite by one bit."""
    table = layout(config)

    def read(path: str, layer: int | None) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(f"{path}/{layer}".encode()))
        shape = table[path].inner
        bits = np.frombuffer(rng.bytes(2 * int(np.prod(shape))), np.uint16) & 0xBFFF
        return bits.view(ml_dtypes.bfloat16).reshape(shape)

    return read


def _digests(folder: Path) -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Type, shape and SHA-256 of every tensor of a release."""
    archive = Archive(huggingface.find_weights(folder))
    return {
        name: (
            archive.dtype(name),
            archive.shape(name),
            hashlib.sha256(archive.read(name).view(np.uint8)).hexdigest(),
        )
        for name in archive
    }


def _convert(way: str, source: Path, target: Path) -> dict[str, float]:
    """Runs the command; its seconds and its peak resident memory."""
    _say(f"convert {way} bagel")
    command = [sys.executable, "-m", "unireason_jax.convert", way, "bagel"]
    command += ["--input", str(source), "--output", str(target)]
    found = measure(command)
    return {
        "wall_s": round(found["wall_s"], 1),
        "cpu_s": round(found["cpu_s"], 1),
        "peak_rss_gib": round(found["peak_rss_mib"] / 1024, 3),
    }


def _say(text: str) -> None:
    """Progress, kept out of the results on stdout."""
    print(text, file=sys.stderr, flush=True)
