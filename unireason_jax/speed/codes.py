"""`unireason bench codes`: what drawing a picture code by code is compiled to, and what it needs.

A forward pass a code, with and without the prompt side by side: of one token for each row, of which
the generation head, and no other, makes the next code. Nothing of the model's size is allocated
unless drawings are timed.
"""

from typing import Any

import jax
import jax.numpy as jnp

from unireason_jax.compilation import hlo
from unireason_jax.inference import cache as caches
from unireason_jax.inference import sampler
from unireason_jax.models import functional
from unireason_jax.models.config import variant
from unireason_jax.models.janus.config import JanusConfig
from unireason_jax.pods import sharding
from unireason_jax.speed.sampling import IMAGE_PROMPT, forward_flops, measure

SLOTS = 64  # of a prompt's cache
GUIDANCE = 5.0


def run(name: str, *, dtype: str = "float32", batch: int = 1, repeats: int = 0) -> dict[str, Any]:
    """Counts the operations of a guided picture on one device, and times it where asked to.

    Args:
      name: a variant that draws with codes.
      dtype: of the matmuls and the weights they read.
      batch: pictures drawn together.
      repeats: timed drawings with random weights, after one that compiles; 0 for none.

    Returns:
      Plain numbers. FLOPs are of a picture: `compiled_flops` of all products of the program,
      `needed_flops` of those that its result depends on, where a code sees what came before it
      alone; `ratio` is the first by the second.

    Raises:
      ValueError: a variant that does not exist, or that draws by flow.
    """
    with jax.set_mesh(sharding.make_mesh(devices=jax.devices()[:1])):
        return _run(name, dtype, batch, repeats)


def _run(name: str, dtype: str, batch: int, repeats: int) -> dict[str, Any]:
    """The work of `run`, on the mesh that is set."""
    model = variant(name, dtype=dtype)
    if not isinstance(model, JanusConfig):
        raise ValueError(f"{name} draws by flow; `unireason bench image` measures that.")
    vocab = model.llm.vocab
    markers = caches.Markers(bos=vocab - 4, eos=vocab - 3, soi=vocab - 2, eoi=vocab - 1)
    fixed = {"config": model, "markers": markers, "count": model.codes.count}
    drawing = (jnp.zeros(batch, jnp.uint32), jnp.float32(GUIDANCE), jnp.float32(1.0))

    def contexts() -> tuple[caches.Cache, ...]:
        lengths = jnp.full(batch, IMAGE_PROMPT, jnp.int32)
        empty = caches.empty(model, batch, SLOTS)
        filled = caches.Cache(empty.k, empty.v, lengths, lengths)
        return (filled, filled)

    shapes = functional.abstract(model), jax.eval_shape(contexts)
    compiled = sampler.draw_codes.lower(*shapes, *drawing, **fixed).compile()
    flops = hlo.parse(compiled.as_text()).matmul_flops() / batch
    needed = flops_of(model, IMAGE_PROMPT + (model.codes.count + 1) / 2)
    found = {"bench": "codes", "variant": name, "dtype": dtype, "batch": batch}
    found |= {"backend": jax.default_backend(), "forwards": model.codes.count, "rows": 2}
    found |= {"compiled_flops": flops, "needed_flops": needed, "ratio": flops / needed}
    if repeats:
        params = jax.jit(functional.init, static_argnums=0)(model, jax.random.key(0))
        model, params = functional.for_sampling(model, params)
        fixed["config"] = model
        times = measure(lambda: sampler.draw_codes(params, contexts(), *drawing, **fixed), repeats)
        found |= times | {"cpu_s_per_forward": times["cpu_median_s"] / model.codes.count / batch}
    return found


def flops_of(model: JanusConfig, context: float) -> float:
    """FLOPs of one guided picture, each of whose codes sees `context` keys on the average."""
    width, codes = model.llm.width, model.codes
    fed = codes.width * width + width**2  # the first token is a word, which is only looked up
    head = width**2 + width * codes.size
    passes = forward_flops(model, codes.count, context)
    return 2 * (passes + 2.0 * (codes.count * head + (codes.count - 1) * fed))
