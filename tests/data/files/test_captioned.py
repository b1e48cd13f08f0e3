"""Folders of pictures with a text beside each, as people caption them for tuning."""

import json

import pytest

from tests.data import official_rows
from unireason_jax import prepare
from unireason_jax.data.sources import ArrayRecordSource


def write(folder, **texts):
    """Pictures named by the keys, with these texts beside them; None for none."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.png").write_bytes(official_rows.png(90))
        if text is not None:
            (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def run(folder, *arguments):
    output = folder.parent / "out"
    prepare.main(["prepare", f"--input={folder}", f"--output={output}", *arguments])
    return output


def test_a_text_beside_a_picture_is_its_caption(tmp_path):
    folder = write(tmp_path / "photos", b="\ufeffa red thing\n", a="ein grünes Ding")
    write(folder / "below", c="a third")
    (folder / "notes.md").write_text("nothing to read")
    source = ArrayRecordSource(run(folder, "--shard_records=2"))
    found = {record.id: record.segments[0].text for record in (source[n] for n in range(3))}
    wanted = {"a.png": "ein grünes Ding", "b.png": "a red thing", "below/c.png": "a third"}
    assert found == wanted and len(source) == 3


def test_a_picture_without_words_is_quarantined_and_said(tmp_path, capsys):
    folder = write(tmp_path / "photos", a="a red thing", b=None, c=" ")
    output = run(folder)
    reasons = [json.loads(x)["reason"] for x in (output / "quarantine.jsonl").open()]
    assert reasons == [
        "picture 'b.png' has no caption; write its words into b.txt",
        "field 'text' has no caption with words",
    ]
    assert "2 records quarantined" in capsys.readouterr().out


def test_pictures_alone_are_refused_with_both_ways_out(tmp_path):
    folder = write(tmp_path / "photos", a=None, b=None)
    with pytest.raises(SystemExit) as error:
        run(folder)
    assert "holds 2 pictures without words: describe a.png in a.txt, and so on; or write" in str(
        error.value
    )
    assert '{"file_name": "a.png", "text": "..."}' in str(error.value)


def test_what_was_read_belongs_to_the_request(tmp_path):
    folder = write(tmp_path / "photos", a="a red thing")
    run(folder)
    (folder / "a.txt").write_text("a blue thing, now")
    with pytest.raises(SystemExit, match="already holds prepared data"):
        run(folder)
    assert ArrayRecordSource(run(folder, "--overwrite"))[0].segments[0].text == "a blue thing, now"
