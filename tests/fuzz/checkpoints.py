"""Single bits of every file of a checkpoint flipped: each is found, and the older step is used."""

from pathlib import Path

from tests.fuzz.tally import Tally, generator
from unireason_jax.training import checkpoint_manifest

FULL, SMALL = 200, 60
STEPS = (10, 20)


def fuzz(seed: int, size: int, folder: Path, tally: Tally) -> None:
    """`size` flips over all files of the newer of two steps, every file among them."""
    save(folder)
    newest = folder / checkpoint_manifest.FOLDER / str(STEPS[1])
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    for trial in range(size):
        rng = generator(seed, "checkpoints", trial)
        path = files[trial % len(files)]
        data = path.read_bytes()
        spoilt = bytearray(data or b"\0")
        spoilt[int(rng.integers(len(spoilt)))] ^= 1 << int(rng.integers(8)) if data else 0
        path.write_bytes(spoilt)
        name = f"trial {trial} ({path.relative_to(newest)})"
        with tally.trial(name):
            wrong = checkpoint_manifest.faults(newest)
            tally.expect(bool(wrong), name, "the flip is not found")
            tally.expect(all(str(newest) in line for line in wrong), name, f"told {wrong}")
            found = checkpoint_manifest.find(folder).name
            tally.expect(found == str(STEPS[0]), name, f"step {found} is used")
            tally.count("found")
        path.write_bytes(data)
    with tally.trial("all as they were"):
        tally.expect(
            checkpoint_manifest.find(folder).name == str(STEPS[1]), "at the end", "not sound again"
        )


def save(folder: Path) -> None:
    """Two steps of a small model as Orbax and the manifest write them."""
    import jax.numpy as jnp

    from unireason_jax.training import optim, state
    from unireason_jax.training.checkpoint import Checkpoints

    params = {"layer": {"kernel": jnp.ones((4, 8)), "bias": jnp.zeros(8)}}
    logical = {"layer": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}}
    optimizer = optim.make_optimizer(optim.OptimConfig(ema=0.9), logical)
    made = state.initialize(lambda: params, optimizer, None)
    with Checkpoints(folder) as checkpoints:
        for step in STEPS:
            checkpoints.save(step, made, {"data": {"next_row": step * 24}, "meter": {}})
