"""Prepared folders, spoilt: entries, shards, manifest and lengths."""

from pathlib import Path

import numpy as np

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.data.prepared import serialization, shards
from unireason_jax.data.prepared.shards import Kept
from unireason_jax.data.records import Record, Segment
from unireason_jax.data.sources import ArrayRecordSource

FULL, SMALL = 2000, 60


def records() -> list[Record]:
    """Records of every content: pixels, an encoded picture, moments."""
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    moments = np.zeros((2, 2, 2, 4), serialization.DTYPES["bfloat16"])
    said = Segment("text", "user", "a red circle")
    segments = [
        Segment("image", "draft", image=pixels, loss="flow", und=True),
        Segment("image", "draft", image=b"\x89PNG...", und=True),
        Segment("image", "draft", moments=moments, loss="flow", weight=2.0),
    ]
    return [Record(f"r{i}", (said, s), "t2i", "CC0", {"n": i}) for i, s in enumerate(segments)]


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` corruptions of stored records, and as many of a folder's files."""
    stored = [serialization.to_bytes(record) for record in records()]
    for trial in range(size):
        data = corrupted(stored[trial % 3], generator(seed, "entries", trial))
        name = f"entry {trial}"
        with tally.trial(name):
            try:
                serialization.to_bytes(serialization.from_bytes(data))
                tally.count("entries read")
            except ValueError as error:
                tally.expect("\n" not in str(error), name, f"told {str(error)!r}")
                tally.count("entries refused")
    made = folder / "made"
    shards.begin(made, {})
    entries = [Kept(data, (4, 0, 4)) for data in stored]
    shards.build(made, [(None, 3)], lambda _: entries, about="made")
    shards.finish(made, [3], {"sizes": "world", "source": "fuzz"})
    files = sorted(path for path in made.iterdir() if path.suffix != ".jsonl")
    for trial in range(size):
        path = files[trial % len(files)]
        data = path.read_bytes()
        path.write_bytes(corrupted(data, generator(seed, "folder", trial)))
        name = f"folder {trial} ({path.name})"
        with tally.trial(name):
            read(made, name, tally)
        path.write_bytes(data)


def read(folder: Path, name: str, tally: Tally) -> None:
    """Opens a folder and reads all of it, as training does."""
    try:
        source = ArrayRecordSource(folder)
        source.lengths()
    except (ValueError, FileNotFoundError) as error:
        told = str(error)
        tally.expect(str(folder) in told and "\n" not in told, name, f"told {told!r}")
        tally.count("folders refused")
        return
    for index in range(len(source)):
        try:
            found = source[index]
            tally.expect(found.id == f"r{index}", name, f"record {found.id} for {index}")
            tally.count("records read")
        except ValueError as error:
            tally.expect(f"made:{index}" in str(error), name, f"told {str(error)!r}")
            tally.count("records refused")
