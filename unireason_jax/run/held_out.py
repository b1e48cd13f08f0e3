"""The held-out records of a config, one by one."""

import contextlib
import itertools
from collections.abc import Iterator

from ml_collections import ConfigDict

from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.sources import WorldSource
from unireason_jax.run import corpus
from unireason_jax.world.tasks import is_hard


def requests(config: ConfigDict) -> Iterator[Record]:
    """Held-out records for drawing samples: the world's prompts, or those of the sources in turn.

    Records that cannot be read are left out.

    Raises:
      ConfigError, FileNotFoundError, ValueError: as `make_sources`.
    """
    seed, style, data = (config.data.seed + 1) % 2**32, corpus.style_of(config), config.data
    if data.source == "world":
        settings = {"held_out": True, "style": style, "side": data.side}
        task = "hard_t2i" if is_hard(data.mixture) else "t2i"
        world = WorldSource(seed, config.eval.examples, {task: 1.0}, **settings)
        sources: corpus.Sources = {"world": world}
    else:
        sources = corpus.make_sources(config, seed=seed, held_out=True)[0]
    in_turn = (zip(itertools.repeat(one), range(len(one))) for one in sources.values())
    for source, index in filter(None, itertools.chain(*itertools.zip_longest(*in_turn))):
        with contextlib.suppress(RecordError, OSError):
            yield source[index]
