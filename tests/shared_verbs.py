"""`evaluate` or `synthesize` as a program whose model is a stand-in, to be run as joined processes.

What a process draws is written to DRAWN/<number of the process>.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax

from tests.evals.world.test_evaluation import Oracle
from tests.test_synthesize import Drafter
from unireason_jax import evaluate, synthesize
from unireason_jax.pods import pod


def noting(model):
    """A model that writes down what it draws."""
    run = model.run

    def noted(records, **options):
        file = Path(os.environ["DRAWN"]) / str(jax.process_index())
        with file.open("a") as drawn:
            drawn.writelines(f"{record.source} {record.id}\n" for record in records)
        return run(records, **options)

    model.run = noted
    return model


if __name__ == "__main__":
    evaluate.from_flags = lambda _: noting(Oracle(wrong=True))
    config = SimpleNamespace(data=SimpleNamespace(mixture={}, source=""))
    # As in a real one, all processes look through a checkpoint together.
    evaluate.weights_told = lambda _: pod.gather("weights", "a stand-in's")[0]
    evaluate.Run = SimpleNamespace(load=lambda _: SimpleNamespace(config=config))
    synthesize.from_flags = lambda _: noting(Drafter())
    {"evaluate": evaluate, "synthesize": synthesize}[sys.argv[1]].main(sys.argv[2:])
