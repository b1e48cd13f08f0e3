"""Seeds in tar files as WebDataset writes them, read where they lie.

    genref_0.tar: 000000.good_image.jpg  000000.bad_image.jpg  000000.prompt.txt  000000.subset.txt

Files with one key (all up to the first dot) are a sample. A field is named by what stands between
the key and the kind: `good_image` and `prompt` above, `jpg` and `txt` where nothing does. Pictures
are places in the tar, so that nothing is unpacked.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unireason_jax.storage import paths

KEY, TAR = "__key__", "__url__"  # WebDataset's names for a sample and its file
_PICTURES = ("jpg", "jpeg", "png", "webp")
_PLACE = re.compile(r"(.+\.tar)#(\d+)\+(\d+)", re.DOTALL)


def files(path: Path) -> list[Path]:
    """The tar files that a path means: itself, or those of a folder; none for anything else."""
    if path.suffix == ".tar":
        return [path]
    return sorted(path.glob("*.tar")) if path.is_dir() else []


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of a tar file, each with its id, key and file.

    Raises:
      FileNotFoundError, ValueError: no such file, no whole tar, a text that is none, or two fields
        of one name; the message names file and sample.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such tar file of seeds.")
    row: dict[str, Any] = {}
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                tar.members = []  # else every header stays in memory
                folder, _, name = member.name.rpartition("/")
                key, _, rest = name.partition(".")
                if not member.isfile() or not key or not rest:
                    continue
                key = f"{folder}/{key}" if folder else key
                if row and row[KEY] != key:
                    yield row
                    row = {}
                row = row or {"id": f"{path.stem}-{key}", KEY: key, TAR: str(path)}
                _add(row, rest, member, tar)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(
            f"{path}: cannot be read as an uncompressed tar ({error}); fetch it again, or pack it "
            "without compression."
        ) from None
    if row:
        yield row


def _add(row: dict[str, Any], rest: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    """Adds the field that a file of a sample is; other kinds are left out."""
    name, _, kind = rest.rpartition(".")
    name, kind = name or kind, kind.lower()
    if name in row:
        raise ValueError(f"{told(row)}: field '{name}' is there twice.")
    if kind in _PICTURES:
        row[name] = f"{row[TAR]}#{member.offset_data}+{member.size}"
    elif kind in ("txt", "json"):
        try:
            text = tar.extractfile(member).read().decode("utf-8-sig")
            row[name] = json.loads(text) if kind == "json" else text.strip()
        except ValueError:
            raise ValueError(f"{told(row)}: '{member.name}' is no {kind} in UTF-8.") from None


def told(row: Mapping[str, Any]) -> str:
    """Where a sample stands, for messages; "" for a row that is none."""
    return f"{row[TAR]}, sample {row[KEY]}" if TAR in row and KEY in row else ""


def is_place(value: str) -> bool:
    """Whether a text is the place of a picture in a tar file."""
    return _PLACE.fullmatch(value) is not None


def read(picture: str) -> bytes:
    """The bytes of a picture of a seed, in a tar file or a file of its own. Raises OSError."""
    found = _PLACE.fullmatch(picture)
    if not found:
        return paths.of(picture).read_bytes()
    with paths.of(found[1]).open("rb") as file:
        file.seek(int(found[2]))
        return file.read(int(found[3]))
