"""Rows of parquet files, by row group: only the columns that are asked for, a few rows at a time.

A row that cannot be read fails alone where its values are at fault; where the file is, the rest of
its row group is lost, and the entry says how many rows that are.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from unireason_jax.data.files.base import Broken, Place, Row, said

MAGIC = b"PAR1"
_BATCH = 16  # rows in memory at a time
_AT_ONCE = 16 << 20  # bytes of rows in memory at a time, where a row has less
_MOST_ROWS_A_BYTE = 1000  # a file that says that it holds more is damaged

Fields = Callable[[Sequence[str]], list[str] | None]
"""Which of a file's columns are needed; None for all."""


def opened(path: Path):
    """The `pyarrow.parquet.ParquetFile` of a path.

    Raises:
      ValueError: pyarrow is not installed, or the file is no parquet.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ValueError(
            f"{path}: parquet needs pyarrow; install unireason-jax with the extra 'parquet'"
        ) from None
    try:
        source = path if isinstance(path, Path) else path.open("rb")
        file = pyarrow.parquet.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False)
        rows = file.metadata.num_rows
        names = file.schema_arrow.names
    except Exception as error:  # a damaged footer raises whatever it likes
        raise ValueError(f"{path} is not a readable parquet file: {said(error)}") from None
    if rows and not names:
        raise ValueError(f"{path} has no columns")
    if not 0 <= rows <= _MOST_ROWS_A_BYTE * path.stat().st_size or rows != sum(group_sizes(file)):
        raise ValueError(f"{path} is damaged: it says that it holds {rows:,} rows")
    return file


def group_sizes(file) -> list[int]:
    """Rows of every row group."""
    groups = range(file.num_row_groups)
    return [file.metadata.row_group(group).num_rows for group in groups]


def needed(file, fields: Fields) -> list[str] | None:
    """The columns to read of an opened file; None for all."""
    names = file.schema_arrow.names
    return None if any("." in name for name in names) else fields(names)


def places(path: Path, most: int) -> Iterator[tuple[Place, int]]:
    """Row groups, (first row, rows); larger ones than `most` rows in even parts."""
    row = 0
    for rows in group_sizes(opened(path)):
        parts = -(-rows // most)
        edges = [row + rows * part // parts for part in range(parts + 1)] if parts else []
        yield from ((Place(start, 0), end - start) for start, end in itertools.pairwise(edges))
        row += rows


def rows(path: Path, first: Place, count: int, fields: Fields) -> Iterator[Row | Broken]:
    """`count` rows of a file, from `first` on; what is broken says why."""
    file = opened(path)
    start, stop, group_end = first.row, first.row + count, 0
    columns = needed(file, fields)
    for group, size in enumerate(group_sizes(file)):
        row, group_end = group_end, group_end + size
        if group_end <= start or row >= stop:
            continue
        try:
            each = file.metadata.row_group(group).total_byte_size // max(size, 1)
            together = max(1, min(_BATCH, _AT_ONCE // max(each, 1)))
            batches = file.iter_batches(together, row_groups=[group], columns=columns)
            for batch in batches:
                if row >= stop:
                    break
                first_wanted = max(start - row, 0)
                yield from _values(batch.slice(first_wanted, stop - row - first_wanted))
                row += len(batch)
            lost, reason = min(stop, group_end) - max(start, row), "it ends before"
        except Exception as error:  # decoders raise whatever they like
            lost, reason = min(stop, group_end) - max(start, row), said(error)
        if lost > 0:
            yield Broken(f"{lost} rows of row group {group} cannot be read: {reason}", lost)


def _values(batch) -> Iterable[Row | Broken]:
    if batch.nbytes <= _AT_ONCE:
        try:
            return batch.to_pylist()
        except Exception:  # one value spoils all: a text that is not UTF-8, a date that is none
            pass
    return (value(batch.slice(number, 1)) for number in range(len(batch)))


def value(one) -> Row | Broken:
    """The only row of a batch or table."""
    try:
        return one.to_pylist()[0]
    except Exception as error:  # values raise whatever they like
        return Broken(f"the row has a value that cannot be read: {said(error)}")
