"""Temporal reasoning: what comes after, clocks, motion, growth, and things that come and go."""

from unireason_jax.world.facts import Fact, chain, many, one, opened
from unireason_jax.world.language import NUMBERS, phrase
from unireason_jax.world.requirements import Want
from unireason_jax.world.scenes import SHAPES, SIDE, TRAIN_PAIRS, cell_names, row_column

DOMAIN = "temporal"
LIGHTS = ("green", "yellow", "red")
CLOCK = (("twelve", "top"), ("three", "right"), ("six", "bottom"), ("nine", "left"))
STEPS = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
THINGS = {
    "a seed": ("circle", "orange", "small", "a seed is a small orange circle"),
    "a young tree": ("triangle", "green", "small", "a young tree is small"),
    "an old tree": ("triangle", "green", "large", "an old tree is large"),
    "a tree in summer": ("triangle", "green", "large", "a tree in summer is green"),
    "a tree in winter": ("triangle", "white", "large", "a tree in winter is white with snow"),
    "the light in the sky at day": ("circle", "yellow", "large", "the sun is the light at day"),
    "the light in the sky at night": (
        "circle",
        "white",
        "large",
        "the moon is the light at night",
    ),
    "the light in the sky after the day": (
        "circle",
        "white",
        "large",
        "after day is night",
    ),
    "the light in the sky after the night": ("circle", "yellow", "large", "after night is day"),
    "a young tomato": ("circle", "green", None, "a young tomato is green"),
    "an old tomato": ("circle", "red", None, "an old tomato is red"),
}


def _clock() -> list[Fact]:
    table = []
    for i, (start, place) in enumerate(CLOCK):
        table.append(
            Fact(
                DOMAIN,
                "clock",
                opened(f"the hour on a clock at {start}"),
                f"{start} is at the {place}",
                one("circle", "white", "small", place),
            )
        )
        for k, (passed, _) in enumerate(CLOCK[1:], 1):
            for word, step in (("after", k), ("before", -k)):
                end, where = CLOCK[(i + step) % 4]
                core = f"the hour on a clock {passed} hours {word} {start}"
                fact = f"{passed} hours {word} {start} is {end} at the {where}"
                requirement = one("circle", "white", "small", where)
                table.append(Fact(DOMAIN, "clock", opened(core)[:2], fact, requirement))
    return table


def _motion(side: int) -> list[Fact]:
    table = []
    names = cell_names(side)
    for i, cell in enumerate(names):
        row, col = row_column(cell)
        for j, (word, (dy, dx)) in enumerate(STEPS.items()):
            distance = 1 + (i + j) % 2
            to = (row + dy * distance, col + dx * distance)
            if (i + j) % 3 or not (0 <= to[0] < side and 0 <= to[1] < side):
                continue
            want = Want(*TRAIN_PAIRS[(i * 5 + j * 9) % len(TRAIN_PAIRS)])
            goal = names[to[0] * side + to[1]]
            count = "one cell" if distance == 1 else "two cells"
            core = f"{phrase(want)} at {cell} after it moves {count} {word}"
            fact = f"{count} {word} of {cell} is {goal}"
            requirement = one(want.shape, want.color, None, goal)
            table.append(Fact(DOMAIN, "motion", opened(core), fact, requirement))
    return table


def _change() -> list[Fact]:
    table = []
    for i, color in enumerate(LIGHTS):
        for word, step in (("after", 1), ("before", -1)):
            other = LIGHTS[(i + step) % 3]
            prompts = opened(f"the stop light {word} {color}")
            fact = f"{word} {color} is {other}"
            table.append(Fact(DOMAIN, "lights", prompts, fact, one("circle", other)))
    for shape in SHAPES:
        for start, step in ((4, -1), (4, -2), (3, -1), (3, -2), (1, 1), (1, 2), (2, 1), (2, 2)):
            before = phrase(Want(shape, None, None, None, start))
            number, after = NUMBERS[abs(step)], start + step
            verb = ("leave" if step < 0 else "come") + ("s" if step in (-1, 1) else "")
            prompts = (f"{before} , then {number} {verb}", f"draw {before} , then {number} {verb}")
            sign = "minus" if step < 0 else "plus"
            fact = f"{NUMBERS[start]} {sign} {number} is {NUMBERS[after]}"
            table.append(Fact(DOMAIN, "counts", prompts, fact, many(after, shape)))
    return table


def facts(side: int = SIDE) -> list[Fact]:
    """Return the facts of this domain on a grid of `side` x `side` cells."""
    table = [
        Fact(DOMAIN, "growth" if "tree" in name else "days", opened(name), fact, one(*look))
        for name, (*look, fact) in THINGS.items()
    ]
    young, old = Want("triangle", "green", "small"), Want("triangle", "green", "large")
    fact = "a young tree is small and an old tree is large"
    prompts = opened("a young tree left of an old tree")
    table.append(Fact(DOMAIN, "growth", prompts, fact, chain("left of", young, old)))
    prompts = opened("a young tree right of an old tree")
    table.append(Fact(DOMAIN, "growth", prompts, fact, chain("right of", young, old)))
    return table + _clock() + _motion(side) + _change()
