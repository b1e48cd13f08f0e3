"""`unireason bench quality`: what faster drawing costs in quality, on a checkpoint of the world.

Held-out prompts are drawn by every way in turn, from the same noise, and judged exactly. So the
ways stand beside each other in one run: rates with 95 % intervals, the difference to the first way
with its paired interval, forward passes and CPU-seconds an image (those of the first batch, which
compiles, left out).
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals.rates import Z95, wilson
from unireason_jax.evals.world import exam, looks
from unireason_jax.inference import load
from unireason_jax.inference.settings import FAST, with_options
from unireason_jax.storage import paths
from unireason_jax.world import prompts

WAYS: Mapping[str, Mapping[str, Any]] = {
    "exact": {},
    "fast": FAST,
    "few": {"solver": "ab2", "timesteps": 7, "shift": 6.0},
    "euler_six": {"timesteps": 7, "shift": 10.0},
    "euler_half": {"timesteps": 11},
    "ab2_half": {"timesteps": 11, "solver": "ab2"},
    "dpmpp_2m_half": {"timesteps": 11, "solver": "dpmpp_2m"},
    "taylor": {"cache": "taylor"},
    "taylor2": {"cache": "taylor2"},
    "tea": {"cache": "tea"},
}
"""Ways of drawing by name: options of a call (see `settings.OPTIONS`)."""


def run(
    checkpoint: str, ways: Sequence[str], *, count: int = 32, batch: int = 64, seed: int = 1
) -> list[dict]:
    """Draws the prompts by every way.

    Args:
      checkpoint: directory of a run on the world.
      ways: names in WAYS, or directories of other runs, which draw as they do by themselves (a
        student of the first); the first one is what the others are compared with.
      count: prompts per tag (6 tags), of which `batch` are drawn at a time.
      batch: conversations at a time.
      seed: of the prompts.

    Returns:
      Plain numbers, one dict a way.

    Raises:
      ValueError: an unknown way, or no more prompts than one batch: nothing were left to be timed.
      FileNotFoundError: no sound checkpoint there.
    """
    if unknown := [way for way in ways if way not in WAYS and not paths.of(way).is_dir()]:
        names = ", ".join(WAYS)
        raise ValueError(f"no way of drawing {unknown[0]!r}, and no run; there are {names}")
    model = load.load(checkpoint)
    asked = exam.Exam(model, seed).requests("t2i", prompts.TAGS, count, held_out=True, render=False)
    if len(asked) <= batch:
        raise ValueError(f"{len(asked)} prompts are no more than a batch of {batch}: ask for more")
    records = [TEMPLATES["t2i"](exam.asked(one, "prompt"), model.style) for one in asked]
    models = {way: model if way in WAYS else load.load(way) for way in ways}
    together = {"batch_rows": batch}
    usual = dataclasses.replace(model.settings, **together)
    model.run(records, settings=with_options(usual, WAYS.get(ways[0], {})))  # reading compiles too
    found: list[dict] = []
    first = np.zeros(0)
    for way in ways:
        model, options = models[way], dict(WAYS.get(way, {}))
        settings = with_options(dataclasses.replace(model.settings, **together), options)
        traces = model.run(records[:batch], settings=settings)
        started = time.process_time()
        traces += model.run(records[batch:], settings=settings)
        seconds = time.process_time() - started
        judged = [looks.judge(trace, one["requirement"]) for trace, one in zip(traces, asked)]
        right = np.array([looks.verdicts(trace)[-1] for trace in judged], float)
        first = right if not found else first
        change = right - first
        found.append(
            {
                "bench": "quality",
                "way": way,
                "options": options,
                "rate": wilson(right.astype(bool)).to_dict(),
                "difference": float(change.mean()),
                "half_interval": float(Z95 * change.std() / len(change) ** 0.5),
                "forwards_per_image": float(np.mean([trace.forwards for trace in traces])),
                "cpu_s_per_image": seconds / (len(records) - batch),
            }
        )
    return found
