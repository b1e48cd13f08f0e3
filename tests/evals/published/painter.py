"""A stand-in for a model that draws what the world's prompt sets ask for, right or wrong.

Run as a program it is `unireason benchmark` with this painter, slow enough to be killed.
"""

import sys
import time

import numpy as np

from unireason_jax import benchmark
from unireason_jax.data.templates import PLAIN
from unireason_jax.evals.published.base import Item
from unireason_jax.inference.settings import Settings
from unireason_jax.inference.trace import Step, Trace
from unireason_jax.world.dice import Dice
from unireason_jax.world.renderer import blank, render
from unireason_jax.world.requirements import requirement_from_dict, sample_scene
from unireason_jax.world.scenes import SIDE, scene_from_dict


class Painter:
    """Draws the truth of items; every `wrong`th picture is empty.

    Args:
      items: whose ids records carry.
      wrong: 0 for never.
      seconds: it takes for a picture.
    """

    def __init__(self, items: list[Item], wrong: int = 0, seconds: float = 0.0):
        self.items, self.style = {item.id: item for item in items}, PLAIN
        self.settings = Settings()
        self.wrong, self.seconds, self.drawn = wrong, seconds, 0

    def run(self, records, *, samples=1):
        return [self.paint(record, n) for record in records for n in range(samples)]

    def paint(self, record, sample):
        time.sleep(self.seconds)
        self.drawn += 1
        place = list(self.items).index(record.id)
        image = self.truth(self.items[record.id], sample)
        if self.wrong and place % self.wrong == self.wrong - 1:
            image = blank(SIDE)
        step = Step("image", "image", image=np.array(image))
        return Trace(record.id, record.source, (step,), sample=sample)

    def truth(self, item, sample):
        world = item.raw["world"]
        if "target" in world:
            return render(scene_from_dict(world["target"]))
        if "requirement" not in world:  # DPG: everything that is named
            return render(
                sample_scene(
                    requirement_from_dict({"wants": world["wants"][1::2], "relations": []}),
                    Dice(1, sample),
                )
            )
        return render(sample_scene(requirement_from_dict(world["requirement"]), Dice(0, sample)))


def main(argv):
    wrong, seconds = int(argv[0]), float(argv[1])
    arguments = benchmark.parser().parse_args(argv[2:])
    items = benchmark.SUITES[arguments.suite].load(arguments.prompts)
    benchmark.from_flags = lambda _: Painter(items, wrong, seconds)
    benchmark.told = lambda arguments: arguments.checkpoint
    answer = benchmark.ProgramJudge.__call__

    def slowly(self, question, attempt):
        time.sleep(seconds)
        return answer(self, question, attempt)

    benchmark.ProgramJudge.__call__ = slowly
    benchmark.run(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
