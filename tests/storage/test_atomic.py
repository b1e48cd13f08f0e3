"""What replaces a file is whole or not there; what grows one spoils no other line."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from PIL import Image

from unireason_jax.storage import atomic

WRITER = """
import itertools, sys
from unireason_jax.storage import atomic
for number in itertools.count():
    atomic.write_text(sys.argv[1], f"{number % 10}" * 300_000, durable=False)
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_the_old_or_the_new_content(tmp_path):
    path = tmp_path / "folder" / "metrics.jsonl"
    for seconds in (0.0, 0.011, 0.023):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE
        ) as writer:
            writer.stdout.readline()
            threading.Event().wait(seconds)
            writer.send_signal(signal.SIGKILL)
        text = path.read_text()
        assert text == text[0] * 300_000
    atomic.write_text(path, "done")
    assert [p.name for p in path.parent.iterdir()] == ["metrics.jsonl"]


def test_after_an_error_the_file_is_as_it_was(tmp_path):
    path = tmp_path / "config.json"
    atomic.write_text(path, "old")
    with pytest.raises(OSError, match="full"), atomic.replacing(path) as part:
        part.write_text("half")
        raise OSError("the disk is full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_part_has_the_suffix_that_libraries_look_at(tmp_path):
    with atomic.replacing(tmp_path / "a.png") as part:
        Image.new("RGB", (2, 2)).save(part)
    assert Image.open(tmp_path / "a.png").format == "PNG"


def test_shared_files_are_written_by_several_at_once(tmp_path):
    path = tmp_path / "cache.json"
    texts = [f"{number}" * 100_000 for number in range(8)]
    threads = [
        threading.Thread(target=atomic.write_text, args=(path, text), kwargs={"shared": True})
        for text in texts
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_torn_line_spoils_no_other(tmp_path):
    path = tmp_path / "new" / "journal.jsonl"
    atomic.append(path, '{"a": 1}\n{"a": 2}\n', durable=True)
    os.truncate(path, path.stat().st_size - 4)
    atomic.append(path, '{"a": 3}\n')
    assert path.read_text().splitlines() == ['{"a": 1}', '{"a":', '{"a": 3}']


def test_a_second_name_of_the_same_file_leaves_nothing_beside_it(tmp_path):
    """Renaming one name of a file to another of its names does nothing by POSIX."""
    source, kept = tmp_path / "source.bin", tmp_path / "kept" / "source.bin"
    source.write_bytes(b"weights")
    for _ in range(2):
        with atomic.replacing(kept) as part:
            os.link(source, part)
    assert [path.name for path in kept.parent.iterdir()] == ["source.bin"]
    assert kept.read_bytes() == b"weights"
