"""Journals of millions of rows: on the disk at once, damaged rows made again, memory small."""

import pytest

from unireason_jax.storage.indexed import IndexedJournal
from unireason_jax.storage.journal import Journal

ROWS = [{"key": f"k{i}", "text": "ü\n" * i} for i in range(5)]


def test_rows_come_back_in_order_and_the_last_of_a_key_counts(tmp_path):
    path = tmp_path / "a" / "j.jsonl"
    IndexedJournal(path, {"seed": 1}).add(ROWS[:3])
    journal = IndexedJournal(path, {"seed": 1})
    journal.add([*ROWS[3:], {"key": "k0", "text": "new"}])
    for each in (journal, IndexedJournal(path, {"seed": 1})):
        assert each.get("k4") == ROWS[4] and each.get("k0")["text"] == "new"
        assert [row["key"] for row in each.rows()] == [row["key"] for row in ROWS]
        assert "k2" in each and "x" not in each and each.get("x") is None and len(each) == 5
    assert Journal(path, {"seed": 1}).rows["k3"] == ROWS[3]  # one form for both


def test_a_torn_or_damaged_row_costs_that_row_alone(tmp_path):
    path = tmp_path / "j.jsonl"
    IndexedJournal(path, {}).add(ROWS)
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        found = IndexedJournal(path, {})
        assert list(found.rows()) == ROWS[: whole[:cut].count(b"\n") - 1]
        found.add([ROWS[4]])
        assert IndexedJournal(path, {}).get("k4") == ROWS[4]
    path.write_bytes(whole.replace(b'"k2"', b'"k9"'))
    found = IndexedJournal(path, {})
    assert found.damaged == 1 and len(found) == 4


def test_another_runs_journal_is_refused(tmp_path):
    IndexedJournal(tmp_path / "j", {"seed": 1})
    with pytest.raises(ValueError, match="belongs to"):
        IndexedJournal(tmp_path / "j", {"seed": 2})
    (tmp_path / "k").write_text("hello\n")
    with pytest.raises(ValueError, match="not a journal"):
        IndexedJournal(tmp_path / "k", {})
