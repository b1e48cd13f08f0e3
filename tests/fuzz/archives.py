"""Safetensors files whose header lies: it is told in one line, and what is read is what it says."""

import json
from pathlib import Path

import numpy as np

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.models.archive import Archive, ArchiveError

FULL, SMALL = 2000, 50
NUMBERS = [-1, -(2**63), 0, 1, 3, 2**31, 2**53, 2**63, 2**64, 2**70, 1.0, 0.5, True, None, "8"]
NUMBERS += [[], {}, [1], float("nan"), 1e300]
TYPES = ["F64", "F32", "BF16", "U8", "BOOL", "F8_E4M3", "I128", "", None, 7, ["F32"]]


def header(rng: np.random.Generator) -> dict:
    """Three tensors back to back."""
    found, at = {"__metadata__": {"format": "pt"}}, 0
    for name in "abc":
        shape = rng.integers(1, 5, int(rng.integers(0, 4))).tolist()
        size = int(np.prod(shape, dtype=int)) * 4
        found[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    return found


def spoilt(values: dict, rng: np.random.Generator) -> dict:
    """A header with one to three wrong fields."""
    for _ in range(int(rng.integers(1, 4))):
        entry = values[str(rng.choice(list("abc")))]
        if not isinstance(entry, dict):
            continue
        field = str(rng.choice(["dtype", "shape", "data_offsets", "axis", "begin", "end", "gone"]))
        number = NUMBERS[int(rng.integers(len(NUMBERS)))]
        if field == "dtype":
            entry[field] = TYPES[int(rng.integers(len(TYPES)))]
        elif field in ("shape", "data_offsets"):
            entry[field] = number
        elif field == "gone":
            entry.pop(str(rng.choice(["dtype", "shape", "data_offsets"])), None)
        else:
            within = entry.get("shape" if field == "axis" else "data_offsets")
            if isinstance(within, list) and within:
                within[int(rng.integers(len(within)))] = number
    return values


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` files: half with wrong fields, half with wrong bytes."""
    path = folder / "x.safetensors"
    for trial in range(size):
        rng = generator(seed, "archives", trial)
        values = header(rng)
        data = rng.bytes(values["c"]["data_offsets"][1])
        values = spoilt(values, rng) if trial % 2 else values
        text = json.dumps(values).encode()
        whole = len(text).to_bytes(8, "little") + text + data
        path.write_bytes(whole if trial % 2 else corrupted(whole, rng))
        name = f"trial {trial}"
        with tally.trial(name):
            try:
                archive = Archive(path)
                for tensor in archive:
                    read = archive.read(tensor)
                    tally.expect(read.shape == archive.shape(tensor), name, "another shape")
                tally.count("read")
            except ArchiveError as error:
                told = str(error)
                tally.expect(str(path) in told and "\n" not in told, name, f"told {told!r}")
                tally.count("refused")
