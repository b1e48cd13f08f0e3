"""Journals of paid work: a damaged row is made again, and is never taken for another."""

import json

import pytest

from unireason_jax.storage import arrays, sealed
from unireason_jax.storage.journal import Journal

ROWS = [{"key": f"k{i}", "answer": f"yes {i}", "cost": i / 8} for i in range(4)]


@pytest.fixture
def path(tmp_path):
    Journal(tmp_path / "j.jsonl", {"seed": 1}).add(ROWS)
    return tmp_path / "j.jsonl"


def test_every_flipped_bit_of_a_row_costs_that_row_alone(path):
    data = path.read_bytes()
    start = data.index(b"\n") + 1
    for place in range(start, data.index(b"\n", start)):
        for bit in range(8):
            path.write_bytes(data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :])
            found = Journal(path, {"seed": 1})
            assert list(found.rows.values()) == ROWS[1:] and found.damaged >= 1


def test_what_is_damaged_is_told_and_can_be_added_again(path, capsys):
    path.write_bytes(path.read_bytes().replace(b"yes 2", b"no! 2"))
    journal = Journal(path, {"seed": 1})
    assert f"{path}: 1 damaged rows are passed over" in capsys.readouterr().out
    journal.add([ROWS[2]])
    assert Journal(path, {"seed": 1}).rows == {row["key"]: row for row in ROWS}


def test_a_journal_from_before_the_checksums_goes_on(tmp_path):
    path = tmp_path / "old.jsonl"
    lines = [{"journal": {"seed": 1}}, *ROWS[:2]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    Journal(path, {"seed": 1}).add(ROWS[2:])
    assert list(Journal(path, {"seed": 1}).rows.values()) == ROWS


@pytest.mark.parametrize("first", [b"\xff\xfe", b"[1]", b"[" * 10**5, b"null", b"{", b""])
def test_what_is_no_journal_is_named(tmp_path, first):
    path = tmp_path / "j.jsonl"
    path.write_bytes(first + b"\n")
    with pytest.raises(ValueError, match=r"j\.jsonl"):
        Journal(path, {"seed": 1})


@pytest.mark.parametrize("values", [{"a": 1}, {"a": [0.1, None, "ü\n"]}, {"crc": {"crc32": 7}}])
def test_a_sealed_object_comes_back(values):
    text = sealed.seal(values).encode()
    assert sealed.unseal(text) == values == sealed.unseal(text, always=True)
    assert sealed.unseal(json.dumps(values).encode()) == values
    with pytest.raises(ValueError, match="has no checksum"):
        sealed.unseal(json.dumps(values).encode(), always=True)


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04N."])
def test_an_array_file_that_is_none_is_named(tmp_path, data):
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(ValueError, match=r"x\.npy: damaged"):
        arrays.read(tmp_path / "x.npy")
    with pytest.raises(FileNotFoundError):
        arrays.read(tmp_path / "y.npy")


def test_another_setting_is_refused_by_what_differs(tmp_path):
    """Long settings, as the words a judge reads, differ far from their beginning."""
    rubric = "Look at the picture. " * 40
    settings = {"suite": "wise", "rounds": 3, "words": {"a": rubric + "yes", "b": "same"}}
    Journal(tmp_path / "j", settings)
    other = settings | {"rounds": None, "words": {"a": rubric + "no", "b": "same"}}
    with pytest.raises(ValueError, match="belongs to") as error:
        Journal(tmp_path / "j", other)
    said = str(error.value)
    assert "belongs to rounds 3, not none; words.a ..." in said and "suite" not in said
    assert 'yes", not ...' in said and 'no"; give another folder, or remove it.' in said
    assert len(said.removeprefix(str(tmp_path))) < 300 and "same" not in said
    (tmp_path / "k").write_text("{}\n")
    with pytest.raises(ValueError, match="another kind of file none, not"):
        Journal(tmp_path / "k", {"a": 1})
