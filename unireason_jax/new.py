"""`unireason new`: a project for tuning on one's own records, to be filled and made.

    unireason new mine
    cd mine && make train

Written are config.py (what is trained), a Makefile (the commands, one a target) and data/, a folder
for each kind of record with two rows to be replaced by one's own: captions, edits, questions,
refinements. `make` without a target lists what there is. A folder that is not empty is left alone.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from unireason_jax.run import command_line

SIDE = 256
PICTURES = {
    "red_circle": ("circle", "red"),
    "blue_circle": ("circle", "blue"),
    "red_square": ("square", "red"),
    "blue_square": ("square", "blue"),
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "captions": [
        {"file_name": "red_circle.png", "text": "a red circle"},
        {"file_name": "blue_square.png", "text": "a blue square"},
    ],
    "edits": [
        {
            "task": "edit",
            "instruction": "make the circle blue",
            "input_image": "red_circle.png",
            "output_image": "blue_circle.png",
        },
        {
            "task": "edit",
            "instruction": "make the square red",
            "input_image": "blue_square.png",
            "output_image": "red_square.png",
        },
    ],
    "questions": [
        {
            "task": "vqa",
            "image": "red_circle.png",
            "question": "what color is the circle ?",
            "answer": "red",
        },
        {
            "task": "vqa",
            "image": "blue_square.png",
            "question": "what shape is blue ?",
            "answer": "a square",
        },
    ],
    "refinements": [
        {
            "task": "refine_t2i",
            "prompt": "a blue circle",
            "explanation": "one circle, filled with blue",
            "draft": "red_circle.png",
            "rounds": [
                {"reflection": "the circle is red; make it blue", "image": "blue_circle.png"}
            ],
            "final_reflection": "nothing is left to change",
        },
        {
            "task": "refine_t2i",
            "prompt": "a red square",
            "explanation": "",
            "draft": "red_square.png",
            "rounds": [],
            "final_reflection": "nothing is left to change",
        },
    ],
}
"""Rows by folder of data/."""
CONFIG = '''"""What `make train` trains: configs/own_data.py, on the folders of data/.

A share of 0 leaves a folder out. `unireason train --config config.py --help` lists every key.
"""

from configs import own_data


def get_config(options: str = "512"):
    """The config; `options` as in configs/own_data.py: a size, `full`, or both."""
    config = own_data.get_config(options)
    config.init_from = "checkpoints/bagel"
    config.data.source = "latents"
    config.data.groups = {GROUPS}
    return config
'''
MAKEFILE = """# CHECKPOINT is what `unireason convert --from bagel` wrote.
CHECKPOINT ?= checkpoints/bagel
SIZES ?= bagel_512
UNIREASON ?= unireason
PROMPT ?= a red circle
GROUPS = {groups}

help:
	@echo "make train      prepare and encode data/, then tune into runs/mine"
	@echo "make dry_run    what training would take, and the first row as a picture"
	@echo "make generate   draw PROMPT='...' into pictures_of_mine"
	@echo "make export     write BAGEL's own format into release"
	@echo "CHECKPOINT=$(CHECKPOINT) SIZES=$(SIZES) (bagel_256, bagel_512, or bagel for 1024)"

.SECONDEXPANSION:
pictures/%/manifest.json: $$(wildcard data/$$*/*)
	$(UNIREASON) prepare --input data/$* --output $(@D) --sizes $(SIZES) \\
	--tokenizer $(CHECKPOINT)/tokenizer --overwrite
latents/%/manifest.json: pictures/%/manifest.json
	$(UNIREASON) encode --input $(<D) --output $(@D) --vae $(CHECKPOINT)/ae.safetensors \\
	--overwrite
LATENTS = $(GROUPS:%=latents/%/manifest.json)
TRAIN = $(UNIREASON) train --config config.py --workdir runs/mine \\
    --config.init_from=$(CHECKPOINT)

train: $(LATENTS)
	$(TRAIN)
dry_run: $(LATENTS)
	$(TRAIN) --dry_run
generate:
	$(UNIREASON) generate --checkpoint runs/mine --prompt "$(PROMPT)" --out pictures_of_mine
export:
	$(UNIREASON) convert --to bagel --input runs/mine --output release

.PHONY: help train dry_run generate export
.SECONDARY:
"""


def write(folder: Path) -> list[str]:
    """Writes the project into a new or empty folder; returns what was made, one line each.

    Raises:
      FileExistsError: there is something in the folder already.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is not empty; name a new folder")
    for group, rows in ROWS.items():
        place = folder / "data" / group
        place.mkdir(parents=True)
        text = json.dumps(rows)
        for name, (shape, color) in PICTURES.items():
            if f"{name}.png" in text:
                _picture(shape, color).save(place / f"{name}.png")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (place / "metadata.jsonl").write_text(lines)
    groups = ", ".join(f'"{name}": 1.0' for name in ROWS)
    (folder / "config.py").write_text(CONFIG.replace("{GROUPS}", f"{{{groups}}}"))
    (folder / "Makefile").write_text(MAKEFILE.replace("{groups}", " ".join(ROWS)))
    return [
        f"{folder}/data: {', '.join(ROWS)}, two rows each, to be replaced by your own",
        f"{folder}/config.py: what is trained",
        f"{folder}/Makefile: the commands",
        f"next: unireason convert --from bagel --input BAGEL-7B-MoT --output {folder}"
        f"/checkpoints/bagel; then make -C {folder} train",
    ]


def _picture(shape: str, color: str) -> Image.Image:
    """A shape on white."""
    made = Image.new("RGB", (SIDE, SIDE), "white")
    draw, box = ImageDraw.Draw(made), (SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4)
    (draw.ellipse if shape == "circle" else draw.rectangle)(box, fill=color)
    return made


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="unireason new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("folder", type=Path, help="new, or empty")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; ends with one clear line where the folder cannot be written."""
    lines = command_line.run(parser(), lambda given: write(given.folder), argv)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
