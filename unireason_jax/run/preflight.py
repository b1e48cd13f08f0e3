"""Everything that a training run would fail on, found before it starts; for the dry run."""

from collections.abc import Callable
from typing import Any

from etils import epath

from unireason_jax.run import corpus, init_from, initial_state
from unireason_jax.run.run import Run
from unireason_jax.training import checkpoint, writers


def problems(run: Run, workdir: epath.PathLike) -> list[str]:
    """What a run would fail on, one line each; nothing is loaded or changed."""
    config = run.config
    found = [f"{path} does not exist" for path in corpus.absent(config)]
    checks: list[Callable[[], Any]] = [lambda: _weights(run, workdir)]
    if config.eval.every:
        checks.append(lambda: _held_out(run))
    checks.append(lambda: writers.check(config.train))
    for check in checks:
        try:
            check()
        except (ValueError, OSError) as error:
            found.append(str(error))
    return found


def _weights(run: Run, workdir: epath.PathLike) -> None:
    """Whether the weights are there and fit; see `initial_state.starting_state` for the order."""
    config = run.config
    if checkpoint.steps(workdir):
        checkpoint.check_state(workdir, run.abstract)
    elif config.resume_from:
        checkpoint.check_state(config.resume_from, run.abstract)
    elif init_from.named(config) != init_from.SCRATCH:
        initial_state.check_weights(run)
    else:
        initial_state.refuse_scratch(run)


def _held_out(run: Run) -> None:
    """Whether the evaluation has batches."""
    if run.config.eval.batches < 1:
        raise ValueError("eval.batches is 0; set it to 1 or more, or eval.every=0.")
    corpus.check_held_out(run.config)
    if run.has_records:
        pipeline = run.pipeline(held_out=True)
        next(pipeline)
        pipeline.close()
