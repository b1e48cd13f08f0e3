"""Saved conversations, spoilt: read, or refused in one line that names the file."""

from pathlib import Path

import numpy as np

from tests.fuzz.tally import Tally, corrupted, generator
from unireason_jax.inference import trace as traces
from unireason_jax.inference.trace import Step, Trace

FULL, SMALL = 2000, 60


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` corruptions of trace.json and of the pictures."""
    picture = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    steps = (
        Step("text", "user", text="a red circle", given=True),
        Step("text", "plan", text="red circle b2", seed=3, forwards=6, handover="image"),
        Step("image", "draft", image=picture, seed=4, forwards=44, verdict=False),
    )
    Trace("p", "t2i", steps, seconds={"draw": 0.5}, settings={"size": [16, 16]}).save(folder)
    files = [folder / traces.FILE, folder / "02_draft.png"]
    for trial in range(size):
        path = files[trial % 3 == 2]
        data = path.read_bytes()
        path.write_bytes(corrupted(data, generator(seed, "traces", trial)))
        name = f"trial {trial} ({path.name})"
        with tally.trial(name):
            try:
                found = traces.load(folder)
                tally.expect(found.strip().size[0] > 0, name, "no strip")
                tally.count("read")
            except (ValueError, FileNotFoundError) as error:
                told = str(error)
                tally.expect(str(folder) in told and "\n" not in told, name, f"told {told!r}")
                tally.count("refused")
        path.write_bytes(data)
