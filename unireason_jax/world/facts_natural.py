"""Natural science: planets, plants, light and paint, heat, density, magnets, animals."""

from unireason_jax.world.facts import (
    ORDERED_SHAPES,
    Fact,
    chain,
    colored,
    counted,
    one,
    opened,
)
from unireason_jax.world.language import with_article
from unireason_jax.world.requirements import Requirement, Want, names_held_out_pair

DOMAIN = "natural_science"
THINGS = {
    "the planet mars": ("circle", "red", "large", "mars is a large red circle"),
    "the planet we live on": ("circle", "blue", "large", "we live on earth and earth is blue"),
    "the planet earth": ("circle", "blue", "large", "earth is a large blue circle"),
    "the sun": ("circle", "yellow", "large", "the sun is a large yellow circle"),
    "the moon": ("circle", "white", "large", "the moon is a large white circle"),
    "a snow ball": ("circle", "white", "small", "snow is white"),
    "a tomato": ("circle", "red", None, "a tomato is a red circle"),
    "a lemon": ("circle", "yellow", None, "a lemon is a yellow circle"),
    "a pea": ("circle", "green", "small", "a pea is a small green circle"),
    "a cherry": ("circle", "red", "small", "a cherry is a small red circle"),
    "a drop of blood": ("circle", "red", "small", "blood is red"),
    "a drop of water": ("circle", "blue", "small", "water is blue"),
    "a flame": ("triangle", "red", None, "a flame is a red triangle"),
    "a cell of ice": ("square", "white", None, "ice is white"),
}
COLORED = {
    "grass": "green",
    "blood": "red",
    "water": "blue",
    "a lemon": "yellow",
    "a pumpkin": "orange",
}
LIGHT = {
    ("red", "green"): "yellow",
    ("red", "blue"): "magenta",
    ("green", "blue"): "cyan",
}
PAINT = {("blue", "yellow"): "green", ("red", "yellow"): "orange"}
SINKS = ("stone", "iron")
FLOATS = ("wood", "ice")


def facts(side: int) -> list[Fact]:
    """Return the facts of this domain; they do not depend on the grid."""
    del side
    table = []
    for name, (shape, color, size, fact) in THINGS.items():
        kind = "sky" if size == "large" else "things"
        table.append(Fact(DOMAIN, kind, opened(name), fact, one(shape, color, size)))
    for thing, color in COLORED.items():
        cores = [f"the color of {thing}"]
        table += colored(DOMAIN, "colors", cores, f"{thing} is {color}", color)
    for what, mixes in (("light", LIGHT), ("paint", PAINT)):
        for (first, second), color in mixes.items():
            cores = [
                f"the color of {first} and {second} {what}",
                f"the color of {second} and {first} {what}",
            ]
            table += colored(DOMAIN, what, cores, f"{first} and {second} {what} is {color}", color)
    cores = ["the color of red green and blue light", "the color of all light"]
    table += colored(DOMAIN, "light", cores, "all light is white", "white")
    for hot, cold in ORDERED_SHAPES:
        requirement = Requirement((Want(hot, "red"), Want(cold, "blue")))
        prompts = opened(f"a hot {hot} and a cold {cold}", f"a cold {cold} and a hot {hot}")
        table.append(Fact(DOMAIN, "heat", prompts, "hot is red and cold is blue", requirement))
    for i, (low, high) in enumerate(ORDERED_SHAPES):
        heavy, light = SINKS[i % 2], FLOATS[i // 2 % 2]
        requirement = Requirement((Want(low, region="bottom"), Want(high, region="top")))
        floating = with_article(f"{light} {high}")
        sinking = with_article(f"{heavy} {low}")
        prompts = (
            f"{sinking} and {floating} in water",
            f"{floating} and {sinking} in water",
            f"draw {sinking} and {floating} in water",
        )
        fact = f"{heavy} is at the bottom and {light} at the top of water"
        table.append(Fact(DOMAIN, "density", prompts, fact, requirement))
    north, south = Want("square", "red"), Want("square", "blue")
    mixed = opened("a north magnet and a south magnet", "a south magnet and a north magnet")
    attract = "north is red and south is blue and they attract"
    table.append(Fact(DOMAIN, "magnets", mixed, attract, chain("beside", north, south)))
    for pole, want in (("north", north), ("south", south)):
        fact = f"{pole} is {want.color} and they repel"
        prompts = opened(f"two {pole} magnets")
        table.append(Fact(DOMAIN, "magnets", prompts, fact, chain("apart", want, want)))
    for animal, number, word in (("cat", 4, "four"), ("bird", 2, "two")):
        fact = f"a {animal} has {word} legs"
        table += counted(DOMAIN, "animals", f"a {animal} has legs", fact, number)
    return [fact for fact in table if not names_held_out_pair(fact.requirement)]
