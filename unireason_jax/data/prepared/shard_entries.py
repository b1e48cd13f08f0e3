"""Entries of many ArrayRecord files, of which a bounded number is open.

A process may have some thousand files open, often no more than 1,024, and a data set more shards.
So all data sets of a process together keep readers of the shards that were read last.
"""

import bisect
import collections
import concurrent.futures
import contextlib
import itertools
import threading
import weakref
from collections.abc import Sequence

try:
    import resource
except ImportError:  # Windows bounds nothing
    resource = None

_MOST = 4096  # readers of a process
_SPARE = 64  # files left to everything else
_AT_ONCE = 16  # files whose entries are counted at a time
_WISHED = 2**16  # files to ask the system for
_OPTIONS = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 2**15}

_readers: collections.OrderedDict[tuple[int, int], object] = collections.OrderedDict()
_lock = threading.Lock()


class ShardEntries:
    """The entries of files one after the other, as bytes; safe for threads.

    Args:
      files: paths, of a file system or `gs://`.

    Raises:
      RuntimeError: a file is damaged, at once or when its entry is read.
    """

    def __init__(self, files: Sequence[str]):
        raise_limit()
        self._files = tuple(files)
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            self._ends = list(itertools.accumulate(pool.map(_count, self._files)))
        weakref.finalize(self, _forget, id(self))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> bytes:
        shard = bisect.bisect_right(self._ends, index)
        reader = self._reader(shard)
        return reader.read([index - (self._ends[shard - 1] if shard else 0)])[0]

    def _reader(self, shard: int):
        """The shard's reader; the one that was used longest ago goes when there are too many.

        It closes when the last thread that reads from it has let go of it.
        """
        key = (id(self), shard)
        with _lock:
            reader = _readers.get(key)
        opened = reader or _opened(self._files[shard])  # in a bucket this takes a while
        with _lock:
            opened = _readers.setdefault(key, opened)
            _readers.move_to_end(key)
            while len(_readers) > most_open():
                _readers.popitem(last=False)
        return opened


def raise_limit() -> None:
    """Has this process open as many files as the system allows, within reason."""
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wished = _WISHED if hard == resource.RLIM_INFINITY else min(_WISHED, hard)
    if soft != resource.RLIM_INFINITY and soft < wished:
        with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wished, hard))


def most_open() -> int:
    """Readers that this process may keep."""
    if resource is None:
        return _MOST
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, max(1, soft // 2 - _SPARE))


def _count(file: str) -> int:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(file)
    try:
        return reader.num_records()
    finally:
        reader.close()


def _opened(file: str):
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(file, **_OPTIONS)


def _forget(owner: int) -> None:
    """Lets go of the readers of entries that nobody reads any more."""
    with _lock:
        for key in [key for key in _readers if key[0] == owner]:
            del _readers[key]
