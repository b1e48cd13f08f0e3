"""Real photographs that lie in scikit-image's wheel, as a folder that `unireason prepare` reads."""

import importlib.util
import json
from pathlib import Path

from PIL import Image, ImageOps

CAPTIONS = {
    "astronaut.png": "an astronaut in an orange suit smiles beside a flag",
    "chelsea.png": "a tabby cat looks into the camera",
    "coffee.png": "a cup of coffee with a spoon on a wooden table",
    "rocket.jpg": "a rocket takes off at night",
    "retina.jpg": "the retina of an eye",
    "motorcycle_left.png": "a motorcycle in a garage full of tools",
    "ihc.png": "brown and blue cells under a microscope",
    "camera.png": "a man with a camera on a tripod, in black and white",
    "coins.png": "rows of old coins on a dark cloth",
    "moon.png": "the surface of the moon",
    "brick.png": "a wall of bricks",
    "hubble_deep_field.jpg": "galaxies in the black of space",
}
"""Caption by file; astronaut, moon and galaxies are NASA's, the others are free too (CC0)."""


def source() -> Path:
    """The folder inside the installed package; nothing is downloaded."""
    found = importlib.util.find_spec("skimage")
    return Path(found.submodule_search_locations[0]) / "data"


def write(folder: Path, side: int, count: int | None = None) -> Path:
    """Writes `count` photographs as squares of `side` pixels, with metadata.jsonl; the folder."""
    folder.mkdir(parents=True)
    rows = []
    for name, caption in list(CAPTIONS.items())[:count]:
        with Image.open(source() / name) as picture:
            square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
        square.save(folder / f"{Path(name).stem}.jpg", quality=92)
        rows.append({"file_name": f"{Path(name).stem}.jpg", "text": caption})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
