"""Entries of many shards: in order, by threads, with few of them open, and more than may be."""

import concurrent.futures
import gc
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from unireason_jax.data.prepared import shard_entries
from unireason_jax.data.prepared.shard_entries import ShardEntries
from unireason_jax.data.sources import EntrySource

ROOT = Path(__file__).parents[2]


def written(folder, shards, entries=2):
    from array_record.python.array_record_module import ArrayRecordWriter

    files = []
    for shard in range(shards):
        files.append(str(folder / f"records-{shard:05}.array_record"))
        writer = ArrayRecordWriter(files[-1], "group_size:1")
        for entry in range(entries):
            writer.write(f'{{"txt": "{shard} {entry}", "image_path": "a.png"}}'.encode())
        writer.close()
    return files


@pytest.mark.skipif(shard_entries.resource is None, reason="this system bounds no open files")
def test_more_shards_than_files_that_may_be_open_are_read(tmp_path):
    written(tmp_path, 90)
    code = f"""
        import resource
        from unireason_jax.data.sources import EntrySource
        resource.setrlimit(resource.RLIMIT_NOFILE, (70, 80))
        source = EntrySource({str(tmp_path)!r})
        for index in [*range(len(source)), 3]:
            row = source._row(index)
            assert row["txt"] == f"{{index // 2}} {{index % 2}}", (index, row)
        print(len(source), resource.getrlimit(resource.RLIMIT_NOFILE))
        """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    env = dict(os.environ, PYTHONPATH=str(ROOT))
    found = subprocess.run(command, capture_output=True, text=True, env=env)
    assert found.stdout.split("\n")[0] == "180 (80, 80)", found.stderr[-2000:]


def test_readers_are_bounded_over_all_data_sets_and_go_with_them(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_entries, "most_open", lambda: 3)
    for name in "ab":
        (tmp_path / name).mkdir()
    sets = [ShardEntries(written(tmp_path / name, 5)) for name in "ab"]
    assert list(map(len, sets)) == [10, 10]
    before = set(shard_entries._readers)

    def read(number):
        shard, entry = divmod(number % 10, 2)
        return f'"{shard} {entry}"'.encode() in sets[number // 10 % 2][number % 10]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert all(pool.map(read, range(400)))
    assert len(shard_entries._readers) <= 3
    own = set(map(id, sets))
    sets.clear()
    gc.collect()
    assert not {key for key in set(shard_entries._readers) - before if key[0] in own}


def test_a_damaged_shard_is_named(tmp_path):
    files = written(tmp_path, 3)
    Path(files[1]).write_bytes(b"no shard" * 9000)
    with pytest.raises(ValueError, match=r"records-00001.array_record is damaged"):
        EntrySource(tmp_path)
