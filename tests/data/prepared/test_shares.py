"""Shares of one folder that many machines make end as the folder of one machine, to the byte."""

import json

import pytest

from unireason_jax import encode, prepare
from unireason_jax.data.prepared import shares
from unireason_jax.storage import lock, paths

WORLD = ["--format=world", "--tasks=t2i=2,edit=1", "--size=60", "--shard_records=8"]


def contents(folder):
    folder = paths.of(folder)
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def prepared(output, *flags):
    prepare.main(["prepare", *WORLD, f"--output={output}", *flags])


def encoded(source, output, *flags):
    encode.main(["encode", f"--input={source}", f"--output={output}", *flags])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Records and latents that one machine has made."""
    folder = tmp_path_factory.mktemp("whole")
    prepared(folder / "world")
    encoded(folder / "world", folder / "latents")
    return folder


def test_shares_in_any_order_end_as_one_machine(whole, tmp_path, capsys):
    out = tmp_path / "out"
    for share in ("3/3", "1/3"):
        prepared(out, f"--share={share}")
    assert "share 1/3 of 8 shards is made" in capsys.readouterr().out
    assert not (out / "manifest.json").exists() and not (out / "tokenizer").exists()
    with pytest.raises(SystemExit, match=r"3 of 8 shards are not made, of the shares 2/3; run"):
        prepared(out, "--finish")
    prepared(out, "--share=2/3", "--workers=1")
    prepared(out, "--finish")
    assert contents(out) == contents(whole / "world")
    with pytest.raises(SystemExit, match="already holds prepared data"):
        prepared(out, "--share=2/3")


def test_shares_of_latents_end_as_one_machine(whole, tmp_path):
    out = tmp_path / "out"
    for share in ("2/2", "1/2"):
        encoded(whole / "world", out, f"--share={share}")
    assert not (out / "manifest.json").exists()
    encoded(whole / "world", out, "--finish")
    assert contents(out) == contents(whole / "latents")


def test_shares_in_a_bucket(whole, place):
    for share in ("2/2", "1/2"):
        prepared(place, f"--share={share}")
    prepared(place, "--finish")
    assert contents(place) == contents(whole / "world")


def test_a_share_that_was_killed_is_made_again(whole, tmp_path):
    prepared(tmp_path, "--share=1/2")
    for name in ("00002.json", "share-1-of-2.json"):
        (tmp_path / "unfinished" / name).unlink()
    (tmp_path / ".records-00002.part.array_record").write_bytes(b"half")
    prepared(tmp_path, "--share=2/2")
    with pytest.raises(SystemExit, match="1 of 8 shards are not made, of the shares 1/2"):
        prepared(tmp_path, "--finish")
    prepared(tmp_path, "--share=1/2")
    prepared(tmp_path, "--finish")
    assert contents(tmp_path) == contents(whole / "world")


def test_counts_must_add_up(tmp_path):
    prepared(tmp_path, "--share=1/1")
    note = tmp_path / "unfinished" / "00003.json"
    found = json.loads(note.read_text())
    note.write_text(json.dumps(found | {"lengths": found["lengths"][1:]}))
    with pytest.raises(SystemExit, match="shard 3 is of 7 records instead of 8"):
        prepared(tmp_path, "--finish")
    assert not (tmp_path / "manifest.json").exists()


def test_what_shares_cannot_do_is_said(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"task": "t2i", "prompt": "a", "image": "a.png"}\n')
    with pytest.raises(SystemExit, match="--share needs --tokenizer, the same for all"):
        prepare.main(["prepare", f"--input={rows}", f"--output={tmp_path / 'o'}", "--share=1/2"])
    with pytest.raises(SystemExit, match="'4/3' is no share; write i/n with 1 <= i <= n"):
        prepared(tmp_path / "o", "--share=4/3")
    with pytest.raises(SystemExit, match="does not go with --overwrite"):
        prepared(tmp_path / "o", "--share=1/3", "--overwrite")
    with pytest.raises(SystemExit, match="no share has been begun there"):
        prepared(tmp_path / "o", "--finish")
    prepared(tmp_path / "o", "--share=1/3")
    with pytest.raises(SystemExit, match="interrupted run with other inputs or settings"):
        prepared(tmp_path / "o", "--share=2/3", "--seed=1")
    with lock.hold(tmp_path / "o" / "unfinished" / "share-2-of-3", "unireason prepare"):
        with pytest.raises(SystemExit, match="is in use by 'unireason prepare'"):
            prepared(tmp_path / "o", "--share=2/3")
        prepared(tmp_path / "o", "--share=3/3")
    assert shares.parse("") is None and str(shares.parse("2/3")) == "2/3"
