"""Rows of BAGEL, IRG, Uni-Edit and ShareGPT-4o-Image against what the official loaders plan."""

import json

import pyarrow.parquet
import pytest

from unireason_jax.data.records import RecordError
from unireason_jax.data.templates import Style, to_record
from unireason_jax.data.templates.official import FORMATS, checked_format, read_row


def plan_of(record):
    """(type, droppable, learned) of every item that the official packer would get."""
    items = []
    for segment in record.segments:
        learned, drop = int(segment.loss != "none"), int(segment.drop)
        if segment.kind == "text":
            items.append(("text", drop, learned))
        if segment.loss == "flow":
            items.append(("vae_image", 0, 1))
        if segment.gen:
            items.append(("vae_image", drop, 0))
        if segment.und:
            items.append(("vit_image", drop, 0))
    return items


def official_plan(sample):
    return [(item["type"], item["enable_cfg"], item["loss"]) for item in sample["plan"]]


@pytest.fixture(scope="module")
def samples(data_goldens):
    """Official samples of a tree and type, by record."""
    found = {}
    for sample in json.loads((data_goldens / "samples.json").read_text()):
        key = (sample["tree"], sample["type"])
        found.setdefault(key, {}).setdefault(sample["record"], []).append(sample)
    return found


def parquet_rows(folder):
    return [row for path in sorted(folder) for row in pyarrow.parquet.read_table(path).to_pylist()]


def test_irg_conversations_become_the_official_plans(data_goldens, samples):
    compared = 0
    for folder in sorted((data_goldens / "records" / "irg").iterdir()):
        for row in parquet_rows(folder.glob("*.parquet")):
            ((official,),) = [samples["irg", folder.name][row["id"]]]
            record = read_row(row, "irg")
            assert plan_of(record) == official_plan(official), row["id"]
            assert [s.text for s in record.segments if s.kind == "text"] == official["texts"]
            compared += 1
    assert compared == 12


def test_bagel_captions_are_one_of_the_official_choices(data_goldens, samples):
    drawn = set()
    for row in parquet_rows((data_goldens / "records" / "bagel" / "t2i").glob("*.parquet")):
        if not any(text.strip() for text in json.loads(row["captions"]).values()):
            with pytest.raises(RecordError, match="has no caption with words"):
                read_row(row, "bagel_t2i")
            continue
        for visit in range(8):
            record = to_record(read_row(row, "bagel_t2i", visit))
            assert plan_of(record) == official_plan(samples["bagel", "t2i"][row["id"]][0])
            drawn.add((row["id"], record.segments[0].text))
            assert record == to_record(read_row(row, "bagel_t2i", visit))
    official = {
        (sample["record"], text)
        for visits in samples["bagel", "t2i"].values()
        for sample in visits
        for text in sample["texts"]
        if text.strip()
    }
    assert official <= drawn


def test_bagel_edit_chains_become_the_official_plans(data_goldens, samples):
    """Every official outcome is drawn sooner or later."""
    drawn = {}
    for row in parquet_rows((data_goldens / "records" / "bagel" / "edit").glob("*.parquet")):
        for visit in range(80):
            record = to_record(read_row(row, "bagel_edit", visit))
            texts = tuple(s.text for s in record.segments if s.kind == "text")
            drawn.setdefault((row["id"], texts), plan_of(record))
    compared = 0
    for visits in samples["bagel", "edit"].values():
        for sample in visits:
            assert drawn[sample["record"], tuple(sample["texts"])] == official_plan(sample)
            compared += 1
    assert compared == 20


def test_questions_behind_uni_edit_rows_become_the_official_plans(data_goldens, samples):
    lines = (data_goldens / "records" / "uniedit" / "vqa.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        (official,) = samples["uniedit", "vqa"][row["id"]]
        record = read_row(row, "uni_edit_vqa")
        plan = plan_of(record)
        if isinstance(row.get("image_path"), list):  # the official loader plans the first only
            assert plan.count(("vit_image", 0, 0)) == len(row["image_path"]) == 2
            plan.remove(("vit_image", 0, 0))
        assert plan == official_plan(official)
        assert [s.text for s in record.segments if s.kind == "text"] == official["texts"]


def test_sharegpt_rows_are_edits_where_they_have_input_images():
    row = {"id": "x", "input_prompt": "a circle", "output_image": "b.png", "licence": "CC0"}
    record = to_record(read_row(row))
    assert [s.role for s in record.segments] == ["user", "image"] and record.licence == "CC0"
    record = to_record(read_row({**row, "input_image": ["a.png"]}), Style(image_first=True))
    assert [s.image for s in record.segments] == ["a.png", None, "b.png"]


def test_a_video_is_refused_by_name():
    with pytest.raises(RecordError, match="field 'video': clips are not read"):
        read_row({"id": "x", "video": "v/", "conversations": [{"from": "gpt", "value": "a"}]})


def test_formats_have_names():
    assert checked_format("irg") == "irg" and "auto" in FORMATS
    with pytest.raises(ValueError, match="did you mean 'bagel_t2i'"):
        checked_format("bagel_t2")
    with pytest.raises(RecordError, match="an example names its 'task'"):
        read_row({"id": "x", "txt": "a"}, "examples")
    with pytest.raises(RecordError, match="field 'image_path' is None"):
        read_row({"id": "x", "edit_instruction": "a"}, "uni_edit")


def test_umm_reflection_rows_become_refinement_traces():
    turn = (
        "<think>\n[CURRENT_ROUND] Round#{}\n[SCORE] {}/10\n[ACTION] {}\n[THINKING] seen\n{}\n"
        "</think>"
    )
    turns = [
        turn.format(0, 0, "edit", "[SOURCE_IMAGE] None\n[EDIT] a red dog,\nsitting"),
        turn.format(1, 4, "Edit", "[SOURCE_IMAGE] Image #0\n[EDIT] make it red"),
        turn.format(2, 10, "done", "[SOURCE_IMAGE] Image #1\n[EDIT] None"),
    ]
    told = [
        "[SCORE] 4/10\n[ACTION] edit\n[THINKING] seen\n[EDIT] make it red",
        "[SCORE] 10/10\n[ACTION] done\n[THINKING] seen\n[EDIT] None",
    ]
    row = {"id": "u", "task": "t2i", "user_prompt": "a red dog", "think_list": turns}
    trace = {
        "explanation": "seen\na red dog,\nsitting",
        "draft": b"one",
        "rounds": [{"reflection": told[0], "image": b"two"}],
        "final_reflection": told[1],
    }
    drawn = {"task": "refine_t2i", "id": "u", "licence": "", "prompt": "a red dog"}
    assert read_row(row | {"step_image_list": [b"one", b"two", None]}) == drawn | trace
    row |= {"task": "edit", "think_list": ["", *turns]}
    edited = {"task": "refine_edit", "id": "u", "licence": "", "instruction": "a red dog"}
    edited |= {"input_image": [b"zero"]}
    assert read_row(row | {"step_image_list": [b"zero", b"one", b"two", b""]}) == edited | trace
