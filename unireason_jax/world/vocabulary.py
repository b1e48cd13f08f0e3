"""Every word of the world, so that a word-level tokenizer has no unknown word.

All words are lower case and separated by blanks; the comma is a word of its own. With control
tokens and tags the vocabulary leaves room below 256 for padding and unknown tokens.
"""

from unireason_jax.world.language import NUMBERS, PLURALS
from unireason_jax.world.scenes import COLORS, SHAPES, SIZES, cell_names

MAX_VOCABULARY = 256
CONTROL_TOKENS = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
TAGS = tuple(
    f"<{slash}{name}>" for name in ("think", "sugg", "ins", "des", "refine") for slash in ("", "/")
)
_GRAMMAR = (
    ", a an the and or of in at to on with from for as is are it that then so if else not no yes "
    "all every everything nothing there they we what where how many more most than same next one"
)
_PICTURE = (
    "picture object objects shape color size cell cells row column corner middle top bottom left "
    "right above below up down between opposite far both first second third common odd quarter"
)
_ACTIONS = (
    "draw make add remove change move moves swap mirror turn fall falls let sort complete continue "
    "conflict needs leave leaves come comes live stop wait go attract repel plus minus after before"
)
_THINGS = (
    "flag stripe france italy ireland romania mali peru hungary austria bolivia russia poland "
    "ukraine japan sign light danger hospital pharmacy medal gold silver bronze place pumpkin "
    "christmas tree tennis golf basket ball taxi pyramid car bicycle wheels has planet mars earth "
    "sun moon snow tomato lemon pea cherry drop blood water flame ice grass paint hot cold stone "
    "iron wood magnet magnets north south cat bird legs clock hour hours nine twelve seed young "
    "old summer winter sky day night"
)
_CLOSED = (*SHAPES, *PLURALS.values(), *COLORS, *SIZES, *cell_names(), *NUMBERS)
WORDS = tuple(
    dict.fromkeys(
        [*_CLOSED, *" ".join((_GRAMMAR, _PICTURE, _ACTIONS, _THINGS)).split()],
    )
)
VOCABULARY = (*CONTROL_TOKENS, *TAGS, *WORDS)
