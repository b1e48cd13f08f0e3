"""The words of the harder world, those of its control tokens and tags included elsewhere."""

from unireason_jax.world.hard.asking import FACTS, OPENINGS, SHADES
from unireason_jax.world.hard.lessons import QUESTION
from unireason_jax.world.hard.things import SIDE
from unireason_jax.world.hard.wishes import LINES, RELATIONS
from unireason_jax.world.hard.words import COUNTS, ORDINALS
from unireason_jax.world.language import PLURALS
from unireason_jax.world.scenes import COLORS, SHAPES, SIZES, cell_names

_GRAMMAR = (
    ", a an the and or of in at to but no one them none as many with each front plus minus right "
    "missing extra alone change add remove move color top bottom"
)
_SAID = " ".join([_GRAMMAR, QUESTION, *OPENINGS, *FACTS, *SHADES, *RELATIONS])
_CLOSED = (*SHAPES, *PLURALS.values(), *COLORS, *SIZES, *COUNTS, *ORDINALS, *LINES)


def words_of(side: int = SIDE) -> tuple[str, ...]:
    """All words of a canvas of `side` cells."""
    return tuple(dict.fromkeys([*_CLOSED, *cell_names(side), *_SAID.split()]))
