"""Unified reasoning image models in JAX: they plan, draw, look, reflect and refine.

    import unireason_jax

    m = unireason_jax.load("runs/quickstart")
    m.generate("a red circle above a blue square")
    m.edit(image, "remove the red circle")
    m.ask(image, "what is above the blue square ?")
    m.generate(["a red circle", "a blue square"], size=(32, 32), timesteps=10, seed=7)

Each call returns a `Trace`, which a notebook shows as a strip. Importing the package is cheap; JAX
comes with the first `load`.
"""

from typing import Any


def load(checkpoint: Any, **options: Any) -> Any:
    """A `Reasoner` from a training run's directory or a converted official folder.

    Compiled programs are kept where the verbs keep theirs (`unireason_jax.run.compile_cache`).

    Args:
      checkpoint: the directory.
      **options: as `unireason_jax.inference.load.load`.

    Raises:
      FileNotFoundError, ValueError: no such run, or it does not fit its config.
    """
    from unireason_jax.inference import load as loading
    from unireason_jax.run import compile_cache

    compile_cache.share()
    return loading.load(checkpoint, **options)
