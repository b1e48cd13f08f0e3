"""Imports point downwards only, and each third-party library stays in its room."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "unireason_jax"
LEVELS = {
    5: {
        "train",
        "rl",
        "generate",
        "evaluate",
        "benchmark",
        "ablation",
        "synthesize",
        "prepare",
        "encode",
        "convert",
        "new",
        "parity",
        "bench",
        "compile_check",
        "serve",
        "__main__",
    },
    4: {
        "compilation",
        "evals",
        "inference",
        "pictures",
        "proof",
        "reinforcement",
        "server",
        "speed",
        "synthesis",
    },
    3: {"endpoints", "run", "training"},
    2: {"models", "data", "world"},
    1: {"pods", "rules", "storage"},
}
LEVEL_OF = {room: level for level, rooms in LEVELS.items() for room in rooms}
ISLANDS_WITHOUT = {
    "data": {"jax", "flax", "optax", "orbax"},
    "pictures": {"jax", "flax", "optax", "orbax"},
    "storage": {"jax", "flax", "optax", "orbax", "grain"},
    "world": {"jax", "flax", "optax", "orbax", "grain"},
    "rules/visibility": {"jax", "flax"},
}
ONLY_IN = {
    "aiohttp": "endpoints",
    "aiolimiter": "endpoints",
    "flax": "models",
    "orbax": "training",
    "fastapi": "server",
    "grain": "data",
    "tensorboardX": "training/writers",
    "uvicorn": "server",
    "wandb": "training/writers",
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    """Top-level module or folder of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def lies_in(path: Path, place: str) -> bool:
    """Whether a file is a module or lies in a room, both named by their path in the package."""
    return path.is_relative_to(PACKAGE / place) or path == PACKAGE / f"{place}.py"


def imports_of(path: Path) -> set[str]:
    """Absolute dotted names a file imports, relative imports resolved."""
    names = set()
    package = ("unireason_jax", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return names


def loaded_with(module: str, found: set[str]) -> set[str]:
    """Third-party libraries and modules that are imported as soon as a module of ours is."""
    path = PACKAGE.parent / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if not path.exists():
        return found
    for node in ast.parse(path.read_text()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in set(names) - found:
            found.add(name)
            if name.startswith("unireason_jax."):
                loaded_with(name, found)
    return found


def test_a_server_starts_without_what_only_training_needs():
    loaded = loaded_with("unireason_jax.serve", set())
    loaded |= loaded_with("unireason_jax.server.process", set())
    assert {"jax", "unireason_jax.models.mot", "fastapi"} <= loaded
    assert not {name for name in loaded if name.partition(".")[0] in ("grain", "orbax")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    room = room_of(path)
    for name in imports_of(path):
        top, _, rest = name.partition(".")
        island = next((place for place in ISLANDS_WITHOUT if lies_in(path, place)), None)
        assert top not in ISLANDS_WITHOUT.get(island, ()), f"{island} must not import {top}"
        assert lies_in(path, ONLY_IN.get(top, room)), f"{top} is imported in {room}"
        target = rest.partition(".")[0]
        if top != "unireason_jax" or target == room or target not in LEVEL_OF or room == "__init__":
            continue
        world_source = (room, target) == ("data", "world")
        sideways_entry = LEVEL_OF[room] == LEVEL_OF[target] == 5
        same_room_level = LEVEL_OF[room] == LEVEL_OF[target] and LEVEL_OF[room] in (1, 3, 4)
        assert LEVEL_OF[target] < LEVEL_OF[room] or world_source or same_room_level, (
            f"{room} (level {LEVEL_OF[room]}) imports {target} (level {LEVEL_OF[target]})"
        )
        assert not sideways_entry


def test_every_room_has_a_level():
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert rooms <= set(LEVEL_OF), f"give these rooms a level: {rooms - set(LEVEL_OF)}"


def test_files_stay_short():
    long = {
        str(p.relative_to(PACKAGE)): n
        for p in FILES
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long
