"""Files that are whole or not there: written beside and renamed, or grown by whole lines.

A process may be killed at any moment, and so may the machine. What is replaced is written under
another name in the same folder, forced to the disk, and renamed; what grows gets whole lines in one
write. Paths may be those of a bucket (`gs://...`, `s3://...`): an object there appears whole when
its upload ends. It can be neither renamed nor appended to: for logs in a bucket see `lines`.
"""

import contextlib
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from unireason_jax.storage import paths

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None


@contextlib.contextmanager
def replacing(
    path: epath.PathLike, *, durable: bool = True, shared: bool = False
) -> Iterator[Path]:
    """A local file to write that takes the place of `path` when the block ends.

    After an error in the block `path` is as it was, and nothing is left beside it. What a killed
    process leaves is overwritten by the next that writes the same file. The file to write has the
    suffix of `path`, hidden behind a dot.

    Args:
      path: the file; its folder is made where it is missing.
      durable: force it to the disk first, so that a machine that goes down keeps the old or the
        new content. Without it only a killed process does; for what is quickly made again.
      shared: several processes may write this file at once, as a cache; the last one wins.
    """
    if not paths.is_local(path):
        with tempfile.TemporaryDirectory() as folder:
            part = Path(folder) / epath.Path(path).name
            yield part
            target = paths.of(path)
            paths.files(target).put_file(str(part), str(target))
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{uuid.uuid4().hex[:12]}" if shared else ""
    part = path.with_name(f".{path.stem}{own}.part{path.suffix}")
    try:
        yield part
        if durable:
            sync(part)
        part.replace(path)
        part.unlink(missing_ok=True)  # a second name of the same file is left by a renaming
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def write_bytes(path: epath.PathLike, content: bytes, **options: bool) -> None:
    """Replaces a file's content; `options` are those of `replacing`."""
    with replacing(path, **options) as part:
        part.write_bytes(content)


def write_text(path: epath.PathLike, text: str, **options: bool) -> None:
    """Replaces a file's content with UTF-8; `options` are those of `replacing`."""
    write_bytes(path, text.encode(), **options)


def append(path: epath.PathLike, text: str, *, durable: bool = False) -> None:
    """Adds whole lines to a local file in one write; several processes may do so at once.

    A last line that a killed process has torn is ended first, so that it spoils no other: readers
    leave out the line that they cannot read.

    Args:
      path: the file; made with its folder where it is missing.
      text: lines, each with its newline.
      durable: force them to the disk; for what is dear.
    """
    data = text.encode()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:  # a line that another process is writing is not a torn one
            fcntl.flock(file, fcntl.LOCK_EX)
        size = os.fstat(file).st_size
        last = b""
        if size:
            os.lseek(file, size - 1, os.SEEK_SET)
            last = os.read(file, 1)
        data = _torn(last) + data
        while data:  # a full disk takes a part and then says why
            data = data[os.write(file, data) :]
        if durable:
            os.fsync(file)
    finally:
        os.close(file)
    if durable and is_new:
        sync(path.parent)


def _torn(last: bytes) -> bytes:
    """What ends a file whose last byte is `last` (b"" for an empty one) as a line."""
    return b"" if last in (b"", b"\n") else b"\n"


def sync(path: epath.PathLike) -> None:
    """Forces a file's content, or a folder's list of names, to the disk."""
    try:
        file = os.open(path, os.O_RDONLY)
    except PermissionError:
        return  # Windows opens no folders
    try:
        os.fsync(file)
    except OSError:
        if not os.path.isdir(path):  # some file systems cannot force a folder
            raise
    finally:
        os.close(file)
