"""A picture as Janus's vision tower sees it: whole, in the middle of a square.

The long side is brought to the square's, small pictures grow, and the rest is filled with the mean
colour. Pictures are read like everywhere else here (`data.images.load`); `read_plain` is how the
official loader does, which drops transparency instead of compositing it.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireason_jax.storage import paths

FILE = "preprocessor_config.json"


@dataclasses.dataclass(frozen=True)
class Square:
    """The rule, with the fields of a release's preprocessor_config.json.

    Attributes:
      size: pixels per side of the square.
      least: the short side is not shorter, before it is filled up.
      mean, std: per channel, of values in [0, 1]; the filling is the mean as well.
      rescale: factor from levels to [0, 1].
      normalize: whether mean and std are applied.
    """

    size: int
    least: int = 14
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    rescale: float = 1 / 255
    normalize: bool = True

    @classmethod
    def load(cls, folder: Path) -> "Square":
        """Reads preprocessor_config.json. FileNotFoundError and ValueError name the file."""
        path = paths.of(folder) / FILE
        if not path.is_file():
            raise FileNotFoundError(f"{path}: missing; copy it from the model's release.")
        try:
            values: Mapping[str, Any] = json.loads(path.read_text("utf-8"))
            return cls(
                size=int(values["image_size"]),
                least=int(values.get("min_size", 14)),
                mean=tuple(values.get("image_mean") or (0.5, 0.5, 0.5)),
                std=tuple(values.get("image_std") or (0.5, 0.5, 0.5)),
                rescale=float(values.get("rescale_factor", 1 / 255)),
                normalize=bool(values.get("do_normalize", True)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: field {error} is missing or not as expected.") from None

    def __call__(self, width: int, height: int, images: int = 1) -> tuple[int, int]:
        """(width, height) of the square; neither the picture's size nor the number plays a part."""
        return self.size, self.size

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of a picture before it is filled up; cut, not rounded."""
        longest = max(width, height)
        sides = (int(side / longest * self.size) for side in (width, height))
        wide, high = (max(side, self.least) for side in sides)
        return wide, high

    def apply(self, image: np.ndarray, images: int = 1) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [size, size, 3], resized (bicubic) and filled up."""
        wide, high = self.scaled(image.shape[1], image.shape[0])
        small = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
        side = max(wide, high)
        colour = tuple(int(value * 255) for value in self.mean)
        square = Image.new("RGB", (side, side), colour)
        square.paste(small, ((side - wide) // 2, (side - high) // 2))
        return np.asarray(square)

    def values(self, square: np.ndarray) -> np.ndarray:
        """uint8 [S, S, 3] -> float32 of the same shape, about [-1, 1]."""
        x = (square.astype(np.float64) * self.rescale).astype(np.float32)
        if not self.normalize:
            return x
        return (x - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def read_plain(path: Path) -> np.ndarray:
    """uint8 [H, W, 3] of a file with its transparency dropped, as the official loader reads it."""
    with path.open("rb") as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))
