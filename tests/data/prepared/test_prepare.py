"""`prepare`: shards, index, quarantine, pictures, and one-line errors."""

import json

import numpy as np
import pytest
from PIL import Image

from unireason_jax import prepare
from unireason_jax.data.bagel.tokens import SampleSpec, lengths
from unireason_jax.data.image_sizes import SIZES, SizeCodec
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.data.text.tokenizer import load_tokenizer


def picture(path, value, size=(32, 32)):
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three usable rows and six that are not, each for another reason."""
    images = tmp_path / "images"
    images.mkdir()
    picture(images / "a.png", 10)
    picture(images / "b.png", 20)
    picture(images / "odd.png", 30, (30, 33))
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:60])
    (images / "no.png").write_text("not an image")
    rows = [
        {"task": "t2i", "id": "one", "prompt": "a red circle", "image": "a.png", "licence": "CC0"},
        {"id": "two", "instruction": "add", "input_image": "a.png", "output_image": "b.png"},
        {"task": "vqa", "id": "three", "image": "b.png", "question": "how", "answer": "two"},
        {"task": "t2i", "id": "missing", "prompt": "a", "image": "nowhere.png"},
        {"task": "t2i", "id": "cut", "prompt": "a", "image": "cut.png"},
        {"task": "t2i", "id": "text", "prompt": "a", "image": "no.png"},
        {"task": "t2i", "id": "odd", "prompt": "a", "image": "odd.png"},
        {"task": "t2i", "id": "hole", "prompt": "a"},
        {"id": "unknown", "words": "a"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{broken\n")
    return tmp_path


def run(folder, *arguments, output="out"):
    prepare.main(
        [
            "prepare",
            f"--input={folder / 'rows.jsonl'}",
            f"--images={folder / 'images'}",
            f"--output={folder / output}",
            "--sizes=world",
            *arguments,
        ]
    )
    return folder / output


def test_good_records_are_kept_and_bad_ones_explained(folder, capsys):
    out = run(folder)
    source = ArrayRecordSource(out)
    assert [source[i].id for i in range(len(source))] == ["one", "two", "three"]
    assert source[0].segments[-1].image == (folder / "images" / "a.png").read_bytes()
    entries = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    reasons = {entry["record"].split(": ")[1]: entry["reason"] for entry in entries}
    expected = {
        "missing": "does not exist",
        "cut": "cannot be decoded",
        "text": "not readable",
        "odd": "not a multiple of 8",
        "hole": "is a hole",
        "unknown": "unknown fields ['words']",
        "rows.jsonl:10": "not JSON",
    }
    assert reasons.keys() == expected.keys()
    for name, part in expected.items():
        assert part in reasons[name], name
    manifest = source.manifest
    assert manifest["records"] == 3 and manifest["quarantined"] == 7
    assert manifest["counts"]["licence CC0"] == 1 and manifest["counts"]["template edit"] == 1
    printed = capsys.readouterr().out
    assert "3 records" in printed and "7 records quarantined" in printed


def test_the_length_index_is_what_the_records_measure(folder):
    out = run(folder)
    source = ArrayRecordSource(out)
    spec = SampleSpec(load_tokenizer(out / "tokenizer"), **SIZES["world"])
    index = source.lengths()
    assert index.dtype == np.int32
    assert [tuple(row) for row in index] == [lengths(source[i], spec) for i in range(3)]
    assert source.manifest["tokens"] == dict(zip(("text", "vit", "latent"), index.sum(0)))


def test_same_input_same_key_and_no_silent_overwriting(folder, capsys):
    first = ArrayRecordSource(run(folder)).manifest
    with pytest.raises(SystemExit, match="already holds prepared data; give --overwrite"):
        run(folder)
    again = ArrayRecordSource(run(folder, "--overwrite")).manifest
    assert again["key"] == first["key"]
    other = ArrayRecordSource(run(folder, "--style=unireason", output="other")).manifest
    assert other["source"] != first["source"]
    capsys.readouterr()


def test_an_interrupted_run_is_cleared_away(folder):
    stale = folder / "out"
    stale.mkdir()
    (stale / "records-00007.array_record").write_bytes(b"half")
    (stale / "notes.txt").write_text("mine")
    run(folder)
    assert [path.name for path in sorted(stale.glob("records-*"))] == ["records-00000.array_record"]
    assert (stale / "notes.txt").read_text() == "mine"


def test_the_first_pack_can_be_seen(folder):
    out = run(folder, f"--show={folder / 'pictures' / 'pack.png'}")
    assert out.is_dir()
    with Image.open(folder / "pictures" / "pack.png") as image:
        assert image.width == 1400 and image.height > 600
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 50


def test_a_named_format_brings_its_sizes_and_system_prompts(folder):
    row = {"id": "x", "txt": "a", "Reasoning": "a circle", "image_path": "a.png"}
    (folder / "rows.jsonl").write_text(json.dumps(row))
    inputs = [f"--input={folder / 'rows.jsonl'}", f"--images={folder / 'images'}"]
    for form in ("--format=unireason", "--format=auto"):
        out = folder / form
        prepare.main(["prepare", *inputs, form, f"--output={out}"])
        source = ArrayRecordSource(out)
        assert source.manifest["sizes"] == "unireason" and source.lengths()[0, 2] == 32 * 32
        roles = [segment.role for segment in source[0].segments]
        assert roles == ["system", "user", "plan", "image"]
    plain = ArrayRecordSource(run(folder, "--format=unireason", "--style=plain", output="plain"))
    assert [segment.role for segment in plain[0].segments] == ["user", "plan", "image"]


def test_the_picture_shows_every_template(folder, monkeypatch):
    rows = [{"id": f"{n}", "txt": "a", "image_path": "a.png"} for n in range(40)]
    rows += [{"id": "e", "instruction": "a", "input_image": "a.png", "output_image": "b.png"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    drawn = []
    monkeypatch.setattr(prepare.rows, "assemble", lambda found, *rest: drawn.extend(found))
    monkeypatch.setattr(prepare.packed_row, "draw_row", lambda *_, **__: Image.new("RGB", (4, 4)))
    run(folder, f"--show={folder / 'pack.png'}")
    assert [sequence.record_id for sequence in drawn][:3] == ["0", "e", "1"] and len(drawn) < 41


def test_world_records_can_be_written_out(tmp_path):
    arguments = ["--format=world", "--tasks=t2i=3,process", "--size=8", "--seed=2"]
    prepare.main(["prepare", *arguments, f"--output={tmp_path / 'w'}"])
    source = ArrayRecordSource(tmp_path / "w")
    assert [source[i].source for i in range(8)].count("process") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output=o"], "prepare: say what to read: --input FILE"),
        (["--input=nowhere.jsonl"], "prepare: say where to write: --output DIR"),
        (["--input=nowhere.jsonl", "--output=o"], r"prepare: nowhere\.jsonl does not exist"),
        (["--inptu=x"], "prepare: Unknown command line flag 'inptu'"),
        (["rows.jsonl"], "prepare: unknown argument 'rows.jsonl'; flags start with --"),
        (["--format=world", "--tasks=t2i=x", "--output=o"], "--tasks 't2i=x' is not NAME=WEIGHT"),
        (["--format=world", "--tasks=t3i", "--output=o"], "unknown world task 't3i'"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message) as error:
        prepare.main(["prepare", *arguments])
    assert len(str(error.value).splitlines()) <= 2


def test_empty_and_hopeless_inputs_are_said(folder):
    (folder / "rows.jsonl").write_text("")
    with pytest.raises(SystemExit, match=r"rows\.jsonl is empty; there is nothing to read"):
        run(folder)
    (folder / "rows.jsonl").write_text(json.dumps({"id": "x", "words": "a"}))
    with pytest.raises(SystemExit, match=r"unknown fields|no words to train"):
        run(folder)
    assert not (folder / "out" / "manifest.json").exists()
    text = {"task": "t2i", "id": "x", "prompt": "a", "image": "nowhere.png"}
    (folder / "rows.jsonl").write_text(json.dumps(text))
    with pytest.raises(
        SystemExit,
        match=r"be used: 1 x image .*nowhere\.png does not.*; every reason is",
    ):
        run(folder)


def test_help_names_every_flag(capsys):
    prepare.main(["prepare", "--help"])
    text = capsys.readouterr().out
    for flag in ("--input", "--images", "--output", "--show", "--tokenizer", "--style"):
        assert flag in text


def test_the_stand_in_codec_shows_mean_colours():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8, :8] = (255, 0, 128)
    codec = SizeCodec(8, 4)
    mean, logvar = codec.encode(image)
    assert mean.shape == (2, 2, 4) and np.exp(logvar).max() == 0
    assert np.abs(codec.decode(mean).astype(int) - image).max() <= 1
