"""Folders of pictures with a text beside each, as people caption them for tuning."""

import json
import unicodedata

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


def reasons(output):
    return [json.loads(x)["reason"] for x in (output / "quarantine.jsonl").open()]


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
    assert reasons(output) == [
        "picture 'b.png' has no caption; write its words into b.txt",
        "field 'text' has no caption with words",
    ]
    assert "2 records quarantined" in capsys.readouterr().out


def test_what_stands_in_the_folder_is_read_or_said(tmp_path):
    folder = write(tmp_path / "photos", a="a red thing", twice="a", Upper=None)
    (folder / "twice.caption").write_text("b")
    (folder / "notes.txt").write_text("of the day")
    (folder / "Upper.TXT").write_text("a second thing")
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (folder / "phone.txt").write_text("a third thing")
    output = run(folder, "--sizes=world")
    source = ArrayRecordSource(output)
    assert {source[n].id for n in range(len(source))} == {"a.png", "Upper.png"}
    found = reasons(output)
    assert found[::2] == [
        "text 'notes.txt' has no picture of its name beside it",
        "picture 'twice.png' has several texts, twice.caption and twice.txt; keep one",
    ]
    assert "phone.heic' is not readable: it is none of PNG" in found[1] and len(found) == 3


def test_accents_may_be_kept_either_way(tmp_path):
    whole, apart = (unicodedata.normalize(form, "häuser") for form in ("NFC", "NFD"))
    beside = write(tmp_path / "photos", **{apart: None})
    (beside / f"{whole}.txt").write_text("houses")
    rows = write(tmp_path / "rows", **{whole: None})
    row = {"file_name": f"{apart}.png", "text": "houses"}
    (rows / "metadata.jsonl").write_text(json.dumps(row, ensure_ascii=False))
    for folder in (beside, rows):
        source = ArrayRecordSource(run(folder, "--overwrite", "--sizes=world"))
        assert len(source) == 1 and source[0].segments[0].text == "houses"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("fenêtre".encode("latin-1"), "field 'text' is not UTF-8 (byte 0xEA); save its file as"),
        ("a window".encode("utf-16"), "b.txt has zero bytes, as UTF-16 has; save it as UTF-8"),
        ("a window".encode("utf-16-le"), "b.txt has zero bytes, as UTF-16 has; save it as UTF-8"),
    ],
)
def test_words_of_another_encoding_are_said(content, reason, tmp_path):
    folder = write(tmp_path / "photos", a="a red thing", b="")
    (folder / "b.txt").write_bytes(content)
    (found,) = reasons(run(folder, "--sizes=world"))
    assert found.startswith(reason)


def test_texts_that_rows_stand_before_are_told(tmp_path, capsys):
    folder = write(tmp_path / "photos", a="a red thing", b="a blue thing")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "red"}')
    run(folder, "--sizes=world")
    told = "metadata.jsonl has the rows, so 2 texts beside pictures (a.txt, ...) are not read"
    assert told in capsys.readouterr().out
    (folder / "metadata.jsonl").unlink()
    run(folder, "--sizes=world", "--overwrite")
    assert "are not read" not in capsys.readouterr().out


def test_a_folder_behind_a_link_is_told(tmp_path, capsys):
    folder = write(tmp_path / "photos", a="a red thing")
    write(tmp_path / "elsewhere", b="a blue thing")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    assert len(ArrayRecordSource(run(folder, "--sizes=world"))) == 1
    link = folder / "more"
    told = f"{link} is a link to a folder, which is not followed; add ,{link} to --input"
    assert told in capsys.readouterr().out
    both = run(folder, f"--input={folder},{link}", "--sizes=world", "--overwrite")
    assert len(ArrayRecordSource(both)) == 2


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
