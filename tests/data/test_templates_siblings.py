"""Sibling systems: IRG's lessons, critiques of drawings in steps, chains of edits, turns."""

import numpy as np
import pytest

from unireason_jax.data.records import RecordError
from unireason_jax.data.templates import STYLES, TEMPLATES, Style, to_record
from unireason_jax.world import tasks

REFERENCE = Style(reference=True)
A, B, C = (np.full((8, 8, 3), shade, np.uint8) for shade in (0, 100, 200))


def flags(record):
    """Role, loss and next of every segment; `shown` where an image is looked at."""
    return [
        f"{s.role}:{s.loss}:{s.next}" + (":shown" if s.gen or s.und else "")
        for s in record.segments
    ]


# ------------------------------------------------------------------ IRG

TRACE = {"id": "i", "prompt": "p", "think": "t", "image": A, "improve": "u", "improved": B}
LESSONS = {
    "irg_initial_thinking_understanding": [
        "user:none:none", "source:none:none:shown", "user:none:none", "plan:text:stop"
    ],
    "irg_initial_thinking_generation": ["user:none:none", "plan:text:image"],
    "irg_initial_full": ["user:none:none", "plan:text:image", "image:flow:none"],
    "irg_improving_thinking_understanding": [
        "user:none:none", "draft:none:none:shown", "refined:none:none:shown", "user:none:none",
        "reflection:text:stop",
    ],
    "irg_improving_thinking_generation": [
        "user:none:none", "plan:none:none", "draft:none:none:shown", "reflection:text:image"
    ],
    "irg_improving_full": [
        "user:none:none", "plan:none:none", "draft:none:none:shown", "reflection:text:image",
        "refined:flow:none",
    ],
}  # fmt: skip


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_six_lessons_differ_in_what_is_read_and_what_is_learned(lesson):
    record = TEMPLATES[lesson](TRACE, Style())
    assert flags(record) == LESSONS[lesson]
    released = TEMPLATES[lesson](TRACE, REFERENCE)
    assert [s.loss for s in released.segments] == [s.loss for s in record.segments]
    assert {s.next for s in released.segments} == {"none"}
    thoughts = [s.content for s in record.segments if s.role in ("plan", "reflection")]
    assert all(text.startswith("<think>") and text.endswith("</think>") for text in thoughts)


def test_a_bare_prompt_is_the_conversation_of_two_turns():
    record = TEMPLATES["irg_improving_full"]({"id": "i", "prompt": "p"}, Style())
    assert [record.segments[i].role for i in record.holes] == [
        "plan", "draft", "reflection", "refined"
    ]  # fmt: skip


# ------------------------------------------------------------------ drawing in steps

STEP = {"ins": "add", "des": "all", "image": A, "inspect": "good"}
WRONG = STEP | {"inspect": "bad ", "refine": "swap", "refined": B}


def test_a_wrong_step_is_repaired_and_only_the_repair_is_learned():
    record = TEMPLATES["process"]({"id": "s", "prompt": "p", "steps": [STEP, WRONG]}, Style())
    assert flags(record) == [
        "user:none:none",
        "plan:text:image",
        "sketch:flow:text:shown",
        "reflection:text:text",
        "plan:text:image",
        "sketch:none:text:shown",
        "reflection:text:image",
        "refined:flow:stop:shown",
    ]
    assert record.segments[1].text == "<ins>add</ins><des>all</des>"
    assert record.segments[6].text == "bad <refine>swap</refine>"


def test_a_step_to_be_generated_can_be_a_wrong_one():
    record = TEMPLATES["process"](
        {"id": "s", "prompt": "p", "steps": [{}, {"wrong": True}]}, Style()
    )
    roles = [record.segments[i].role for i in record.holes]
    assert roles == ["plan", "sketch", "reflection", "plan", "sketch", "reflection", "refined"]


@pytest.mark.parametrize("complete", [False, True])
def test_a_conflict_is_judged_and_the_trace_before_it_only_read(complete):
    example = {"id": "c", "prompt": "p", "steps": [STEP, STEP], "complete": complete}
    read = ["user:none:none", *["plan:none:none", "sketch:none:none:shown"] * 2]
    then = "stop" if complete else "text"
    record = TEMPLATES["process_conflict"](example, Style())
    assert flags(record) == [*read, f"reflection:text:{then}"]
    record = TEMPLATES["process_conflict"](example | {"steps": [STEP, WRONG]}, Style())
    assert flags(record) == [*read, "reflection:text:image", f"refined:flow:{then}:shown"]


def test_alignment_judges_a_finished_image():
    good = {"id": "a", "prompt": "p", "image": A, "inspect": "good"}
    assert flags(TEMPLATES["process_alignment"](good, Style()))[1:] == [
        "sketch:none:none:shown", "reflection:text:stop"
    ]  # fmt: skip
    bad = TEMPLATES["process_alignment"](good | {"refine": "swap", "refined": B}, Style())
    assert flags(bad)[2:] == ["reflection:text:image", "refined:flow:stop:shown"]
    assert bad.segments[2].text.endswith("<refine>swap</refine>")


def test_styles_by_name():
    steps = {"task": "process", "id": "s", "prompt": "a cat", "steps": [STEP]}
    asked = to_record(steps, STYLES["process"]).segments[0].text
    assert asked == "Please create the image step-by-step: a cat"
    think = {"task": "t2i", "id": "s", "prompt": "a cat", "think": "one", "image": A}
    for name, reference in (("unireason", False), ("unireason_released", True)):
        record = to_record(think, STYLES[name])
        assert record.segments[0].role == "system" and "<think>" in record.segments[0].text
        assert record.segments[2].drop is reference
    edit = {"task": "edit", "id": "e", "instruction": "x", "input_image": A, "output_image": B}
    assert to_record(edit, STYLES["bagel"]).segments[0].role == "source"


# ------------------------------------------------------------------ chains of edits

HOPS = [{"instruction": "one", "image": B}, {"instruction": "two", "image": C}]


def test_every_image_of_a_chain_but_the_first_is_learned():
    record = TEMPLATES["multi_edit"]({"id": "m", "input_image": A, "hops": HOPS}, Style())
    assert flags(record) == [
        "source:none:none:shown",
        "user:none:none",
        "image:flow:none:shown",
        "user:none:none",
        "image:flow:none",
    ]
    asked = [{"instruction": "one"}]
    record = TEMPLATES["multi_edit"]({"id": "m", "input_image": A, "hops": asked}, Style())
    assert record.holes == (2,)


# ------------------------------------------------------------------ turns


def test_several_images_and_several_turns():
    turns = [
        {"image": [A, B], "question": "same?", "answer": "no"},
        {"question": "why?", "answer": "shade"},
        {"question": "sure?"},
    ]
    record = TEMPLATES["vqa"]({"id": "v", "turns": turns}, Style())
    roles = ["source", "source", "user", "answer", "user", "answer", "user", "answer"]
    assert [s.role for s in record.segments] == roles
    assert record.holes == (7,)
    assert not any(s.drop or s.gen for s in record.segments)
    assert {s.next for s in record.segments if s.role == "answer"} == {"stop"}


@pytest.mark.parametrize(
    ("name", "example", "message"),
    [
        ("vqa", {"turns": []}, "field 'turns'"),
        ("vqa", {"question": "x"}, "field 'image' is missing"),
        ("multi_edit", {"input_image": A, "hops": []}, "field 'hops'"),
        ("multi_edit", {"input_image": A, "hops": [{"image": B}]}, "field 'instruction'"),
        ("irg_initial_full", {}, "field 'prompt'"),
        ("irg_improving_thinking_understanding", {"prompt": "p", "image": A}, "'improved'"),
        ("process_conflict", {"prompt": "p", "steps": []}, "field 'steps'"),
        ("process_alignment", {"prompt": "p"}, "field 'image'"),
    ],
)
def test_wrong_examples_name_record_and_field(name, example, message):
    with pytest.raises(RecordError, match=f"record 'w'.*{message}"):
        TEMPLATES[name]({"id": "w", **example}, Style())


def test_the_world_tells_every_lesson():
    templates = {to_record(tasks.example(0, 0, task)).source for task in tasks.TASKS}
    assert set(TEMPLATES) - templates == {"multi_edit"}
