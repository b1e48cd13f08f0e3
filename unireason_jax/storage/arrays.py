"""NumPy's files, read so that a damaged one is told from a fault of the program."""

import io

import numpy as np
from etils import epath

from unireason_jax.storage import paths


def read(path: epath.PathLike) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an npy file, or the arrays of an npz file by name.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds pickled objects; the message names it.
    """
    try:
        place = paths.of(path)
        with place.open("rb") if paths.is_local(place) else io.BytesIO(place.read_bytes()) as file:
            found = np.load(file)
            return found if isinstance(found, np.ndarray) else dict(found)
    except FileNotFoundError:
        raise
    except Exception as error:  # the parsers of headers and archives raise what they like
        told = (str(error).split("\n")[0] or type(error).__name__)[:120]
        raise ValueError(f"{path}: damaged ({told})") from None
