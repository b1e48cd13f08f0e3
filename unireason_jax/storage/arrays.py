"""NumPy's files, read so that a damaged one is told from a fault of the program."""

import contextlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from etils import epath

from unireason_jax.storage import paths


def read(path: epath.PathLike) -> np.ndarray | dict[str, np.ndarray]:
    """The array of an npy file, or the arrays of an npz file by name.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or holds pickled objects; the message names it.
    """
    with _damage_named(path):
        place = paths.of(path)
        with place.open("rb") if paths.is_local(place) else io.BytesIO(place.read_bytes()) as file:
            found = np.load(file)
            return found if isinstance(found, np.ndarray) else dict(found)


def mapped(path: Path, *, checked: bool = False) -> dict[str, np.ndarray]:
    """The arrays of a local npz file that `np.savez` wrote, by name, mapped and not read.

    All processes of a machine that map a file share the memory it takes.

    Args:
      path: the file.
      checked: compare it with its checksums, which reads it once.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or compressed; the message names it.
    """
    with _damage_named(path), path.open("rb") as file, zipfile.ZipFile(file) as archive:
        if checked and (bad := archive.testzip()):
            raise ValueError(f"the checksum of {bad} is another one")
        return {
            entry.filename.removesuffix(".npy"): _mapped(path, file, entry)
            for entry in archive.infolist()
        }


@contextlib.contextmanager
def _damage_named(path: epath.PathLike) -> Iterator[None]:
    """Whatever is raised for the contents of a file becomes a ValueError that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # the parsers of headers and archives raise what they like
        told = (str(error).split("\n")[0] or type(error).__name__)[:120]
        raise ValueError(f"{path}: damaged ({told})") from None


def _mapped(path: Path, file: IO[bytes], entry: zipfile.ZipInfo) -> np.ndarray:
    """An array of an archive; a local header of 30 bytes, two names and that of npy precede it."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{entry.filename} is compressed")
    file.seek(entry.header_offset + 26)
    names = int.from_bytes(file.read(2), "little") + int.from_bytes(file.read(2), "little")
    file.seek(names, 1)
    version = np.lib.format.read_magic(file)
    read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, by_column, dtype = read[version[0]](file)
    order = "F" if by_column else "C"
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape, order)
