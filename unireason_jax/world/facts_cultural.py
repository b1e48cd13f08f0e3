"""Cultural commonsense: flags, signs, medals, games and everyday things."""

from unireason_jax.world.facts import Fact, chain, colored, counted, one, opened
from unireason_jax.world.requirements import Want

DOMAIN = "cultural"
UPRIGHT_FLAGS = {
    "france": ("blue", "white", "red"),
    "italy": ("green", "white", "red"),
    "ireland": ("green", "white", "orange"),
    "romania": ("blue", "yellow", "red"),
    "mali": ("green", "yellow", "red"),
    "peru": ("red", "white", "red"),
}
FLAT_FLAGS = {
    "hungary": ("red", "white", "green"),
    "austria": ("red", "white", "red"),
    "bolivia": ("red", "yellow", "green"),
    "russia": ("white", "blue", "red"),
    "poland": ("white", "red"),
    "ukraine": ("blue", "yellow"),
}
THINGS = {
    "the stop light": ("circle", "red", None, "stop is red"),
    "the wait light": ("circle", "yellow", None, "wait is yellow"),
    "the go light": ("circle", "green", None, "go is green"),
    "the danger sign": ("triangle", "yellow", None, "the danger sign is a yellow triangle"),
    "the hospital sign": ("cross", "red", None, "a hospital has a red cross"),
    "the pharmacy sign": ("cross", "green", None, "a pharmacy has a green cross"),
    "the flag of japan": ("circle", "red", None, "japan has a red circle"),
    "a gold medal": ("circle", "yellow", None, "gold is yellow"),
    "a silver medal": ("circle", "white", None, "silver is white"),
    "a bronze medal": ("circle", "orange", None, "bronze is orange"),
    "the medal for first place": ("circle", "yellow", None, "first place is gold and yellow"),
    "the medal for second place": ("circle", "white", None, "second place is silver and white"),
    "the medal for third place": ("circle", "orange", None, "third place is bronze and orange"),
    "a pumpkin": ("circle", "orange", "large", "a pumpkin is a large orange circle"),
    "a christmas tree": ("triangle", "green", "large", "a christmas tree is a green triangle"),
    "a tennis ball": ("circle", "yellow", "small", "a tennis ball is small and yellow"),
    "a golf ball": ("circle", "white", "small", "a golf ball is small and white"),
    "a basket ball": ("circle", "orange", "large", "a basket ball is large and orange"),
    "a taxi": ("square", "yellow", None, "a taxi is a yellow square"),
    "a pyramid": ("triangle", "yellow", "large", "a pyramid is a large yellow triangle"),
}


def facts(side: int) -> list[Fact]:
    """Return the facts of this domain; they do not depend on the grid."""
    del side
    table = []
    for flags, relation, ends in (
        (UPRIGHT_FLAGS, "left of", ("left", "right")),
        (FLAT_FLAGS, "above", ("top", "bottom")),
    ):
        for country, colors in flags.items():
            flag = f"{country} has {' '.join(colors)}"
            stripes = chain(relation, *(Want("square", c) for c in colors), aligned=True)
            prompts = opened(f"the flag of {country}", f"the flag of {country} in squares")
            table.append(Fact(DOMAIN, "flags", prompts, flag, stripes))
            for end, color in zip(ends, (colors[0], colors[-1])):
                core = f"the {end} stripe of the flag of {country}"
                table.append(Fact(DOMAIN, "stripes", opened(core), flag, one("square", color)))
    for name, (shape, color, size, fact) in THINGS.items():
        kind = next((k for k in ("light", "sign", "medal", "ball") if k in name), "things")
        table.append(Fact(DOMAIN, kind, opened(name), fact, one(shape, color, size)))
    for thing, number in (("car", 4), ("bicycle", 2)):
        core, word = f"a {thing} has wheels", "four" if number == 4 else "two"
        table += counted(DOMAIN, "counts", core, f"a {thing} has {word} wheels", number)
    for metal, color in (("gold", "yellow"), ("bronze", "orange")):
        cores = [f"the color of {metal}"]
        table += colored(DOMAIN, "metals", cores, f"{metal} is {color}", color)
    return table
