"""A folder of recorded data: its files, its settings, and the stand-ins that replay its draws."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from unireason_jax.data.bagel.tokens import SampleSpec
from unireason_jax.data.resizing import Resize
from unireason_jax.data.text.tokenizer import Qwen2Tokenizer

LIMITS = {"vlm": "vlm", "vqa": "vlm"}  # the ViT limits of a sample's type; "vit" for all others


class IdsTokenizer:
    """Texts are blank-separated ids: for recordings that are given as ids."""

    vocab_size = 1 << 20

    def __init__(self, bos: int, eos: int, soi: int, eoi: int):
        self.bos, self.eos, self.soi, self.eoi = bos, eos, soi, eoi

    def encode(self, text: str) -> list[int]:
        """The ids that the text lists."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Iterable[int]) -> str:
        """The list as text."""
        return " ".join(map(str, ids))


class MeanCodec:
    """Latents are the means of `stride` x `stride` pixels: enough to tell images apart."""

    channels = 3

    def __init__(self, stride: int = 8):
        self.stride = stride

    def encode(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] -> mean, log variance (none), float32 [H/stride, W/stride, 3]."""
        rows, columns = image.shape[0] // self.stride, image.shape[1] // self.stride
        cells = image.reshape(rows, self.stride, columns, self.stride, 3)
        mean = cells.mean((1, 3)).astype(np.float32)
        return mean, np.full_like(mean, -np.inf)


class Tape:
    """A stand-in for a NumPy generator that replays recorded draws."""

    def __init__(self, dropout: Iterable[float] = (), normals: Iterable[float] = ()):
        self.dropout, self.normals = list(dropout), list(normals)
        self.free = np.random.default_rng(0)

    def random(self, size: int) -> np.ndarray:
        """The next draws of condition dropout."""
        drawn, self.dropout = self.dropout[:size], self.dropout[size:]
        return self._all(drawn, size)

    def standard_normal(self, size: Any, dtype: Any = np.float64) -> np.ndarray:
        """The next timestep logits; a shape asks for posterior noise, which is not recorded."""
        if isinstance(size, tuple):
            return self.free.standard_normal(size, dtype)
        drawn, self.normals = self.normals[:size], self.normals[size:]
        return self._all(drawn, size)

    def integers(self, *args: Any) -> np.ndarray:
        """Noise seeds, which are not recorded."""
        return self.free.integers(*args)

    @property
    def rest(self) -> int:
        """Draws that nobody asked for."""
        return len(self.dropout) + len(self.normals)

    def _all(self, drawn: list[float], size: int) -> np.ndarray:
        if len(drawn) < size:
            raise ValueError(f"{size} draws are asked for where {len(drawn)} are recorded")
        return np.array(drawn)


class Recorded:
    """A folder of recorded data, its files read once."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.config = self.json("config.json")

    def __contains__(self, name: str) -> bool:
        return (self.folder / name).exists()

    def json(self, name: str) -> Any:
        """A JSON file of the folder."""
        return json.loads((self.folder / name).read_text())

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """All arrays of an npz file of the folder."""
        with np.load(self.folder / name) as file:
            return {key: file[key] for key in file.files}

    @functools.cached_property
    def images(self) -> dict[str, np.ndarray]:
        """Transformed images, uint8 [3, H, W] by key."""
        return self.arrays("images_u8.npz")

    @functools.cached_property
    def files(self) -> dict[str, dict[str, Any]]:
        """Each image file by name: its decoded bytes as recorded, and Pillow's mode of the file."""
        kinds = self.json("images.json")
        entries = {entry["name"]: entry for entry in self.json("rgb.json")}
        return {name: e | {"mode": kinds[name].get("mode", "")} for name, e in entries.items()}

    @functools.cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Parsed samples."""
        return self.json("samples.json")

    @functools.cached_property
    def packs(self) -> list[dict[str, Any]]:
        """Packs, without their arrays."""
        return self.json("packs.json")

    @functools.cached_property
    def pack_arrays(self) -> dict[str, np.ndarray]:
        """Arrays of the packs by "<pack>/<field>"."""
        return self.arrays("packs.npz")

    @functools.cached_property
    def tokenizer(self) -> Qwen2Tokenizer:
        """The folder's tokenizer, control tokens in texts read as such (as the reference does)."""
        return Qwen2Tokenizer.load(self.folder / "tokenizer", parse_controls=True)

    @functools.cached_property
    def controls(self) -> tuple[int, int, int, int]:
        """Ids of bos, eos, start and end of image."""
        ids = self.config["special_token_ids"]
        names = ("bos_token_id", "eos_token_id", "start_of_image", "end_of_image")
        return tuple(ids[name] for name in names)

    def resize(self, transform: str, tree: str = "", kind: str = "") -> Resize:
        """The resize rule of a transform ("vae" or "vit") for samples of a tree and type."""
        name = "vae" if transform == "vae" else LIMITS.get(kind, "vit")
        if name == "vit" and f"{tree}_vit" in self.config["limits"]:
            name = f"{tree}_vit"
        return resize_of(self.config["limits"][name])

    def spec(self, **changes: Any) -> SampleSpec:
        """How the folder's packs are made, without resizing and dropout."""
        limits = self.config["limits"]
        settings = {
            "tokenizer": self.tokenizer,
            "codec": MeanCodec(self.config["vae_image_downsample"] // 2),
            "latent_side": limits["max_latent_size"],
            "vit_patch": self.config["vit_patch_size"],
            "vit_side": limits["max_num_patch_per_side"],
            "weighting": "sqrt",
        }
        return SampleSpec(**(settings | changes))


def resize_of(limits: dict[str, int]) -> Resize:
    """The resize rule of recorded limits."""
    sizes = (limits["max_image_size"], limits["min_image_size"], limits["image_stride"])
    more = {"max_pixels": limits["max_pixels"]} if limits.get("max_pixels") else {}
    return Resize(*sizes, **more)
