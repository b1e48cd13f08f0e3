"""Recorded protocols written by hand: contexts as lists, their slots and positions counted."""

import json
from typing import Any

LATENT, VIT = 16, 14
DRAWN = {
    "cfg_text_scale": 4.0,
    "cfg_img_scale": 1.0,
    "cfg_interval": [0.4, 1.0],
    "cfg_renorm_type": "global",
    "cfg_renorm_min": 0.0,
    "num_timesteps": 50,
    "timestep_shift": 3.0,
}
EDITED = DRAWN | {
    "cfg_img_scale": 2.0,
    "cfg_interval": [0.0, 1.0],
    "cfg_renorm_type": "text_channel",
}


def vae(image: str, height: int, width: int) -> dict[str, Any]:
    """A picture shown as latents."""
    return {"kind": "vae", "image": image, "size": [height, width]}


def vit(image: str, height: int, width: int) -> dict[str, Any]:
    """A picture shown to the ViT."""
    return {"kind": "vit", "image": image, "size": [height, width]}


def context(*parts: Any) -> dict[str, Any]:
    """A context of texts and pictures without gaps."""
    contents, slots, rope = [], 0, 0
    for part in parts:
        if isinstance(part, str):
            contents.append({"kind": "text", "text": part})
            slots, rope = slots + len(part.encode()) + 2, rope + len(part.encode()) + 2
        else:
            contents.append(part)
            cell = LATENT if part["kind"] == "vae" else VIT
            slots += part["size"][0] // cell * (part["size"][1] // cell) + 2
            rope += 1
    return {"contents": contents, "slots": slots, "rope": rope}


def wrote(text: str, *parts: Any, limit: int, temperature: float | None = 0.3) -> dict[str, Any]:
    """A text written from a context; greedy where the temperature is None."""
    return {
        "op": "gen_text",
        **context(*parts),
        "max_length": limit,
        "do_sample": temperature is not None,
        "temperature": 0.3 if temperature is None else temperature,
        "returns": text,
    }


def drew(image: str, size: list[int], full: list, *guides: list, **settings: Any) -> dict[str, Any]:
    """An image drawn from a context and up to two poorer ones."""
    values = DRAWN | settings
    late = values["cfg_interval"][0] > 0
    names = ["cfg_text", "cfg_img"]
    found = {name: context(*guide) for name, guide in zip(names, guides)}
    return {
        "op": "gen_image",
        "full": context(*full),
        **dict.fromkeys(names),
        **found,
        "evaluated_when_guided": ["full", *found],
        "size": size,
        **values,
        "euler_steps": 49,
        "guided_steps": {3.0: 41, 4.0: 42}[values["timestep_shift"]] if late else 49,
        "returns": [image],
    }


def case(
    system: str,
    source: dict[str, Any],
    inputs: dict[str, Any],
    sizes: dict[str, list[int]],
    *calls: dict[str, Any],
) -> dict[str, Any]:
    """A whole recording; `sizes` of all pictures by name."""
    images = [{"name": name, "size": size, "rgb": [9, 9, 9]} for name, size in sizes.items()]
    return {
        "format": "protocol-1",
        "name": "case",
        "system": system,
        "source": source,
        "tokenizer": "bytes",
        "inputs": inputs,
        "images": images,
        "stub_texts": [call["returns"] for call in calls if call["op"] == "gen_text"],
        "events": [*calls, {"op": "end"}],
    }


def save(folder, *cases: dict[str, Any]) -> None:
    """Writes cases as files of a folder."""
    for number, one in enumerate(cases):
        named = one | {"name": f"{one['system']}_{number}"}
        (folder / f"{named['name']}.json").write_text(json.dumps(named))
