"""The world served over HTTP, and configurations that name it."""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireason_jax.endpoints.loopback import Faults, Loopback
from unireason_jax.endpoints.pictures import opened, png
from unireason_jax.synthesis import recipe as recipes
from unireason_jax.synthesis import running
from unireason_jax.synthesis.world_models import MODEL, Errors, WorldModels

KEY = "sk-world-0123456789abcdef"
SIDE = 4
ALL_FAULTS = ("429", "500", "cut", "malformed", "refusal", "no_json", "parts", "null", "usage")
SAID_AGAIN = ("refusal", "no_json", "parts", "usage", "small")


def half_size(found):
    """An answer whose picture has another size than was asked for."""
    if "data" not in found:
        return found
    image = opened(base64.b64decode(found["data"][0]["b64_json"]))
    small = png(np.ascontiguousarray(image[::2, ::2]))
    return {"data": [{"b64_json": base64.b64encode(small).decode()}]}


def serve(count=40, faults=0.0, errors=None, recipe="refine_t2i", **options):
    """A server of the world with a share of every fault; .world is who answers."""
    world = WorldModels(5, count, SIDE, errors or Errors(), recipe)
    shares = dict.fromkeys((*ALL_FAULTS, "small"), faults) if faults else {}
    drawn = Faults(shares, spoil={"small": half_size}, lasting=SAID_AGAIN)
    server = Loopback(world, drawn, models=(MODEL,), key=KEY, **options)
    server.world = world
    return server


def write(folder, server, name="refine_t2i", rows=None, **changes):
    """Seeds and a configuration of a folder; returns the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = server.world.seeds(folder) if rows is None else rows
    (folder / "seeds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    side = 8 * SIDE
    top = {
        "seeds": "seeds.jsonl",
        "licence": "CC0-1.0",
        "benchmarks": [],
        "size": [side, side],
        **changes.pop("top", {}),
    }
    endpoint = {"url": server.url, "model": MODEL, "key": "WORLD_KEY", "wait": 0.01}
    endpoint |= {"timeout": 60, "retries": 3, "prices": [1.0, 2.0], "price_image": 0.01}
    endpoint |= {"concurrency": 16, **changes}
    lines = [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for role in recipes.load(recipes.folder_of(name)).roles():
        lines += [f"[[roles.{role}.endpoints]]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in endpoint.items()]
    (folder / "agents.toml").write_text("\n".join(lines) + "\n")
    return folder / "agents.toml"


def run(config, out, name="refine_t2i", share=(1, 1), limit=0):
    """What `unireason synthesize --recipe` does, without what it imports for models of its own."""
    return running.run(*running.prepared(name, config, share, limit), out)


def records(out):
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def picture(out, name):
    with Image.open(out / name) as found:
        return np.asarray(found.convert("RGB"))


def refused(capsys, *arguments):
    """The one line that the command ends with."""
    from unireason_jax import synthesize  # with what it imports for models of its own

    with pytest.raises(SystemExit) as end:
        synthesize.main([*map(str, arguments)])
    said = str(end.value) if isinstance(end.value.code, str) else capsys.readouterr().err
    assert "\n" not in said.strip() and "Traceback" not in said
    return said


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
