"""Files that people have, as rows: told by content, read from any row on, in constant memory.

A gzipped file is unpacked from its beginning for every shard that is made of it; large ones are
better unpacked once.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from unireason_jax.data.files import base, captioned, json_text, parquet, table, tar
from unireason_jax.data.files.base import Broken, Place, Row
from unireason_jax.storage import paths

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".tar")
"""Of files that are taken from a folder; all but parquet may have `.gz` behind it."""
KINDS = (
    "JSON lines, a JSON array of objects, CSV or TSV with a header (an image folder by its "
    "metadata.jsonl or metadata.csv), tar as WebDataset writes it (all of these also gzipped), "
    "parquet, and folders of pictures with a text beside each (cat.jpg, cat.txt)"
)
_HEAD = 1 << 12
_WIDE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def find_files(inputs: Iterable[str | Path]) -> list[Path]:
    """Files named by paths, folders (those of SUFFIXES inside) and patterns, sorted.

    A folder that holds none of these but captioned pictures stands for itself.

    Raises:
      FileNotFoundError: an input names nothing.
      ValueError: an input is a pipe or a device.
    """
    found = []
    for given in inputs:
        path = paths.of(given)
        if path.is_dir():
            files = [file for file in path.rglob("*") if _is_taken(file)] or _captioned(path)
        elif path.is_file():
            files = [path]
        elif path.exists():
            raise ValueError(f"{given} is a pipe or a device; write its rows into a file")
        else:
            files = paths.matching(path)
        if not files:
            raise FileNotFoundError(
                f"{given} does not exist or holds no file; check the input (read are {KINDS})"
            )
        found += sorted(files)
    return list(dict.fromkeys(found))


def overlooked(inputs: Iterable[str | Path], found: Collection[Path]) -> Iterator[str]:
    """A line for what is in the folders and is not read: links to other folders, and captioned
    pictures where there are files of rows."""
    for folder in map(paths.of, inputs):
        if not folder.is_dir():
            continue
        for link in _linked(folder):
            yield f"{link} is a link to a folder, which is not followed; add ,{link} to --input"
        if folder not in found and (texts := captioned.texts(folder)):
            rows = next(file for file in found if file.is_relative_to(folder))
            yield (
                f"{folder}: {rows.name} has the rows, so {len(texts)} texts beside pictures "
                f"({texts[0].name}, ...) are not read; move one or the other away"
            )


def _linked(folder: Path) -> Iterator[str]:
    """Links to folders in a folder and those below it."""
    for above, names, _ in os.walk(folder) if isinstance(folder, Path) else ():
        links = (os.path.join(above, name) for name in sorted(names))
        yield from filter(os.path.islink, links)


def _captioned(folder: Path) -> list[Path]:
    """The folder, if texts stand beside its pictures. Raises ValueError for pictures alone."""
    if captioned.texts(folder):
        return [folder]
    if found := captioned.pictures(folder):
        name, words = found[0].name, found[0].with_suffix(captioned.TEXTS[0]).name
        raise ValueError(
            f"{folder} holds {len(found)} pictures without words: describe {name} in {words}, and "
            f'so on; or write a line {{"file_name": "{name}", "text": "..."}} for each into '
            "metadata.jsonl"
        )
    return []


def _is_taken(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(SUFFIXES) and path.is_file()


def places(path: Path, most: int = 1 << 20) -> Iterator[tuple[Place, int]]:
    """(place, rows) of rows that are best read together, in order.

    Args:
      path: the file.
      most: rows; a unit has no more.

    Raises:
      ValueError: the file is of no kind that is read, or damaged as a whole.
    """
    return kind_of(path).places(path, most)


def read_rows(
    path: Path, first: Place, count: int, fields: parquet.Fields = lambda _: None
) -> Iterator[Row | Broken]:
    """`count` rows of a file, from `first` on; what is broken says why.

    Args:
      path: the file.
      first: a place that `places` gave.
      count: rows.
      fields: which of the columns of a parquet file are read.

    Raises:
      ValueError: as `places`.
    """
    return kind_of(path).rows(path, first, count, fields)


def kind_of(path: Path):
    """The module of this package that reads a file.

    Raises:
      ValueError: none does; the message names the kinds that are read.
    """
    if path.is_dir():
        return captioned
    name = path.name.lower().removesuffix(".gz")
    try:
        with base.open_bytes(path) as file:
            head = base.head(file, _HEAD)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {base.said(error)}") from None
    if head.startswith(parquet.MAGIC) or name.endswith(".parquet"):
        return parquet
    if head[tar.MAGIC_AT :].startswith(tar.MAGIC) or name.endswith(".tar"):
        return tar
    if head.startswith(_WIDE) or (len(head) > 1 and (head[0] == 0) != (head[1] == 0)):
        raise ValueError(f"{path} is UTF-16 or UTF-32 text, or no text; write it as UTF-8")
    if name.endswith((".csv", ".tsv")):
        return table
    if head.lstrip(b"\xef\xbb\xbf" + base.BLANK)[:1] in (b"{", b"[", b"") or name.endswith(
        SUFFIXES
    ):
        return json_text
    raise ValueError(f"{path} is of a kind that is not read; read are {KINDS}")
