"""Recordings of Janus-Pro: a small release with recorded pictures, prompts, tensors and steps."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unireason_jax.data.janus import pictures, prompts
from unireason_jax.data.janus.tokenizer import JanusTokenizer
from unireason_jax.models import functional
from unireason_jax.models.archive import Archive, read_json
from unireason_jax.models.janus import release, release_config
from unireason_jax.models.janus.model import Janus
from unireason_jax.proof.golden import read
from unireason_jax.proof.verdicts import Report

MARK = "templates.json"
FORWARD, LOOSE = 5e-6, 2e-5
LOOSE_FILES = ("vq",)
"""Files whose tensors are held to `LOOSE`, as are pixels and gradients anywhere."""


class JanusGolden:
    """A folder of recordings and the model that they were made with.

    Attributes:
      folder: where.
      config, tokenizer_config: sizes of the network and of its VQ tokenizer.
      params, vq: their parameters.
    """

    def __init__(self, folder: Path, dtype: str = "float32"):
        """Loads the checkpoint as the converter does. Errors name the file and the tensor."""
        self.folder = Path(folder)
        self.config, self.tokenizer_config = release_config.read_config(folder, dtype=dtype)
        archive = Archive(release.find_weights(folder))
        release.check(archive, self.config, self.tokenizer_config)
        self.params = release.load(archive, self.config)
        self.vq = release.load_vq(archive, self.tokenizer_config)

    @functools.cached_property
    def tokenizer(self) -> JanusTokenizer:
        """The folder's tokenizer."""
        return JanusTokenizer.load(self.folder / "tokenizer")

    def model(self, params: Any = None) -> Janus:
        """The network, bound; for use inside a jitted function or outside."""
        return functional.bind(self.config, self.params if params is None else params)

    def file(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Tensors and metadata of a recording."""
        return read(self.folder / f"{name}.safetensors")

    def patches(self, pixels: np.ndarray) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pictures [N, 3, S, S] as the tower reads them, one a row: patches, places, numbers."""
        patch, side = self.config.vit.patch, self.config.vit.side
        count = len(pixels)
        cut = pixels.reshape(count, 3, side, patch, side, patch).transpose(0, 2, 4, 3, 5, 1)
        places = np.broadcast_to(np.arange(side**2, dtype=np.int32), (count, side**2))
        return (
            jnp.asarray(cut.reshape(count, side**2, -1)),
            jnp.asarray(places),
            jnp.zeros((count, side**2), jnp.int32),
        )


def envelope(folder: Path) -> dict[str, float]:
    """Relative deviation of the official bfloat16 run by "file.tensor"; agreements are left out."""
    recorded = read_json(folder / "tolerances.json").get("bf16_envelope", {})
    return {
        f"{file}.{name}": values[2]
        for file, tensors in recorded.items()
        for name, values in tensors.items()
        if isinstance(values, list)
    }


def compare_prompts(golden: JanusGolden, report: Report) -> None:
    """Strings and ids of `templates.json`."""
    recorded = read_json(golden.folder / MARK)
    words, count = golden.tokenizer, golden.config.vit.side**2
    same(report, "special_ids", words.special, recorded["special_ids"])
    same(report, "default_system_prompt", prompts.SYSTEM, recorded["default_system_prompt"])
    same(report, "num_image_tokens", count, recorded["num_image_tokens"])
    for case in recorded["cases"]:
        messages = [(m["role"], m["content"]) for m in case["conversations"]]
        text = prompts.conversation(messages, case["system_prompt"], style=case["sft_format"])
        text += prompts.BEGIN if case["append_begin_of_image"] else ""
        ids = words.encode_prompt(text)
        name = case["name"]
        same(report, f"{name}.text", text, case["text"])
        same(report, f"{name}.token_ids", ids, case["token_ids"])
        if "expanded_token_ids" in case:
            marks = {"place": words.place, "begin": words.soi, "end": words.eoi, "tokens": count}
            longer = prompts.expanded(ids, **marks)
            same(report, f"{name}.expanded_token_ids", longer, case["expanded_token_ids"])
        if name == "gen":
            blank = prompts.unconditional(ids, words.pad)
            same(report, "uncond_ids_for_gen", blank, recorded["uncond_ids_for_gen"])
    report.exclude(
        "templates",
        "add_special_token_true_und_1img",
        "an option that breaks the official code (one mark too many); it is left out",
    )


def same(report: Report, name: str, found: Any, wanted: Any) -> None:
    """Notes whether two plain values are equal."""
    report.check("templates", name, found == wanted)


def compare_pictures(golden: JanusGolden, report: Report) -> None:
    """Every picture of `processor.safetensors`, at the folder's size and at 384."""
    recorded, meta = golden.file("processor")
    rule = pictures.Square.load(golden.folder / "tokenizer")
    large = pictures.Square(**{**vars(rule), "size": 384})
    for name, entry in meta["images"].items():
        image = pictures.read_plain(golden.folder / entry["file"])
        if f"out.{name}.rgb_uint8" in recorded:
            wanted = recorded[f"out.{name}.rgb_uint8"]
            report.add("processor", f"out.{name}.rgb_uint8", image, wanted)
        wide, high = rule.scaled(image.shape[1], image.shape[0])
        report.check("processor", f"{name}.resized_hw", [high, wide] == entry["resized_hw"])
        square = rule.apply(image)
        wanted = recorded[f"out.{name}.padded_uint8"]
        report.add("processor", f"out.{name}.padded_uint8", channels_first(square), wanted)
        if f"out.{name}.pixel_values" in recorded:
            values = channels_first(rule.values(square))
            wanted = recorded[f"out.{name}.pixel_values"]
            report.add("processor", f"out.{name}.pixel_values", values, wanted, limit=FORWARD)
        known, square = entry.get("at_384"), large.apply(image)
        if known:
            digests = {
                "padded_uint8_sha256": channels_first(square),
                "pixel_values_sha256_f32": channels_first(large.values(square)),
            }
            for key, value in digests.items():
                report.check("processor", f"{name}.at_384.{key}", _digest(value) == known[key])


def channels_first(image: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [C, H, W], contiguous."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def is_janus(folder: Path) -> bool:
    """Whether a folder holds recordings of Janus."""
    config = Path(folder) / "config.json"
    if not (Path(folder) / MARK).exists() or not config.exists():
        return False
    return json.loads(config.read_text("utf-8")).get("model_type") == "multi_modality"
