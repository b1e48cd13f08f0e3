"""Templates: supervision as described, holes for sampling, and the released loaders' sequences."""

import dataclasses
import json

import numpy as np
import pytest

from unireason_jax.data.bagel.tokens import SampleSpec, tokenize
from unireason_jax.data.records import Record, RecordError
from unireason_jax.data.templates import TEMPLATES, Style, prompts, template_of, to_record
from unireason_jax.data.templates.official import read_row
from unireason_jax.data.text.tokenizer import CONTROLS, SentencePieceTokenizer
from unireason_jax.world import tasks

REFERENCE = Style(reference=True)


class FlatCodec:
    """One latent per 8 x 8 pixels, all zero: enough for layouts."""

    stride, channels = 8, 1

    def encode(self, image):
        zeros = np.zeros((image.shape[0] // 8, image.shape[1] // 8, 1), np.float32)
        return zeros, zeros


def flags(record):
    """Role, loss, next and drop of every segment, as short strings."""
    return [f"{s.role}:{s.loss}:{s.next}" + (":drop" if s.drop else "") for s in record.segments]


def world(task, index=0):
    return tasks.example(0, index, task)


def refined(rounds):
    """A world refinement trace with that many rounds."""
    for index in range(200):
        example = world("refine_t2i", index)
        if len(example["rounds"]) == rounds:
            return example
    raise AssertionError(f"no trace with {rounds} rounds")


# ------------------------------------------------------------------ our supervision


def test_a_plan_hands_over_to_the_image():
    record = to_record(world("think_t2i"))
    assert record.source == "think_t2i"
    assert flags(record) == ["user:none:none:drop", "plan:text:image", "image:flow:none"]
    assert record.segments[1].content.startswith("<think>")


def test_a_refined_trace_leaves_plan_and_draft_unsupervised_and_ends_with_a_stop():
    raw = refined(1)
    record = to_record(raw)
    assert flags(record) == [
        "user:none:none:drop",
        "plan:none:none:drop",
        "draft:none:none:drop",
        "reflection:text:image",
        "refined:flow:none:drop",
        "reflection:text:stop",
    ]
    assert record.segments[-1].content == f"<sugg>{raw['final_reflection']}</sugg>"
    assert all(s.gen and s.und for s in record.segments if s.kind == "image")


def test_a_right_draft_is_followed_by_the_stop_at_once():
    record = to_record(refined(0))
    assert flags(record)[-2:] == ["draft:none:none:drop", "reflection:text:stop"]


def test_a_trace_without_final_words_stops_at_its_last_image():
    silent = {**refined(1), "final_reflection": ""}
    assert flags(to_record(silent))[-1] == "refined:flow:stop:drop"
    assert flags(to_record({**refined(0), "final_reflection": " "}))[-1] == "draft:none:stop:drop"


def test_steps_hand_over_to_each_other():
    for index in range(60):
        example = world("process", index)
        record = to_record(example)
        followers = [*record.segments[1:], None]
        for segment, after in zip(record.segments[1:], followers[1:]):
            assert segment.next == ("stop" if after is None else after.kind), flags(record)
        rejected = [step for step in example["steps"] if step.get("refine")]
        if rejected:
            sketches = [s for s in record.segments if s.role == "sketch" and s.loss == "none"]
            assert len(sketches) == len(rejected)
            assert any("<refine>" in (s.text or "") for s in record.segments)
            return
    raise AssertionError("no example with a repaired step")


def test_questions_show_the_image_to_the_vit_only_and_drop_nothing():
    record = to_record(world("vqa"))
    assert flags(record) == ["source:none:none", "user:none:none", "answer:text:stop"]
    assert record.segments[0].und and not record.segments[0].gen


def test_uni_edit_learns_pixels_only():
    record = to_record(world("uni_edit"))
    assert flags(record) == ["source:none:none:drop", "user:none:none:drop", "image:flow:none"]


def test_styles_change_order_and_system_prompt():
    record = to_record(world("edit"), Style(system="draw", image_first=True))
    assert [s.role for s in record.segments] == ["system", "source", "user", "image"]
    assert record.segments[0].text == "draw"


def test_several_sources_are_all_shown_but_not_by_the_reference():
    example = world("edit")
    example["input_image"] = [example["input_image"], example["output_image"]]
    assert [s.role for s in to_record(example).segments].count("source") == 2
    assert [s.role for s in to_record(example, REFERENCE).segments].count("source") == 1


@pytest.mark.parametrize("task", tasks.TASKS)
def test_every_world_task_has_a_template_and_only_holes_where_content_is_missing(task):
    for index in range(5):
        example = world(task, index)
        record = to_record(example)
        assert record.id == example["id"] and not record.holes
        assert any(s.loss != "none" or s.next != "none" for s in record.segments)


# ------------------------------------------------------------------ sampling


@pytest.mark.parametrize(
    ("name", "request_", "holes"),
    [
        ("t2i", {"prompt": "a"}, ["image"]),
        ("think_t2i", {"prompt": "a"}, ["plan", "image"]),
        ("edit", {"instruction": "a", "input_image": b"x"}, ["image"]),
        ("think_edit", {"instruction": "a", "input_image": b"x"}, ["plan", "image"]),
        (
            "refine_t2i",
            {"prompt": "a", "rounds": 2},
            ["plan", "draft", *["reflection", "refined"] * 2, "reflection"],
        ),
        (
            "refine_edit",
            {"instruction": "a", "input_image": b"x"},
            ["plan", "draft", "reflection", "refined", "reflection"],
        ),
        ("process", {"prompt": "a", "steps": 2}, ["plan", "sketch", "reflection"] * 2),
        ("vqa", {"image": b"x", "question": "a"}, ["answer"]),
        ("uni_edit", {"image": b"x", "instruction": "a"}, ["image"]),
    ],
)
def test_a_bare_request_has_holes_where_the_sampler_writes(name, request_, holes):
    record = TEMPLATES[name]({"id": "r", **request_}, Style())
    assert [record.segments[i].role for i in record.holes] == holes


GIVEN_IMAGES = {
    "vqa": ["image"],
    "uni_edit": ["image"],
    "process_alignment": ["image"],
    "irg_initial_thinking_understanding": ["image"],
    "irg_improving_thinking_understanding": ["image", "improved"],
}


def request_of(example):
    """What a user gives of an example, and how long the conversation is to be."""
    given = ("id", "task", "prompt", "instruction", "tag", "input_image", "question", "domain")
    given = (*given, "op", "complete", *GIVEN_IMAGES.get(example["task"], ()))
    bare = {key: example[key] for key in given if key in example}
    if "rounds" in example:
        bare["rounds"] = len(example["rounds"])
    if "steps" in example:
        bare["steps"] = [{"wrong": step["refine"] is not None} for step in example["steps"]]
    if "refine" in example:
        bare["wrong"] = example["refine"] is not None
    return bare


@pytest.mark.parametrize("task", tasks.TASKS)
def test_filling_the_holes_gives_the_training_record(task):
    """Same template, same bytes: a request whose holes are filled is the example's record."""
    example = world(task, 3)
    full, bare = to_record(example), request_of(example)
    record = TEMPLATES[full.source](bare, Style())
    assert record.holes
    for number in record.holes:
        segment = full.segments[number]
        record = record.filled(number, segment.text if segment.kind == "text" else segment.image)
    assert not record.holes
    assert [dataclasses.replace(s, image=None) for s in record.segments] == [
        dataclasses.replace(s, image=None) for s in full.segments
    ]
    tokenizer = SentencePieceTokenizer.train(s.content for s in full.segments if s.text)
    spec = SampleSpec(tokenizer, FlatCodec(), latent_patch=1, vit_patch=8, dropout=(0.3,) * 3)
    ours, theirs = (tokenize(r, spec, np.random.default_rng(5)) for r in (record, full))
    for field in dataclasses.fields(ours):
        np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ({"task": "t2i", "id": "x"}, "record 'x': field 'prompt' is missing"),
        ({"task": "t2i", "id": "x", "prompt": "  "}, "field 'prompt' is empty"),
        ({"task": "t2i", "id": "x", "prompt": ["a"]}, "field 'prompt' is list, not str"),
        ({"task": "t3i", "id": "x"}, "'t3i'; did you mean 't2i'"),
        ({"id": "x"}, "field 'task' is None"),
        ({"task": "edit", "id": "x", "instruction": "a", "input_image": []}, "is empty"),
        ({"task": "t2i", "id": "x", "prompt": "a", "think": 8}, "field 'think' is int"),
        ({"task": "refine_t2i", "id": "x", "prompt": "a", "rounds": "two"}, "field 'rounds'"),
        (
            {"task": "refine_t2i", "id": "x", "prompt": "a", "rounds": [{"reflection": " "}]},
            "round 1 has an empty 'reflection'",
        ),
        ({"task": "process", "id": "x", "prompt": "a", "steps": []}, "field 'steps'"),
    ],
)
def test_wrong_examples_name_record_and_field(example, message):
    with pytest.raises(RecordError, match=message):
        to_record(example)


# ------------------------------------------------------------------ published rows


def test_rows_that_the_official_loaders_train_on_by_accident_are_refused(data_goldens):
    """Broken rows: whatever cannot mean what it says raises an error that names the row."""
    cases = json.loads((data_goldens / "records" / "broken" / "cases.json").read_text())
    accidents = {
        "prompt_null",
        "prompt_list",
        "prompt_zero",
        "reasoning_null",
        "reasoning_whitespace",
        "trace_null",
        "trace_whitespace",
        "ref_unclosed",
        "ref_empty",
        "instruction_null",
    }
    refused = set()
    for case in cases:
        if case["case"] not in accidents or not case["type"].startswith("unireason"):
            continue
        for line in (data_goldens / case["file"]).read_text().splitlines():
            with pytest.raises(RecordError, match="record '"):
                to_record(read_row(json.loads(line)), REFERENCE)
            refused.add(case["case"])
    assert refused == accidents


def test_unknown_rows_say_which_keys_are_known():
    with pytest.raises(RecordError, match=r"record 'x': unknown fields \['picture'\]"):
        read_row({"id": "x", "picture": "a.png"})


def test_system_prompts_keep_their_errors_of_spelling():
    assert "follwing" in prompts.REFINE and prompts.REFINE.endswith("accordingly.'")
    assert "\n" not in prompts.THINK_IMAGE and ". \nThe" in prompts.BAGEL_THINK_IMAGE


def test_an_example_that_is_already_one_passes_through():
    example = world("vqa")
    assert read_row(example) is example
    assert template_of(example) == "vqa"
    assert isinstance(to_record(example), Record)
    assert not set(CONTROLS) & {s.text for s in to_record(example).segments}
