"""Rows as people have them become records; what cannot is refused in the words of the row."""

import base64

import pytest

from tests.data import official_rows
from unireason_jax.data.files.streams import Reading
from unireason_jax.data.records import RecordError, cut
from unireason_jax.data.templates.official import recognised

PNG = official_rows.PNG
TEXT = base64.b64encode(PNG).decode()
LONG = "word " * 2000


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png"):
        (images / name).write_bytes(PNG)
    (tmp_path / "out.png").write_bytes(PNG)
    (images / "link.png").symlink_to(tmp_path / "out.png")
    (images / "inside.png").symlink_to(images / "a.png")
    (images / "up").symlink_to(tmp_path)
    return images


def record(row, folder, form="auto", **options):
    return Reading(form, **options).record(row, "rows:1", folder)


def contents(found):
    return [segment.text if segment.kind == "text" else segment.image for segment in found.segments]


@pytest.mark.parametrize("key", ["text", "caption", "captions", "prompt"])
@pytest.mark.parametrize("image", [PNG, {"bytes": PNG, "path": None}, {"bytes": PNG, "path": "x"}])
def test_captioned_images_of_the_hub(key, image, folder):
    for caption in ("a cat", ["a cat"], {"short": "a cat", "long": None}, '{"c": "a cat"}'):
        row = {"image": image, key: caption}
        assert recognised(row) == "bagel_t2i"
        assert contents(record(row, folder)) == ["a cat", PNG]


@pytest.mark.parametrize("key", ["image", "file_name", "image_path", "jpg"])
def test_captioned_images_may_be_paths(key, folder):
    for image in ("deep/c.png", {"bytes": None, "path": "deep/c.png"}, ["deep/c.png"]):
        found = record({key: image, "text": "[sic] a cat"}, folder)
        assert contents(found) == ["[sic] a cat", folder / "deep/c.png"]


@pytest.mark.parametrize("image", [f"data:image/png;base64,{TEXT}", TEXT, {"bytes": TEXT}])
def test_images_may_be_written_in_base64(image, folder):
    for row in ({"image": image, "text": "a"}, {"task": "t2i", "prompt": "a", "image": image}):
        assert contents(record(row, folder)) == ["a", PNG]


def test_chats_of_either_layout(folder):
    turns = [{"role": "user", "content": "<image> what?"}, {"role": "assistant", "content": "x"}]
    expected = [folder / "a.png", "what?", "x"]
    assert contents(record({"messages": turns, "images": ["a.png"]}, folder)) == expected
    parts = [{"type": "image"}, {"type": "text", "text": "what?"}]
    listed = [
        {"role": "user", "content": parts},
        {**turns[1], "content": [{"type": "text", "text": "x"}]},
    ]
    assert contents(
        record({"messages": listed, "images": [{"bytes": PNG, "path": None}]}, folder)
    ) == [
        PNG,
        "what?",
        "x",
    ]
    brought = [
        {"role": "user", "content": [{"type": "image", "image": "b.png"}, parts[1]]},
        turns[1],
    ]
    assert contents(record({"messages": brought}, folder)) == [folder / "b.png", "what?", "x"]
    shared = [{"from": "user", "value": "<image> what?"}, {"from": "assistant", "value": "x"}]
    assert contents(record({"conversations": shared, "image": "a.png"}, folder)) == expected
    for spoilt in (
        [{"role": "tool", "content": "a"}],
        [{"role": "user", "content": [{"type": "x"}]}],
    ):
        with pytest.raises(RecordError, match="field 'messages' has the turn"):
            record({"messages": spoilt}, folder)


def test_edits_with_one_wording_a_hop_and_none_too_many(folder):
    row = {"image_list": [PNG, PNG], "instruction_list": ["add a hat"]}
    assert contents(record(row, folder)) == [PNG, "add a hat", PNG]
    for wordings in (None, [], [["a"], ["b"]], "a", [[]], [None], [[""]]):
        with pytest.raises(RecordError, match="field 'instruction_list'"):
            record({**row, "instruction_list": wordings}, folder)


def test_a_null_task_does_not_spoil_a_format(folder):
    row = {"task": None, "image": PNG, "captions": "a cat", "txt": None}
    for form in ("auto", "bagel_t2i"):
        assert contents(record(row, folder, form)) == ["a cat", PNG]
    assert contents(record({**row, "task": "captioning"}, folder, "bagel_t2i")) == ["a cat", PNG]
    with pytest.raises(RecordError, match="names its 'task'"):
        record(row, folder, "examples")


@pytest.mark.parametrize(
    "path",
    ["../out.png", "{folder}/../out.png", "/etc/hostname", "link.png", "up/out.png", "..", "/"],
)
def test_images_outside_of_the_folder_are_refused(path, folder):
    row = {"task": "t2i", "prompt": "a", "image": path.format(folder=folder)}
    with pytest.raises(RecordError, match=r"is outside of the image folder .*--allow_outside"):
        record(row, folder)
    assert record(row, folder, allow_outside=True).segments[1].image == folder / row["image"]


def test_images_inside_are_found_however_they_are_named(folder):
    for path in ("a.png", f"{folder}/a.png", "deep/../a.png", "inside.png", "./deep/c.png"):
        row = {"task": "t2i", "prompt": "a", "image": path}
        assert record(row, folder).segments[1].image.samefile(folder / "a.png") or "deep/c" in path


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"txt": None, "image_path": "a.png"}, "'txt'"),
        ({"txt": 7, "image_path": "a.png"}, "'txt'"),
        ({"txt": "a", "image_path": None}, "'image_path'"),
        ({"txt": "a", "Reasoning": 7, "image_path": "a.png"}, "'Reasoning'"),
        ({"edit_instruction": "", "image_path": "a.png"}, "'edit_instruction'"),
        ({"input_prompt": 3, "output_image": "a.png"}, "'input_prompt'"),
        ({"caption": " ", "image": "a.png"}, "'caption'"),
        ({"text": 7, "file_name": "a.png"}, "'text'"),
        ({"instruction": None, "input_image": "a.png", "output_image": "b.png"}, "'instruction'"),
        ({"prompt": [1], "Text Reasoning Trace": "a", "img_path": "a.png"}, "'prompt'"),
    ],
)
def test_reasons_speak_of_the_users_field(row, field, folder):
    with pytest.raises(RecordError) as error:
        record({"id": "x", **row}, folder)
    assert f"field {field}" in error.value.reason


@pytest.mark.parametrize("value", [PNG, TEXT, [PNG] * 40, {"a": TEXT}, LONG, [LONG], 10**400])
def test_reasons_hold_no_image_and_no_whole_prompt(value, folder):
    assert len(cut(value)) <= 203 and TEXT[:70] not in cut(value) and "x89PNG" not in cut(value)
    rows = [
        {"task": "t2i", "prompt": value, "image": value},
        {"task": value, "prompt": "a"},
        {"task": "t2i", "prompt": "a", "image": [value]},
        {"txt": value, "image_path": [value, value]},
        {"captions": [value, 3], "image": "a.png"},
        {"conversations": [{"from": value, "value": value}]},
        {"image_list": [value], "instruction_list": value},
        {"conversation": [{"role": value, "content": value}]},
        {"messages": [{"role": "user", "content": value}], "images": value},
        {"id": [value]},
    ]
    for row in rows:
        try:
            record(row, folder)
        except RecordError as error:
            assert len(error.reason) < 700 and TEXT[:70] not in error.reason, error.reason
            assert "x89PNG" not in error.reason and LONG[:250] not in error.reason


def test_nothing_in_a_row_raises_anything_else(folder, monkeypatch):
    monkeypatch.setattr(
        "unireason_jax.data.files.streams.to_record", lambda *_: {}["a key that is not there"]
    )
    with pytest.raises(RecordError, match="KeyError: 'a key that is not there'"):
        record({"task": "t2i", "prompt": "a", "image": "a.png"}, folder)


@pytest.mark.parametrize("name", ["https://x.org/a.png", "ftp://b/a.png", "file:///etc/passwd"])
def test_addresses_are_not_fetched(name, folder):
    with pytest.raises(RecordError, match="is an address; download it"):
        record({"task": "t2i", "prompt": "a", "image": name}, folder)
