"""What MagCache (Ma et al. 2025) would do to drawing: its price, beside that of the step caches.

    python launch/mag_cache.py --checkpoint notebooks/demo

Which steps are skipped follows from how large the velocities of a calibration drawing are: a step
is, as long as the summed error of the product of their ratios stays below a threshold, and no more
than three in a row; the first fifth never is. So the steps that compute are known before a picture
is begun. Prompts of the calibration are others than those that are judged (`bench quality`).
"""

import argparse
import dataclasses
import functools
import json
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.data.templates import TEMPLATES
from unireason_jax.evals.world import exam
from unireason_jax.inference import load
from unireason_jax.inference.context import Context
from unireason_jax.inference.integration import integrate
from unireason_jax.inference.reasoner import Reasoner
from unireason_jax.inference.step_cache import StepCache
from unireason_jax.models import functional
from unireason_jax.speed import quality
from unireason_jax.world import prompts

KEPT = 0.2
SEED = 23


@dataclasses.dataclass(frozen=True)
class MagCache(StepCache):
    """Which steps compute, by magnitudes.

    Attributes:
      every: most steps that are skipped in a row.
      threshold: of the summed error.
      ratios: of the magnitude at each step to that at the step before; 1 for the first.
    """

    every: int = 3
    ratios: tuple[float, ...] = ()

    def computes(self, steps: int, starts: Sequence[int]) -> np.ndarray:
        """As `StepCache.computes`; for as many steps as were measured."""
        found = np.zeros(steps, bool)
        always = {*range(max(self.order + 1, math.ceil(KEPT * steps))), *starts, steps - 1}
        product, error, skipped = 1.0, 0.0, 0
        for step, ratio in enumerate(self.ratios):
            product, skipped = product * ratio, skipped + 1
            error += abs(1 - product)
            if step in always or error >= self.threshold or skipped > self.every:
                product, error, skipped, found[step] = 1.0, 0.0, 0, True
        return found


@functools.partial(jax.jit, static_argnames=("config", "markers", "settings"))
def _walked(params, branches, noise, positions, counts, scales, *, config, markers, settings):
    model = functional.bind(config, params)
    fixed = {"markers": markers, "settings": settings}
    return integrate(model, branches, noise, positions, counts, scales, **fixed)


class Measured(Context):
    """A context that notes the velocities of what it draws: `ratios`, [steps] a batch."""

    ratios: ClassVar[list[np.ndarray]] = []

    def _integrate(self, branches, seeds, noise, positions, counts, flow):
        engine = self.engine
        scales = tuple(jnp.full(len(counts), scale) for scale in flow.scales)
        given = engine.params, branches, noise, positions, counts, scales
        fixed = {"markers": engine.markers, "settings": flow.program}
        path = _walked(*given, config=engine.config, **fixed)
        size = jnp.linalg.norm(path.velocities, axis=-1)
        real = jnp.arange(noise.shape[1]) < counts[:, None]
        ratios = jnp.mean(size[1:] / size[:-1], axis=(1, 2), where=real)
        self.ratios.append(np.asarray(ratios))
        return path.latents, path.passes


def measured(model: Reasoner, count: int) -> tuple[float, ...]:
    """Ratios of the magnitudes of a drawing of `count` prompts a tag, together."""
    fixed = {"held_out": True, "render": False}
    asked = exam.Exam(model, SEED).requests("t2i", prompts.TAGS, count, **fixed)
    records = [TEMPLATES["t2i"](exam.asked(one, "prompt"), model.style) for one in asked]
    usual, model.contexts = model.contexts, Measured
    model.run(records, settings=dataclasses.replace(model.settings, batch_rows=len(records)))
    model.contexts = usual
    return 1.0, *np.mean(Measured.ratios, axis=0).tolist()


def main() -> None:
    """Prints the ratios and a line a way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.02, 0.2])
    parser.add_argument("--orders", type=int, nargs="+", default=[0, 1], help="of what is foretold")
    parser.add_argument("--prompts", type=int, default=32, help="held-out prompts per tag (6)")
    parser.add_argument("--seed", type=int, default=1, help="of these prompts")
    given = parser.parse_args()
    ratios = measured(load.load(given.checkpoint), 4)
    print("ratios", " ".join(f"{ratio:.3f}" for ratio in ratios), flush=True)
    caches = {
        f"mag {threshold:g}, order {order}": MagCache(
            order=order, threshold=threshold, ratios=ratios
        )
        for order in given.orders
        for threshold in given.thresholds
    }
    quality.WAYS = {**quality.WAYS, **{name: {"cache": cache} for name, cache in caches.items()}}
    ways = ["exact", "taylor", *caches]
    sizes = {"count": given.prompts, "seed": given.seed}
    for row in quality.run(given.checkpoint, ways, **sizes):
        print(json.dumps(row | {"options": ""}), flush=True)


if __name__ == "__main__":
    main()
